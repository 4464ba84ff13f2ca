"""Journeys go over real HTTP to a real server process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.postgres_server import PostgresServer
from tests.server import Server, use_simulated_model


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server on the embedded default."""
    async with Server(tmp_path / "data") as running:
        yield running


@pytest.fixture
def environment() -> dict[str, str]:
    """The settings of `any_server`: a module with a fixture of this name has others."""
    return {}


@pytest.fixture
async def any_server(database_url: str, tmp_path: Path, environment: dict[str, str]) -> AsyncIterator[Server]:
    """A server on each of the databases in turn."""
    async with Server(tmp_path / "data", database_url=database_url, environment=environment) as running:
        yield running


@pytest.fixture
async def http(any_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `any_server`, with the simulated model as the organization's default."""
    async with httpx.AsyncClient(base_url=any_server.url, timeout=30) as client:
        await use_simulated_model(client)
        yield client


async def _serve_simulated(server: Server) -> AsyncIterator[Server]:
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        await use_simulated_model(client)
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sqlite_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server on SQLite that this test process starts once."""
    async for server in _serve_simulated(Server(tmp_path_factory.mktemp("shared") / "data")):
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgresql_server(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> AsyncIterator[Server]:
    """A server on PostgreSQL that this test process starts once."""
    url = await postgres_server.create_database()
    async for server in _serve_simulated(Server(tmp_path_factory.mktemp("shared") / "data", database_url=url)):
        yield server


@pytest.fixture(params=["sqlite_server", "postgresql_server"])
def shared_server(request: pytest.FixtureRequest) -> Server:
    """A server on each of the databases in turn, for tests that need nothing but a session of their own."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Server)
    return server


@pytest.fixture
async def api(shared_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `shared_server`; the simulated model is the organization's default."""
    async with httpx.AsyncClient(base_url=shared_server.url, timeout=30) as client:
        yield client
