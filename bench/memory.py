"""Measure whether memory stays flat."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from bench.figures import Figures, Once, Scale
from bench.model import Script
from bench.requests import AT_ONCE, SESSIONS, works
from bench.site import open_site
from bench.variant import Variant
from bench.wire import Connection

TEXT = Script()


@contextlib.asynccontextmanager
async def memory(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Measure how memory grows over many requests, after a warm-up, then over turns in separate sessions."""

    async def once() -> Figures:
        async with variant.server() as server, open_site(server, variant.model) as site:
            ids = [await site.session() for _ in range(SESSIONS)]
            by_name = works(site, ids)
            mixed = [by_name["get"], by_name["get"], by_name["patch"], by_name["list"]]

            async def work(line: Connection, number: int) -> None:
                await mixed[number % len(mixed)](line, number)

            async def turn(line: Connection, _number: int) -> None:
                seat = await site.seat(over=line)
                await seat.turn(line, TEXT)
                seat.close()

            await site.at_once(AT_ONCE, scale.memory_requests // 5, work)
            await site.at_once(AT_ONCE, AT_ONCE, turn)  # loads what model calls need
            before = server.rss()
            await site.at_once(AT_ONCE, scale.memory_requests, work)
            between = server.rss()
            await site.at_once(AT_ONCE, scale.memory_turns, turn)
            await asyncio.sleep(1)
            return {"requests_mb": between - before, "turns_mb": server.rss() - between}

    yield once
