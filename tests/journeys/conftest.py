"""Fixtures of the journeys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.journeys.keyed import with_login
from tests.postgres_server import PostgresServer
from tests.server import Server

if TYPE_CHECKING:
    from everruns_sdk import Everruns

    from tests.journeys.published_client import Place


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Place]:
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    async with Server(tmp_path_factory.mktemp("sdk") / "data", database_url=url) as server:
        from tests.journeys.published_client import Place

        yield Place(server, await with_login(server))


@pytest.fixture(params=["", "/api"], ids=["root", "api"])
async def sdk(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Everruns]:
    """The published client, with each of the base URLs."""
    from everruns_sdk import Everruns

    async with Everruns(api_key=place.token, base_url=place.server.url + request.param) as client:
        yield client
