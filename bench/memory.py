"""Whether memory stays flat."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from bench.figures import Figures, Once, Scale
from bench.model import Script
from bench.place import Place
from bench.requests import AT_ONCE, SESSIONS, works
from bench.site import open_site
from bench.wire import Connection

TEXT = Script()


@contextlib.asynccontextmanager
async def memory(place: Place, scale: Scale) -> AsyncIterator[Once]:
    """Memory gained over many requests after a fifth as many to warm up.

    Then over turns, each in a session of its own.
    """

    async def once() -> Figures:
        async with place.server() as server, open_site(server, place.model) as site:
            ids = [await site.session() for _ in range(SESSIONS)]
            found = works(site, ids)
            mixed = [found["get"], found["get"], found["patch"], found["list"]]

            async def work(line: Connection, number: int) -> None:
                await mixed[number % len(mixed)](line, number)

            async def turn(line: Connection, _number: int) -> None:
                seat = await site.seat(over=line)
                await seat.turn(line, TEXT)
                seat.close()

            await site.at_once(AT_ONCE, scale.memory_requests // 5, work)
            before = server.rss()
            await site.at_once(AT_ONCE, scale.memory_requests, work)
            between = server.rss()
            await site.at_once(AT_ONCE, scale.memory_turns, turn)
            await asyncio.sleep(1)
            return {"requests_mb": between - before, "turns_mb": server.rss() - between}

    yield once
