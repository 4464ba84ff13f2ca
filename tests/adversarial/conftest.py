"""After every attack, the same server process must still run, without unexpected errors in its log."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.server import Server


async def _watched(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    pid, before = server.pid, len(server.log.read_text())
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        yield client
        assert (await client.get("/health")).json()["status"] == "ok"
    assert server.pid == pid
    assert "Traceback" not in server.log.read_text()[before:]


@pytest.fixture
async def one(sqlite_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server on SQLite, for attacks that do not involve the database."""
    async for client in _watched(sqlite_server):
        yield client


@pytest.fixture
async def each(shared_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server on each of the databases in turn."""
    async for client in _watched(shared_server):
        yield client
