"""Two processes of the API and three workers on one PostgreSQL, of which one is disturbed all the time.

`make storm` makes it large, and prints what happened.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from tests.crash.checks import check_rows, check_storm
from tests.crash.storm import Storm, seed
from tests.crash.test_kills import KEY, prepare
from tests.crash.test_lost_connections import HANG_UP
from tests.server import Server
from tests.soak import SCALE

LEASE = 10.0
"""Seconds for which a process stands still: longer than its leases and heartbeats are good for."""
LARGE = int(os.environ.get("PERDURE_STORM") or 0)
"""The number of sessions of a large storm; 0 for the short one of the soak."""


class Fleet:
    """The processes, and what is done to them."""

    def __init__(self, chance: random.Random, url: str, folder: Path) -> None:
        self.chance = chance
        self.url = url
        self.apis = [self._process(folder, "api", number) for number in range(2)]
        self.workers = [self._process(folder, "worker", number) for number in range(3)]
        self.done: Counter[str] = Counter()
        self._still: set[asyncio.Task[None]] = set()

    def _process(self, folder: Path, command: str, number: int) -> Server:
        server = Server(folder / f"{command}-{number}", database_url=self.url, environment=KEY)
        server.command = command
        return server

    async def start(self) -> None:
        for each in (*self.apis, *self.workers):
            await each.start()

    async def stop(self) -> None:
        await asyncio.gather(*self._still)
        for each in (*self.apis, *self.workers):
            await each.stop()

    async def disturb(self) -> None:
        """Do one of the things that happen to processes."""
        faults = {
            "kill a worker": self._kill_a_worker,
            "kill an API": self._kill_an_api,
            "drain a worker": self._drain_a_worker,
            "drain an API": self._drain_an_api,
            "stop a worker past its lease": self._freeze,
            "cut all connections": self._hang_up,
        }
        name = self.chance.choice(list(faults))
        await faults[name]()
        self.done[name] += 1

    async def _kill_a_worker(self) -> None:
        await self.chance.choice(self._awake()).restart()

    async def _kill_an_api(self) -> None:
        await self.chance.choice(self.apis).restart()

    async def _drain_a_worker(self) -> None:
        await self.chance.choice(self._awake()).restart(signal.SIGTERM)

    async def _drain_an_api(self) -> None:
        await self.chance.choice(self.apis).restart(signal.SIGTERM)

    async def _hang_up(self) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(HANG_UP)
        finally:
            await connection.close()

    async def _freeze(self) -> None:
        """Stop a worker while the storm goes on; the others take its turns over."""
        if self._still:
            return  # one at a time
        server = self.chance.choice(self.workers)
        server.send(signal.SIGSTOP)

        async def thaw() -> None:
            await asyncio.sleep(LEASE)
            server.send(signal.SIGCONT)

        task = asyncio.create_task(thaw(), name=str(self.workers.index(server)))
        self._still.add(task)
        task.add_done_callback(self._still.discard)

    def _awake(self) -> list[Server]:
        frozen = {int(task.get_name()) for task in self._still}
        return [each for number, each in enumerate(self.workers) if number not in frozen]


@pytest.mark.soak
async def test_processes_with_roles_lose_and_double_nothing(postgres_url: str, tmp_path: Path) -> None:
    chance = random.Random(seed())
    fleet = Fleet(chance, postgres_url, tmp_path)
    await fleet.start()
    try:
        await prepare(fleet.apis[0])
        size = {"sessions": LARGE, "clients": 16} if LARGE else {"sessions": 12, "clients": 6}
        urls = [each.url for each in fleet.apis]
        storm = Storm(urls, chance, crashes=60 if LARGE else 12 * SCALE, **size)
        await storm.run(fleet.disturb)
        await check_storm(storm, urls[0], may_seal=True)
    finally:
        await fleet.stop()
    await check_rows(storm, tmp_path, postgres_url)
    print_report(storm, fleet)


def print_report(storm: Storm, fleet: Fleet) -> None:
    """Print what happened, and what was counted after it."""
    acknowledged = sum(len(session.acknowledged) for session in storm.sessions)
    events = [event for session in storm.sessions for event in session.seen]
    kinds = Counter(event["type"] for event in events)
    lines = [
        ("sessions", len(storm.sessions)),
        *sorted(fleet.done.items()),
        ("messages acknowledged, each of them in its log once", acknowledged),
        ("turns that ended, each of them once", kinds["turn.completed"] + kinds["turn.sealed"]),
        ("of these sealed", kinds["turn.sealed"]),
        ("model calls with one answer", kinds["llm.generation"]),
        ("tool calls with one result", kinds["tool.completed"]),
        ("events that followers saw, without a gap", len(events)),
    ]
    width = max(len(name) for name, _ in lines)
    print("\n" + "\n".join(f"{name:{width}} {count:>8,}" for name, count in lines))
