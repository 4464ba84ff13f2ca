"""Fixtures that every folder of tests shares: real servers, started when the first test asks for one."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator

import hypothesis
import pytest
import pytest_asyncio

from perdure.cli.local_model import LocalModel, start_local_model
from tests.postgres_server import PostgresServer, postgres_server

# A shell ignores Ctrl-C in what it runs in the background, and every process inherits that: the commands that tests interrupt too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no bug, so there is no deadline; a failure prints the line that replays it.
hypothesis.settings.register_profile("perdure", deadline=None, print_blob=True)
hypothesis.settings.load_profile("perdure")


@pytest.fixture(scope="session", name="postgres_server")
def _postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server: this test process's own, or the one that PERDURE_TEST_DATABASE_URL names."""
    with postgres_server() as server:
        yield server


@pytest_asyncio.fixture
async def postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a fresh, empty database, dropped after the test."""
    url = await postgres_server.create_database()
    yield url
    await postgres_server.drop_database(url)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def local_model(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalModel]:
    """The real model server, in a process of its own, for as long as the tests run."""
    model = await start_local_model(tmp_path_factory.mktemp("local-model"))
    yield model
    await model.stop()


@pytest.fixture
def llama_url(local_model: LocalModel) -> str:
    """The real model server's base URL, which ends in `/v1`."""
    return local_model.base_url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each of the databases in turn, empty: the URL of a PostgreSQL, or nothing for SQLite in the data folder."""
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgres" else ""
