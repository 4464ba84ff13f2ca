"""Watches that no transaction stays open while its process waits for something else (promise P6)."""

from __future__ import annotations

import asyncio
import contextlib
import time

import asyncpg

from tests.crash.fleet import Fleet

HELD = 2.0
"""Seconds for which no transaction is idle: less than a slow model call takes."""
PAUSE = 0.25
IDLE = (
    "SELECT application_name, extract(epoch FROM clock_timestamp() - state_change)::float8, query"
    " FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
)


class Transactions:
    """Looks again and again which transactions are open and idle.

    Attributes:
        looks: how often it looked.
        held: the transactions that were idle for too long, of processes that did not stand still.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.looks = 0
        self.held: list[str] = []
        self._fleet = fleet

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            # PostgreSQL is away now and then.
            with contextlib.suppress(
                OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError
            ):
                connection = await asyncpg.connect(self._fleet.url)
                try:
                    while True:
                        await self._look(connection)
                        await asyncio.sleep(PAUSE)
                finally:
                    connection.terminate()
            await asyncio.sleep(PAUSE)

    async def _look(self, connection: asyncpg.Connection) -> None:
        for name, idle, query in await connection.fetch(IDLE):
            stood_still = self._fleet.stood_still.get(name, 0.0) > time.monotonic() - idle
            if idle > HELD and not stood_still:
                self.held.append(f"{name} was idle for {idle:.1f} s after {query[:200]!r}")
        self.looks += 1
