"""Two processes of the API and three workers on one PostgreSQL, and what happens to them in a storm."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import asyncpg

from tests.crash.fleet_process import set_clock
from tests.crash.test_kills import KEY
from tests.log_lines import JSON_LOG
from tests.postgres_server import PostgresServer
from tests.server import Server

LEASE = 10.0
"""Seconds for which a process stands still: longer than its leases and heartbeats are good for."""
JUMPS = (-3600.0, -900.0, -90.0, -5.0, 5.0, 90.0, 900.0, 1800.0)
"""Seconds by which a clock is wrong after it has jumped."""
HANG_UP = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


class Fault(NamedTuple):
    """What can happen: how often compared with the others, and to which processes."""

    name: str
    weight: int
    among: list[Server]
    do: Callable[[Server], Awaitable[None]]


class Fleet:
    """The processes. Each has a clock, a name in PostgreSQL and a log of its own.

    Attributes:
        done: how often each fault happened.
        failed_starts: how often a process ended at its start, because PostgreSQL was away.
        world: the folder with the effects of tools, for `tests.crash.effects`.
        stood_still: until when a process stood still, by its name, in seconds of `time.monotonic`.
    """

    def __init__(self, chance: random.Random, database: PostgresServer, url: str, folder: Path) -> None:
        self.chance = chance
        self.database = database
        self.url = url
        self.done: Counter[str] = Counter()
        self.failed_starts = 0
        self.world = folder / "world"
        self.world.mkdir()
        self.stood_still: dict[str, float] = {}
        self.apis = [self._process(folder, "api", number) for number in range(2)]
        self.workers = [self._process(folder, "worker", number) for number in range(3)]
        self._disturbed: set[Server] = set()
        self._crashing = asyncio.Lock()
        self._at_work: set[asyncio.Task[None]] = set()

    def _process(self, folder: Path, command: str, number: int) -> Server:
        name = f"{command}-{number}"
        named = f"{self.url}?application_name={name}"
        server = Server(folder / name, database_url=named, environment={**KEY, **JSON_LOG})
        server.command = command
        clock = folder / f"{name}.clock"
        server.program = (str(Path(__file__).with_name("fleet_process.py")), str(clock), str(self.world))
        set_clock(clock, 0)
        return server

    @property
    def processes(self) -> list[Server]:
        return [*self.apis, *self.workers]

    async def start(self) -> None:
        for each in self.processes:
            await each.start()

    async def calm(self) -> None:
        """Wait until what is under way is over, and set all clocks right."""
        await asyncio.gather(*self._at_work)
        for each in self.processes:
            set_clock(Path(each.program[1]), 0)

    async def stop(self) -> None:
        await self.calm()
        for each in self.processes:
            await each.stop()

    def disturb(self) -> None:
        """Begin one of the things that happen to processes and databases. It goes on beside others."""
        possible = [
            (fault, free)
            for fault in self._faults()
            if len(free := [each for each in fault.among if each not in self._disturbed]) > 1
        ]
        if not possible:
            return
        ((fault, free),) = self.chance.choices(possible, [fault.weight for fault, _ in possible])
        task = asyncio.create_task(self._do(fault, self.chance.choice(free)))
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    def _faults(self) -> list[Fault]:
        every, crash = self.processes, self._crash_database
        return [
            Fault("kill a worker", 5, self.workers, self._restart),
            Fault("kill an API", 4, self.apis, self._restart),
            Fault("drain and restart a worker", 2, self.workers, self._drain),
            Fault("drain and restart an API", 2, self.apis, self._drain),
            Fault("stop a worker past its lease, and continue it", 3, self.workers, self._freeze),
            Fault("stop an API for as long, and continue it", 1, self.apis, self._freeze),
            Fault("cut the connections of a process", 3, every, lambda server: hang_up(server.database_url)),
            Fault("cut the connections of all processes", 1, every, lambda _: hang_up(self.url)),
            Fault("let the clock of a process jump", 3, every, self._jump),
            Fault("restart PostgreSQL with -m immediate", int(self.database.restarts), every, crash),
        ]

    async def _do(self, fault: Fault, server: Server) -> None:
        self._disturbed.add(server)
        try:
            await fault.do(server)
        finally:
            self._disturbed.discard(server)
        self.done[fault.name] += 1

    async def _restart(self, server: Server, number: int = signal.SIGKILL) -> None:
        """End a process, and start it until it serves, as a supervisor does."""
        await server.kill(number)
        while True:
            try:
                return await server.start()
            except RuntimeError:  # PostgreSQL is away
                self.failed_starts += 1

    async def _drain(self, server: Server) -> None:
        await self._restart(server, signal.SIGTERM)

    async def _freeze(self, server: Server) -> None:
        server.send(signal.SIGSTOP)
        self.stood_still[server.data.name] = float("inf")
        await asyncio.sleep(LEASE)
        server.send(signal.SIGCONT)
        self.stood_still[server.data.name] = time.monotonic()

    async def _jump(self, server: Server) -> None:
        set_clock(Path(server.program[1]), self.chance.choice((0.0, *JUMPS)))

    async def _crash_database(self, _server: Server) -> None:
        async with self._crashing:
            await self.database.restart()


async def hang_up(url: str) -> None:
    """Cut the connections to a database; only those of its `application_name` if the URL has one."""
    named = parse_qs(urlsplit(url).query).get("application_name")
    with contextlib.suppress(OSError, asyncpg.PostgresError):  # there are none while PostgreSQL is away
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(HANG_UP + (f" AND application_name = '{named[0]}'" if named else ""))
        finally:
            connection.terminate()
