"""What the suites here share.

Fresh databases of both kinds, a wire that can be cut, and waiting without sleeping.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from perdure.store.database import Database
from perdure.store.postgres.database import PostgresDatabase, open_postgres
from perdure.store.sqlite import open_sqlite

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds after which a test gives up waiting for an event."""


async def soon(what: Awaitable[T]) -> T:
    """Await a result that must come within `PATIENCE`."""
    async with asyncio.timeout(PATIENCE):
        return await what


async def eventually(look: Callable[[], Awaitable[T]], done: Callable[[T], bool] = bool) -> T:
    """Poll until the value is `done`."""
    async with asyncio.timeout(PATIENCE):
        while not done(seen := await look()):
            await asyncio.sleep(0.01)
        return seen


class Place:
    """The place of a new database. Each `open` returns a separate `Database`, as in another process."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.url = url
        self._opened: list[Database] = []

    async def open(self) -> Database:
        database = await open_database(self.url)
        self._opened.append(database)
        return database

    async def close(self) -> None:
        for database in self._opened:
            await database.close()


async def open_database(url: str) -> Database:
    """The database at a `postgresql://` URL, or in a file at a path."""
    if url.startswith("postgresql://"):
        return await open_postgres(url, min_size=1, max_size=8)
    return await open_sqlite(Path(url))


def postgres(database: Database) -> PostgresDatabase:
    """The same database, for tests of what only PostgreSQL does."""
    assert isinstance(database, PostgresDatabase)
    return database


class Wire:
    """A TCP relay before a server.

    `cut` breaks every connection and refuses new ones, `mend` lets them in again. `freeze` accepts everything
    and passes nothing on, as a server that is stopped does, until `thaw`.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._port = 0
        self.pumps: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    @property
    def url(self) -> str:
        user = self._target.netloc.rpartition("@")[0]
        return urlunsplit(self._target._replace(netloc=f"{user}@127.0.0.1:{self._port}"))

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for pump in list(self.pumps):
            pump.cancel()
        if self.pumps:
            await asyncio.wait(self.pumps)

    def freeze(self) -> None:
        self._flows.clear()

    def thaw(self) -> None:
        self._flows.set()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._target.hostname, self._target.port)
        pumps = [
            asyncio.create_task(_pump(reader, there[1], self._flows)),
            asyncio.create_task(_pump(there[0], writer, self._flows)),
        ]
        self.pumps.update(pumps)
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for end in (writer, there[1]):
                end.transport.abort()
            self.pumps.difference_update(pumps)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            await flows.wait()
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[Wire]:
    """Open a relay, without faults, to the server of this URL."""
    wire = Wire(url)
    await wire.mend()
    try:
        yield wire
    finally:
        await wire.cut()
