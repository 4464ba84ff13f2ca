"""Measure plain requests, 16 at a time: get, patch, create and list sessions.

The server answers a write once it is durable.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from bench.figures import Figures, Once, Scale
from bench.site import Site, open_site
from bench.variant import Stopwatch, Variant
from bench.wire import Connection

AT_ONCE = 16
SESSIONS = 1_000
"""The number of sessions in the organization."""

Work = Callable[[Connection, int], Awaitable[bytes]]


@contextlib.asynccontextmanager
async def requests(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Measure requests per second and the server's CPU per request.

    Every round uses a fresh server, so that lists keep their length.
    """

    async def once() -> Figures:
        async with variant.server() as server, open_site(server, variant.model) as site:
            ids = [await site.session() for _ in range(SESSIONS)]
            return await _measure(site, ids, scale.requests)

    yield once


def works(site: Site, ids: list[str]) -> dict[str, Work]:
    """Return the requests by name."""

    async def get(line: Connection, number: int) -> bytes:
        return await line.send("GET", f"/v1/sessions/{ids[number % len(ids)]}")

    async def patch(line: Connection, number: int) -> bytes:
        body = msgspec.json.encode({"title": f"Number {number}", "tags": ["red", "green", f"n{number}"]})
        return await line.send("PATCH", f"/v1/sessions/{ids[number % len(ids)]}", body)

    async def page(line: Connection, _number: int) -> bytes:
        return await line.send("GET", "/v1/sessions?limit=50")

    async def create(line: Connection, _number: int) -> bytes:
        return (await site.session(line)).encode()

    return {"get": get, "patch": patch, "list": page, "create": create}


async def _measure(site: Site, ids: list[str], limit: int) -> Figures:
    figures: Figures = {}
    for name, work in works(site, ids).items():
        count = limit // 4 if name == "list" else limit
        await site.at_once(AT_ONCE, AT_ONCE * 4, work)
        watch = Stopwatch(site.server)
        figures[f"{name}_per_s"] = await site.at_once(AT_ONCE, count, work)
        figures[f"{name}_cpu_ms"] = watch.cpu() / count * 1e3
    return figures
