"""Where things run.

Processes pinned to cores, a server on a fresh database, and what the system says they use.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from msgspec import Struct

from perdure.settings import Settings
from tests.postgres_server import PostgresServer

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60.0

Seed = Callable[[Settings], Awaitable[None]]
"""Fills a fresh database before its server starts."""


class Cores(Struct, frozen=True):
    """The core of the server (and of PostgreSQL), and the core of the client and the model.

    None: not pinned.
    """

    server: int | None
    client: int | None

    @contextlib.contextmanager
    def for_server(self) -> Iterator[None]:
        """What is started inside runs on the server's core."""
        pin(self.server)
        try:
            yield
        finally:
            pin(self.client)


def choose_cores() -> Cores:
    """Two different cores of those that we may use, where the system has that notion and more than one."""
    if not hasattr(os, "sched_setaffinity"):
        return Cores(None, None)
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[-1]) if len(allowed) > 1 else Cores(None, None)


def pin(core: int | None) -> None:
    """Keep this process, and what it starts from now on, on one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def cpu_seconds(pids: list[int]) -> float:
    """CPU time that these processes have used.

    On Linux to the nanosecond, else to the system's tick (10 ms).
    """
    total = 0.0
    for pid in pids:
        threads = Path(f"/proc/{pid}/task")
        with contextlib.suppress(OSError, psutil.Error):
            if threads.is_dir():
                total += (
                    sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads.iterdir())
                    / 1e9
                )
            else:
                used = psutil.Process(pid).cpu_times()
                total += used.user + used.system
    return total


class Process:
    """A process of ours that says `listening on URL` once it is ready."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self.url = url

    @property
    def pids(self) -> list[int]:
        parent = psutil.Process(self._process.pid)
        return [parent.pid, *(child.pid for child in parent.children(recursive=True))]

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        return cpu_seconds(self.pids)

    def rss(self) -> float:
        """Resident memory in megabytes (10^6 bytes)."""
        return float(sum(psutil.Process(pid).memory_info().rss for pid in self.pids)) / 1e6

    async def stop(self) -> None:
        """Ask it to end, and wait."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), 20)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


async def start_process(
    arguments: list[str], log: Path, environment: dict[str, str] | None = None
) -> Process:
    """Start Python with these arguments and wait for its line. Raises RuntimeError: it ended instead."""
    return Process(*await _spawn(arguments, log, environment))


async def _spawn(
    arguments: list[str], log: Path, environment: dict[str, str] | None
) -> tuple[asyncio.subprocess.Process, str]:
    """The process, and the address that it says it listens on.

    Raises:
        RuntimeError: it ended instead; the message has the end of its log.
    """
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            # No vendor's key: a server that finds one sets up that vendor's model, and it would be the
            # default.
            env={**os.environ, "OPENAI_API_KEY": "", "ANTHROPIC_API_KEY": "", **(environment or {})},
        )
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
    if not line.startswith("listening on "):
        said = await asyncio.to_thread(log.read_text)
        raise RuntimeError(f"{' '.join(arguments)} did not start: {line!r}\n{said[-2000:]}")
    return process, line.split()[-1]


class Server(Process):
    """A Perdure server and where its data is."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        url: str,
        settings: Settings,
        database: PostgresServer | None,
    ) -> None:
        super().__init__(process, url)
        self.settings = settings
        self._database = database

    def database_cpu(self) -> float:
        """Seconds of CPU of PostgreSQL so far, all its processes together; 0 where the database is SQLite."""
        return 0.0 if self._database is None else cpu_seconds(postgres_pids())


def postgres_pids() -> list[int]:
    """The processes of the PostgreSQL server that this benchmark has started."""
    mine = psutil.Process().children(recursive=True)
    return [process.pid for process in mine if process.name().startswith("postgres")]


class Place(Struct, frozen=True):
    """One version of the server on one kind of database: what a measure is run on.

    Attributes:
        name: what the table calls it.
        source: the folder that holds the `perdure` package, or None for the installed one.
        model: the model server's URL.
        postgres: the PostgreSQL server to make databases on, or None for SQLite.
        profile: where the server writes a profile of its main thread, or None.
    """

    name: str
    source: Path | None
    model: str
    cores: Cores
    postgres: PostgresServer | None = None
    profile: Path | None = None

    @contextlib.asynccontextmanager
    async def server(
        self, environment: dict[str, str] | None = None, seed: Seed | None = None
    ) -> AsyncIterator[Server]:
        """A server on a fresh database, gone afterwards."""
        folder = Path(tempfile.mkdtemp(prefix="perdure-bench-"))
        url = "" if self.postgres is None else await self.postgres.create_database()
        settings = Settings(data=str(folder), database_url=url, port=0)
        try:
            if seed is not None:
                await seed(settings)
            server = await self.start(settings, environment)
            try:
                yield server
            finally:
                await server.stop()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if self.postgres is not None:
                await self.postgres.drop_database(url)

    def command(self) -> str:
        """The module that is the command: 0.1.0 has it at another place."""
        old = self.source is not None and not (self.source / "perdure" / "__main__.py").exists()
        return "perdure.cli" if old else "perdure"

    async def start(self, settings: Settings, environment: dict[str, str] | None = None) -> Server:
        """Start a server on this data; the caller stops it."""
        given = {
            "PERDURE_DATABASE_URL": settings.database_url,
            "PERDURE_LOG_LEVEL": "warning",
            **(environment or {}),
        }
        if self.source is not None:
            given["PYTHONPATH"] = str(self.source)
        program = (
            ["-m", self.command()] if self.profile is None else ["-m", "bench.profiled", str(self.profile)]
        )
        with self.cores.for_server():
            process, listening = await _spawn(
                [*program, "serve", "--port", "0", "--data", settings.data],
                settings.data_folder / "log",
                given,
            )
        return Server(process, listening, settings, self.postgres)


class Stopwatch:
    """Wall time, and the server's and the database's CPU time, since it was made."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._database = server.database_cpu()
        self._cpu = server.cpu()
        self._wall = time.perf_counter()

    def wall(self) -> float:
        """Seconds."""
        return time.perf_counter() - self._wall

    def cpu(self) -> float:
        """Seconds of the server's CPU."""
        return self._server.cpu() - self._cpu

    def database_cpu(self) -> float:
        """Seconds of PostgreSQL's CPU."""
        return self._server.database_cpu() - self._database
