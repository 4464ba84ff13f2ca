"""Measure a server's start and its idle state."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from statistics import median

from bench.figures import Figures, Once, Scale
from bench.variant import Server, Stopwatch, Variant
from bench.wire import connect


@contextlib.asynccontextmanager
async def start(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Measure the time from the process's start to its first healthy answer, then idle CPU and memory."""

    async def once() -> Figures:
        began = time.perf_counter()
        async with variant.server() as first:
            await ready(first)
            first_start = time.perf_counter() - began
            await first.stop()
            times = [await _cold(variant, first) for _ in range(scale.starts)]
        async with variant.server() as server:
            await ready(server)
            await asyncio.sleep(2)
            watch = Stopwatch(server)
            await asyncio.sleep(scale.rest)
            idle = watch.cpu() / watch.wall()
            return {
                "cold_start_s": median(times),
                "first_start_s": first_start,
                "idle_mb": server.rss(),
                "idle_cpu_pct": idle * 100,
            }

    yield once


async def _cold(variant: Variant, before: Server) -> float:
    began = time.perf_counter()
    server = await variant.start(before.settings)
    await ready(server)
    took = time.perf_counter() - began
    await server.stop()
    return took


async def ready(server: Server) -> None:
    """Wait for the first healthy answer."""
    line = await connect(server.url)
    await line.send("GET", "/health")
    line.close()
