"""Fixtures that every folder of tests shares: real servers, started when the first test asks for one."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
import signal
import sys
import zlib
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import hypothesis
import pytest
import pytest_asyncio
from httpx._transports import default as transports

import perdure
from perdure.cli.local_model import LocalModel, start_local_model
from tests.bubblewrap import bubblewrap_on_path
from tests.fork_server import closing_fork_server
from tests.postgres_server import PostgresServer, postgres_server
from tests.server import MEASURED, Server, use_simulated_model
from tests.sites import Site, serving
from tests.soak import SCALE, SOAKING

if TYPE_CHECKING:
    from pytest_cov.engine import CovController

# A shell ignores Ctrl-C in what it runs in the background, and every process inherits that: the commands that
# tests interrupt too.
signal.signal(signal.SIGINT, signal.default_int_handler)

EXAMPLES = 200 * SCALE if SOAKING else 50
"""How many examples hypothesis draws for each test of a property. The soak draws more of them."""

# A busy machine is no bug, so there is no deadline; a failure prints the line that replays it.
hypothesis.settings.register_profile("perdure", max_examples=EXAMPLES, deadline=None, print_blob=True)
hypothesis.settings.load_profile("perdure")

# Each client of httpx would read all certificates anew, which takes 20 ms; tests make thousands of clients.
transports.create_ssl_context = functools.cache(transports.create_ssl_context)

# Where sniffio is not installed, httpcore looks for it in all folders several times during each request.
if importlib.util.find_spec("sniffio") is None:
    sys.modules["sniffio"] = None


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None]:
    """Stop measuring coverage: everything takes twice as long under measurement.

    What the imports of the package execute is measured before, and then the tests themselves.
    """
    measuring = _measuring(session.config)
    if measuring is not None:
        for module in pkgutil.walk_packages(perdure.__path__, "perdure."):
            importlib.import_module(module.name)
        measuring.pause()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Measure coverage while the test runs, not its fixtures and what pytest does between tests."""
    measuring = _measuring(pyfuncitem.config)
    if measuring is None or pyfuncitem.get_closest_marker("unmeasured") is not None:
        return (yield)
    measuring.resume()
    try:
        return (yield)
    finally:
        measuring.pause()


def _measuring(config: pytest.Config) -> CovController | None:
    """What measures coverage in this process, if anything does."""
    return getattr(config.pluginmanager.getplugin("_cov"), "cov_controller", None)


SERVERS = {"server", "any_server", "sqlite_server", "postgresql_server", "shared_server"}
"""Fixtures that start a server. A test with one of them runs the package in the server's process."""


REPEATED = 3
"""`make test` repeats one in so many of these tests on PostgreSQL, and the soak another one; the soak has all
others, too, with PERDURE_SOAK=2 or more."""
REPEATING = ("journeys", "adversarial", "crash")
"""Folders whose tests are repeated on PostgreSQL. Those in `conformance` always run on both databases."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose what is measured and what the soak repeats.

    Coverage is measured where the package runs: in the server's process, and in the test's own for tests of
    the Python client. Tests of properties are not measured: to draw examples takes twice as long then, and
    other tests run the same code.
    """
    left_out = []
    for item in items:
        drawn = isinstance(item, pytest.Function) and hypothesis.is_hypothesis_test(item.obj)
        served = SERVERS.intersection(getattr(item, "fixturenames", ()))
        if drawn or (served and not item.path.name.startswith("test_client")):
            item.add_marker(pytest.mark.unmeasured)
        repeats = item.path.parent.name in REPEATING and "postgres" in item.name
        turn = zlib.crc32(item.name.encode()) % REPEATED if repeats else 0
        if (drawn and SOAKING) or turn:
            item.add_marker(pytest.mark.soak)
        if SOAKING and SCALE == 1 and turn > 1:
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]
    _mark_repetitions(items)


REPETITION = pytest.StashKey[bool]()
"""Whether a test is one that runs before, with other parameters."""


def _mark_repetitions(items: list[pytest.Item]) -> None:
    tests: set[str] = set()
    for item in items:
        if item.get_closest_marker("soak") is None and "postgres" not in item.name:
            test = item.nodeid.partition("[")[0]
            item.stash[REPETITION] = test in tests
            tests.add(test)


@pytest.fixture(autouse=True)
def _measured_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the servers and commands that a test starts, not those of its repetitions.

    To start and to end take a process twice as long under measurement. A server that tests share is always
    measured: its fixture comes before this one.
    """
    if request.node.stash.get(REPETITION, False):
        monkeypatch.delenv(MEASURED, raising=False)


@pytest.fixture(scope="session")
def bubblewrap() -> Iterator[None]:
    """Has `bwrap` on the path. Skips where the machine forbids namespaces."""
    with bubblewrap_on_path():
        yield


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> Iterator[None]:
    with closing_fork_server():
        yield


@pytest.fixture(scope="session", name="postgres_server")
def _postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server: this test process's own, or the one that PERDURE_TEST_DATABASE_URL names."""
    with postgres_server() as server:
        yield server


@pytest_asyncio.fixture
async def postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a migrated database without a row."""
    async with postgres_server.migrated_database() as url:
        yield url


@pytest_asyncio.fixture
async def empty_postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a fresh database without a table, dropped after the test."""
    async with postgres_server.empty_database() as url:
        yield url


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
    """Each of the databases in turn, without a row.

    The URL of a PostgreSQL, or nothing for SQLite in the data folder.
    """
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgres" else ""


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
async def postgresql_server(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Server]:
    """A server on PostgreSQL that this test process starts once."""
    url = await postgres_server.create_database()
    async for server in _serve_simulated(
        Server(tmp_path_factory.mktemp("shared") / "data", database_url=url)
    ):
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


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A web server on this machine whose answers the test decides."""
    async with serving() as running:
        yield running
