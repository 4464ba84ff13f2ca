"""Run variants of the server: pinned processes on fresh databases, with their CPU time and memory."""

from __future__ import annotations

import asyncio
import compileall
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
    """The core for the server and PostgreSQL, and the core for the client and the model. None: not pinned."""

    server: int | None
    client: int | None

    @contextlib.contextmanager
    def for_server(self) -> Iterator[None]:
        """Pin processes that start inside this context to the server's core."""
        pin(self.server)
        try:
            yield
        finally:
            pin(self.client)


def choose_cores() -> Cores:
    """Choose two different cores, if the system supports pinning and allows more than one."""
    if not hasattr(os, "sched_setaffinity"):
        return Cores(None, None)
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[-1]) if len(allowed) > 1 else Cores(None, None)


def pin(core: int | None) -> None:
    """Pin this process, and the processes that it starts from now on, to one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU seconds of these processes. The resolution is 1 ns on Linux, 10 ms elsewhere."""
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
    """A process that this benchmark started; it prints `listening on URL` once it is ready."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self.url = url

    @property
    def pids(self) -> list[int]:
        parent = psutil.Process(self._process.pid)
        return [parent.pid, *(child.pid for child in parent.children(recursive=True))]

    def cpu(self) -> float:
        """Return the CPU seconds used so far."""
        return cpu_seconds(self.pids)

    def rss(self) -> float:
        """Return the resident memory in megabytes (10^6 bytes)."""
        return float(sum(psutil.Process(pid).memory_info().rss for pid in self.pids)) / 1e6

    async def stop(self) -> None:
        """Ask the process to stop, and wait; kill it after 20 seconds."""
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
    """Start Python with these arguments and wait until it is ready. Raises RuntimeError: it exited."""
    return Process(*await _spawn(arguments, log, environment))


async def _spawn(
    arguments: list[str], log: Path, environment: dict[str, str] | None
) -> tuple[asyncio.subprocess.Process, str]:
    """Start a process; return it and the address that it listens on.

    Raises:
        RuntimeError: the process exited; the message contains the end of its log.
    """
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            # Without these, a server that finds a vendor's key would make that vendor's model the default.
            env={**os.environ, "OPENAI_API_KEY": "", "ANTHROPIC_API_KEY": "", **(environment or {})},
        )
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
    if not line.startswith("listening on "):
        output = await asyncio.to_thread(log.read_text)
        raise RuntimeError(f"{' '.join(arguments)} did not start: {line!r}\n{output[-2000:]}")
    return process, line.split()[-1]


class Server(Process):
    """A Perdure server with its settings and database."""

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
        """Return the CPU seconds of all PostgreSQL processes so far; 0 with SQLite."""
        return 0.0 if self._database is None else cpu_seconds(postgres_pids())


def postgres_pids() -> list[int]:
    """Return the process ids of the PostgreSQL server that this benchmark started."""
    mine = psutil.Process().children(recursive=True)
    return [process.pid for process in mine if process.name().startswith("postgres")]


class Variant(Struct, frozen=True):
    """A version of the server with a kind of database, to run measures on.

    Attributes:
        name: its name in the table.
        source: the folder that contains the `perdure` package, or None for the installed one.
        model: the model server's URL.
        cores: the cores to pin processes to.
        postgres: the PostgreSQL server to create databases on, or None for SQLite.
        profile: the file for a profile of the server's main thread, or None.
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
        """Run a server on a fresh database; remove both afterwards."""
        async with self.database() as settings:
            if seed is not None:
                await seed(settings)
            server = await self.start(settings, environment)
            try:
                yield server
            finally:
                await server.stop()

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator[Settings]:
        """Yield settings of servers on a fresh database and folder; remove both afterwards."""
        folder = Path(tempfile.mkdtemp(prefix="perdure-bench-"))
        url = "" if self.postgres is None else await self.postgres.create_database()
        try:
            yield Settings(data=str(folder), database_url=url, port=0)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if self.postgres is not None:
                await self.postgres.drop_database(url)

    def compile(self) -> None:
        """Compile the package: a tree without compiled files starts a third of a second later."""
        compileall.compile_dir(self.source or ROOT / "src", quiet=2)

    def newest_migration(self) -> int | None:
        """The number of the last migration of an older source; None for this one."""
        if self.source is None:
            return None
        folder = self.source / "perdure" / "store" / "migrations"
        return max(int(path.name[:4]) for path in folder.glob("*.sql"))

    def command(self) -> str:
        """Return the module that runs the command; release 0.1.0 has it elsewhere."""
        old = self.source is not None and not (self.source / "perdure" / "__main__.py").exists()
        return "perdure.cli" if old else "perdure"

    async def start(
        self, settings: Settings, environment: dict[str, str] | None = None, role: str = "serve"
    ) -> Server:
        """Start a server, or a process of one role, on this data; the caller must stop it."""
        variables = {
            "PERDURE_DATABASE_URL": settings.database_url,
            "PERDURE_LOG_LEVEL": "warning",
            **(environment or {}),
        }
        if self.source is not None:
            variables["PYTHONPATH"] = str(self.source)
        program = (
            ["-m", self.command()] if self.profile is None else ["-m", "bench.profiled", str(self.profile)]
        )
        with self.cores.for_server():
            process, listening = await _spawn(
                [*program, role, "--port", "0", "--data", settings.data],
                settings.data_folder / f"log-{role}",
                variables,
            )
        return Server(process, listening, settings, self.postgres)


class Stopwatch:
    """Measures wall time, and the server's and the database's CPU time, since its creation."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._database = server.database_cpu()
        self._cpu = server.cpu()
        self._wall = time.perf_counter()

    def wall(self) -> float:
        """Return the wall time in seconds."""
        return time.perf_counter() - self._wall

    def cpu(self) -> float:
        """Return the server's CPU seconds."""
        return self._server.cpu() - self._cpu

    def database_cpu(self) -> float:
        """Return PostgreSQL's CPU seconds."""
        return self._server.database_cpu() - self._database
