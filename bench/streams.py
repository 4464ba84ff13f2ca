"""Live text: what is added on its way, and what it takes to serve many at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from statistics import median

from bench.figures import Figures, Once, Scale
from bench.model import Script
from bench.place import Place, Stopwatch
from bench.site import LIVE, Seat, Site, Turn, direct, open_site, told
from bench.wire import Connection, connect

SLOW = Script(tokens=8, every=5)
"""A model that speaks piece by piece: the first piece is on its own, as it is with real ones."""
SHORT = Script(tokens=1)
LONG = Script(tokens=500)


@contextlib.asynccontextmanager
async def streams(place: Place, scale: Scale) -> AsyncIterator[Once]:
    """First token, one token and 500 tokens through the server, against the same asked of the model
    directly.
    """
    async with place.server() as server, open_site(server, place.model) as site:
        model = await connect(place.model)

        async def once() -> Figures:
            async with site.seats(10, LIVE) as seats:
                found = await _first(site, seats, model, scale.streams)
                found["one_token_added_ms"] = await _whole(site, seats, model, SHORT, scale.streams)
                watch = Stopwatch(server)
                found["long_added_ms"] = await _whole(site, seats, model, LONG, scale.long_streams)
                found["long_cpu_ms"] = watch.cpu() / scale.long_streams * 1e3
            return found

        yield once
        model.close()


async def _first(site: Site, seats: list[Seat], model: Connection, count: int) -> Figures:
    """The first piece, without the model's own time.

    On its way to the model and back, less what a direct call takes.
    """
    to, back, straight = [], [], []
    for i in range(count):
        turn = await seats[i % len(seats)].turn(site.desk, SLOW)
        call = await told(model)
        to.append(call.received - turn.began)
        back.append(turn.began + (turn.first or turn.total) - call.began)
        turn = await direct(model, SLOW)
        call = await told(model)
        straight.append((turn.first or turn.total) - (call.began - call.received))
    added = [there + here for there, here in zip(to, back, strict=True)]
    return {
        "first_token_added_ms": (median(added) - median(straight)) * 1e3,
        "to_model_ms": median(to) * 1e3,
        "from_model_ms": median(back) * 1e3,
    }


async def _whole(site: Site, seats: list[Seat], model: Connection, script: Script, count: int) -> float:
    """Milliseconds added to the whole of an answer; each turn next to a direct call."""
    through: list[float] = []
    straight: list[float] = []
    for i in range(count):
        through.append((await seats[i % len(seats)].turn(site.desk, script)).total)
        straight.append((await direct(model, script)).total)
    return (median(through) - median(straight)) * 1e3


@contextlib.asynccontextmanager
async def followers(place: Place, scale: Scale) -> AsyncIterator[Once]:
    """Memory and CPU of followers that only wait, each of a session of its own.

    Every round has a fresh server.
    """

    async def once() -> Figures:
        async with place.server() as server, open_site(server, place.model) as site:
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
async def crowd(place: Place, scale: Scale) -> AsyncIterator[Once]:
    """Many turns that stream for seconds, all begun at once. Every round has a fresh server."""

    async def once() -> Figures:
        async with (
            place.server() as server,
            open_site(server, place.model) as site,
            site.seats(scale.crowd, LIVE) as seats,
        ):
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
    """The most memory that the server has at any of our looks, five a second."""
    highest = 0.0
    while not done.is_set():
        highest = max(highest, site.server.rss())
        begun = time.perf_counter()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), max(0.2 - (time.perf_counter() - begun), 0.01))
    return highest
