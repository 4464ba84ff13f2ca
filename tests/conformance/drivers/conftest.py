"""Fixtures of the driver suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from perdure.llm.driver import Driver, ProviderConfig
from perdure.llm.http import Http
from perdure.llm.registry import make_driver
from tests.conformance.drivers.converse import EVERY_WIRE
from tests.conformance.drivers.protocols import ALL_WIRES, Wire
from tests.conformance.drivers.vendor import Vendor, open_vendor

API_KEY = "sk-very-secret-0123456789"

Connect = Callable[..., Driver]


@pytest_asyncio.fixture
async def vendor() -> AsyncIterator[Vendor]:
    """A scripted vendor."""
    async with open_vendor() as opened:
        yield opened


@pytest_asyncio.fixture
async def http() -> AsyncIterator[Http]:
    """A connection pool with short timeouts."""
    pool = Http(connect_timeout=2, read_timeout=5)
    yield pool
    await pool.close()


@pytest.fixture(params=EVERY_WIRE, ids=lambda wire: wire.provider_type)
def wire(request: pytest.FixtureRequest) -> Wire:
    """Each protocol in turn."""
    protocol: Wire = request.param
    return protocol


@pytest.fixture(params=ALL_WIRES, ids=lambda wire: wire.provider_type)
def sse_wire(request: pytest.FixtureRequest) -> Wire:
    """Each protocol that streams server-sent events in turn."""
    protocol: Wire = request.param
    return protocol


@pytest.fixture
def connect(vendor: Vendor, http: Http) -> Connect:
    """Create drivers of a provider type for the scripted vendor."""

    def make(provider_type: str, pool: Http = http, **options: object) -> Driver:
        return make_driver(ProviderConfig(provider_type, f"{vendor.url}/v1", API_KEY, dict(options)), pool)

    return make
