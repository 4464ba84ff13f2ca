"""Measure streams: the latency that the server adds, and what it takes to serve many streams at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from statistics import median

from bench.figures import Figures, Once, Scale
from bench.model import Script
from bench.site import LIVE, Seat, Site, Turn, direct, model_stats, open_site
from bench.variant import Stopwatch, Variant
from bench.wire import Connection, connect

SLOW = Script(tokens=8, every=5)
"""A model that sends piece by piece, so that the first piece arrives alone, as with real models."""
SHORT = Script(tokens=1)
LONG = Script(tokens=500)


@contextlib.asynccontextmanager
async def streams(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Compare the first token, one token and 500 tokens through the server with direct calls of the model."""
    async with variant.server() as server, open_site(server, variant.model) as site:
        model = await connect(variant.model)

        async def once() -> Figures:
            async with site.seats(10, LIVE) as seats:
                figures = await _first(site, seats, model, scale.streams)
                figures["one_token_added_ms"] = await _whole(site, seats, model, SHORT, scale.streams)
                watch = Stopwatch(server)
                figures["long_added_ms"] = await _whole(site, seats, model, LONG, scale.long_streams)
                figures["long_cpu_ms"] = watch.cpu() / scale.long_streams * 1e3
            return figures

        yield once
        model.close()


async def _first(site: Site, seats: list[Seat], model: Connection, count: int) -> Figures:
    """Measure the latency of the first piece, to the model and back, minus that of a direct call.

    The model's own time is not counted.
    """
    to, back, straight = [], [], []
    for i in range(count):
        turn = await seats[i % len(seats)].turn(site.desk, SLOW)
        call = await model_stats(model)
        to.append(call.received - turn.began)
        back.append(turn.began + (turn.first or turn.total) - call.began)
        turn = await direct(model, SLOW)
        call = await model_stats(model)
        straight.append((turn.first or turn.total) - (call.began - call.received))
    added = [there + here for there, here in zip(to, back, strict=True)]
    return {
        "first_token_added_ms": (median(added) - median(straight)) * 1e3,
        "to_model_ms": median(to) * 1e3,
        "from_model_ms": median(back) * 1e3,
    }


async def _whole(site: Site, seats: list[Seat], model: Connection, script: Script, count: int) -> float:
    """Return the milliseconds that the server adds to a whole answer; alternate turns with direct calls."""
    through: list[float] = []
    straight: list[float] = []
    for i in range(count):
        through.append((await seats[i % len(seats)].turn(site.desk, script)).total)
        straight.append((await direct(model, script)).total)
    return (median(through) - median(straight)) * 1e3


@contextlib.asynccontextmanager
async def followers(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Measure memory and CPU of idle followers of separate sessions. Every round uses a fresh server."""

    async def once() -> Figures:
        async with variant.server() as server, open_site(server, variant.model) as site:
            await (await site.seat()).turn(site.desk, SHORT)
            ids = [await site.session() for _ in range(scale.followers)]
            await asyncio.sleep(0.5)
            before = server.rss()
            feeds = [await connect(server.url) for _ in ids]
            for session_id, feed in zip(ids, feeds, strict=True):
                feed.follow("GET", f"/v1/sessions/{session_id}/sse")
            for feed in feeds:
                await feed.frame()
            await asyncio.sleep(1)
            after = server.rss()
            watch = Stopwatch(server)
            await asyncio.sleep(scale.rest)
            busy = watch.cpu() / watch.wall()
            for feed in feeds:
                feed.close()
            return {"follower_kb": (after - before) * 1e3 / len(ids), "followers_cpu_pct": busy * 100}

    yield once


@contextlib.asynccontextmanager
async def crowd(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Start many turns at once that stream for several seconds. Every round uses a fresh server."""

    async def once() -> Figures:
        async with (
            variant.server() as server,
            open_site(server, variant.model) as site,
            site.seats(scale.crowd, LIVE) as seats,
        ):
            await (await site.seat()).turn(site.desk, SHORT)  # what is loaded once is no memory of a stream
            await asyncio.sleep(0.5)
            before = server.rss()
            done = asyncio.Event()
            highest = asyncio.create_task(_highest(site, done))
            watch = Stopwatch(server)
            turns = await _all_at_once(site, seats, Script(tokens=scale.crowd_seconds, every=1000))
            wall, cpu = watch.wall(), watch.cpu()
            done.set()
            good = [turn for turn in turns if turn is not None]
            firsts = [(turn.first or turn.total) - 1.0 for turn in good]  # the model itself waits a second
            return {
                "crowd_done_pct": len(good) / len(turns) * 100,
                "crowd_first_token_ms": median(firsts) * 1e3 if firsts else float("nan"),
                "crowd_last_first_token_ms": max(firsts) * 1e3 if firsts else float("nan"),
                "crowd_late_s": wall - scale.crowd_seconds,
                "crowd_stream_kb": (await highest - before) * 1e3 / len(turns),
                "crowd_cpu_pct": cpu / wall * 100,
            }

    yield once


async def _all_at_once(site: Site, seats: list[Seat], script: Script) -> list[Turn | None]:
    lines = [await connect(site.server.url) for _ in seats]

    async def one(seat: Seat, line: Connection) -> Turn | None:
        try:
            async with asyncio.timeout(script.tokens * script.every / 1e3 + 60):
                return await seat.turn(line, script)
        except (RuntimeError, ConnectionError, TimeoutError):
            return None

    turns = await asyncio.gather(*(one(seat, line) for seat, line in zip(seats, lines, strict=True)))
    for line in lines:
        line.close()
    return turns


async def _highest(site: Site, done: asyncio.Event) -> float:
    """Return the server's maximum memory, sampled five times a second."""
    highest = 0.0
    while not done.is_set():
        highest = max(highest, site.server.rss())
        begun = time.perf_counter()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), max(0.2 - (time.perf_counter() - begun), 0.01))
    return highest
