"""Fixtures for suites that run on each implementation of a port: `database` is SQLite, then PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from perdure.store.database import Database
from perdure.store.migrate import migrate
from tests.conformance.desk import Desk
from tests.conformance.places import Place
from tests.postgres_server import PostgresServer

if TYPE_CHECKING:
    from tests.hooks import Office, Receiver


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """An empty database that a test may open several times: migrated if the test takes `database`."""
    if request.param == "sqlite":
        place = Place("sqlite", str(tmp_path / "perdure.db"))
        yield place
        await place.close()
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    migrated = "database" in request.fixturenames
    async with server.migrated_database() if migrated else server.empty_database() as url:
        place = Place("postgres", url)
        yield place
        await place.close()


@pytest_asyncio.fixture
async def database(place: Place) -> Database:
    """A migrated database: SQLite, then PostgreSQL."""
    database = await place.open()
    await migrate(database)
    return database


@pytest_asyncio.fixture
async def postgres_place(empty_postgres_url: str) -> AsyncIterator[Place]:
    """An empty PostgreSQL database, for tests of what only it does."""
    place = Place("postgres", empty_postgres_url)
    yield place
    await place.close()


@pytest.fixture
async def desk(database: Database) -> Desk:
    """A workspace with files, on each of the databases in turn."""
    return await Desk(database).open()


@pytest_asyncio.fixture
async def office(place: Place, database: Database, tmp_path: Path) -> AsyncIterator[Office]:
    """A session whose tasks webhooks hear of."""
    from tests.hooks import office as open_office

    async with open_office(tmp_path / "data", place.url if place.kind == "postgres" else "") as opened:
        yield opened


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver of webhooks."""
    from tests.hooks import receiving

    async with receiving() as opened:
        yield opened
