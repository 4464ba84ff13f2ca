"""Journeys go over real HTTP to a real server process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.server import Server, use_simulated_model


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server on the embedded default."""
    async with Server(tmp_path / "data") as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
async def any_server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    """A server on each of the databases in turn."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with Server(tmp_path / "data", database_url=url) as running:
        yield running


@pytest.fixture
async def http(any_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `any_server`, with the simulated model as the organization's default."""
    async with httpx.AsyncClient(base_url=any_server.url, timeout=30) as client:
        await use_simulated_model(client)
        yield client
