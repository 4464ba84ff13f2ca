"""Measure where one process ends: thousands of streams, of followers, and of turns whose process dies.

These take minutes and much memory, so they run only if they are named.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from statistics import median

import asyncpg
from msgspec import Struct

from bench.figures import AT_ONCE, DECILES, Figures, Once, Scale, nothing, tail
from bench.model import Script
from bench.site import LIVE, WHOLE, Seat, Site, Turn, open_site
from bench.turns import play_crowd
from bench.variant import Server, Stopwatch, Variant
from bench.wire import Connection, connect

SHORT = Script(tokens=1)
NO_LIMITS = {"PERDURE_MAX_TURNS": "20000", "PERDURE_MAX_ACTIVE_TURNS": "0", "PERDURE_MAX_OPEN_SESSIONS": "0"}
LINES = 100
"""Connections that messages are sent over."""
RECOVERED_IN = 60.0
"""Seconds after which a turn counts as not recovered."""
ARRIVALS = 200
"""Turns that begin in a second, until all of them stream."""
LOOK = 0.1
"""Seconds between two looks at the database."""
SCRAPE = 1.0
"""Seconds between two reads of the metrics."""


@contextlib.asynccontextmanager
async def surge(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Let thousands of turns stream at the same time. Every round uses a fresh server."""

    async def once() -> Figures:
        played = await stream_at_once(variant, scale.surge, scale.surge_seconds)
        whole = played.highs[-2 * scale.surge_seconds :]  # twice a second, while all of them stream
        third = len(whole) // 3
        return {
            "surge_done_pct": played.done / scale.surge * 100,
            "surge_first_token_ms": median(played.firsts) * 1e3,
            "surge_p99_first_token_ms": tail(played.firsts) * 1e3,
            "surge_stream_kb": (max(played.highs) - played.before) * 1e3 / scale.surge,
            "surge_growth_mb": median(whole[-third:]) - median(whole[:third]),
            "surge_cpu_pct": played.cpu_pct,
        }

    yield once


class Played(Struct, frozen=True):
    """What streams at once were like.

    Attributes:
        done: how many completed.
        firsts: seconds to the first token of each, without the model's own.
        before: megabytes of the server's memory before they began.
        highs: the same, twice a second meanwhile.
        cpu_pct: the server's processor time, of one core.
    """

    done: int
    firsts: list[float]
    before: float
    highs: list[float]
    cpu_pct: float


async def stream_at_once(variant: Variant, count: int, seconds: int) -> Played:
    """Let so many turns stream at the same time for some seconds on a fresh server.

    They begin one after another, `ARRIVALS` in a second, and stream a token a second until all have done so
    for that long.
    """
    async with variant.server(NO_LIMITS) as server, open_site(server, variant.model) as site:
        seats = await _seats(site, count, LIVE)
        await (await site.seat()).turn(site.desk, SHORT)
        before = server.rss()
        script = Script(tokens=count // ARRIVALS + seconds, every=1000, first=1000)
        watch = Stopwatch(server)
        playing = asyncio.create_task(_play_all(site, seats, script, ARRIVALS))
        highs = await _highs(server, playing)
        cpu_pct = watch.cpu() / watch.wall() * 100
        turns = [turn for turn in await playing if turn is not None]
        firsts = [(turn.first or turn.total) - 2.0 for turn in turns]  # the model's own two seconds
        for seat in seats:
            seat.close()
        return Played(len(turns), firsts or [float("nan")], before, highs, cpu_pct)


@contextlib.asynccontextmanager
async def crowds(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Let more and more turns stream at once, each number on a fresh server."""

    async def once() -> Figures:
        figures: Figures = {}
        for count in scale.crowds:
            played = await stream_at_once(variant, count, 10)
            figures[f"crowds_first_ms_{count}"] = median(played.firsts) * 1e3
            figures[f"crowds_p99_ms_{count}"] = tail(played.firsts) * 1e3
            figures[f"crowds_mb_{count}"] = max(played.highs)
            figures[f"crowds_cpu_pct_{count}"] = played.cpu_pct
        return figures

    yield once


@contextlib.asynccontextmanager
async def sweep(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Play more and more turns at once."""
    async with variant.server(NO_LIMITS) as server, open_site(server, variant.model) as site:

        async def once() -> Figures:
            figures: Figures = {}
            for count in AT_ONCE:
                rate, cpu, database = await play_crowd(site, count, scale.swept_turns)
                figures[f"sweep_per_s_{count}"], figures[f"sweep_cpu_ms_{count}"] = rate, cpu
                if database:
                    figures[f"sweep_database_ms_{count}"] = database
            return figures

        yield once


async def _seats(site: Site, count: int, kinds: Sequence[str] = WHOLE) -> list[Seat]:
    """Create and follow sessions, some at a time."""
    lines = [await connect(site.server.url) for _ in range(LINES)]
    numbers, seats = iter(range(count)), list[Seat]()

    async def worker(line: Connection) -> None:
        for _ in numbers:
            seats.append(await site.seat(kinds, line))

    await asyncio.gather(*map(worker, lines))
    for line in lines:
        line.close()
    return seats


async def _play_all(
    site: Site, seats: list[Seat], script: Script, arrivals: float = float("inf")
) -> list[Turn | None]:
    """Send a message to each session over some connections, so many in a second; return the turns."""
    lines = [await connect(site.server.url) for _ in range(LINES)]
    free = asyncio.Queue[Connection]()
    for line in lines:
        free.put_nowait(line)

    async def one(number: int, seat: Seat) -> Turn | None:
        await asyncio.sleep(number / arrivals)
        try:
            async with asyncio.timeout((script.first + script.tokens * script.every) / 1e3 + 120):
                return await seat.turn_over(free, script)
        except (RuntimeError, ConnectionError, TimeoutError):
            return None

    turns = await asyncio.gather(*(one(number, seat) for number, seat in enumerate(seats)))
    for line in lines:
        line.close()
    return turns


async def _highs(server: Server, playing: asyncio.Task[list[Turn | None]]) -> list[float]:
    """The server's memory twice a second until the task is done, in megabytes."""
    found = []
    while not playing.done():
        found.append(server.rss())
        await asyncio.wait([playing], timeout=0.5)
    return found


@contextlib.asynccontextmanager
async def audience(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Let ten followers watch each of many sessions while each has a turn."""

    async def once() -> Figures:
        async with variant.server(NO_LIMITS) as server, open_site(server, variant.model) as site:
            seats = await _seats(site, scale.watched)
            await asyncio.sleep(0.5)
            before = server.rss()
            feeds = await _followers(site, seats)
            memory = (server.rss() - before) * 1e3 / len(feeds)
            watch = Stopwatch(server)
            ends = [asyncio.create_task(_end_of(feed)) for feed in feeds]
            began = time.perf_counter()
            turns = [turn for turn in await _play_all(site, seats, SHORT) if turn is not None]
            own = max(turn.began + turn.total for turn in turns)
            last = max(await asyncio.gather(*ends))
            cpu = watch.cpu()
            for each in (*seats, *feeds):
                each.close()
            return {
                "audience_kb": memory,
                "audience_all_s": last - began,
                "audience_behind_ms": (last - own) * 1e3,
                "audience_frame_us": cpu / (len(feeds) * len(WHOLE)) * 1e6,
            }

    yield once


async def _followers(site: Site, seats: list[Seat]) -> list[Connection]:
    feeds = []
    for seat in seats:
        for _ in range(9):  # the seat itself is the tenth
            feed = await connect(site.server.url)
            kinds = "&".join(f"types={kind}" for kind in WHOLE)
            feed.follow("GET", f"/v1/sessions/{seat.session_id}/sse?{kinds}")
            feeds.append(feed)
            if len(feeds) % LINES == 0:
                await feeds[-1].frame()
    for number, feed in enumerate(feeds, 1):
        if number % LINES:
            await feed.frame()
    return feeds


async def _end_of(feed: Connection) -> float:
    while (frame := await feed.frame()).event != "turn.completed":
        pass
    return frame.at


@contextlib.asynccontextmanager
async def takeover(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Kill a process with many turns at work, and measure when another one goes on with each. PostgreSQL."""
    if variant.postgres is None:
        yield nothing
        return
    yield partial(_takeover, variant, scale)


async def _takeover(variant: Variant, scale: Scale) -> Figures:
    environment = {**NO_LIMITS, "PERDURE_MASTER_KEY": "11" * 32}
    async with variant.server(environment) as server, open_site(server, variant.model) as site:
        seats = await _seats(site, scale.taken_over)
        lines = [await connect(server.url) for _ in range(LINES)]
        script = Script(tokens=60, every=1000)
        for number in range(0, len(seats), LINES):
            some = zip(lines, seats[number : number + LINES], strict=False)
            await asyncio.gather(*(seat.say(line, script) for line, seat in some))
        database = await asyncpg.connect(server.settings.database_url)
        try:
            await _until_at_work(database, len(seats))
            other = await variant.start(server.settings, environment)
            try:
                await asyncio.sleep(3)  # all turns have their leases by now
                os.kill(server.pids[0], signal.SIGKILL)
                return _figures(await _claims(database, len(seats)))
            finally:
                await other.stop()
        finally:
            await database.close()


async def _until_at_work(database: asyncpg.Connection, count: int) -> None:
    """Wait until so many turns have made their first append."""
    sql, working = "SELECT COUNT(*) FROM sessions WHERE status = 'active' AND epoch = 1", 0
    while working < count:
        await asyncio.sleep(LOOK)
        working = await database.fetchval(sql)


async def _claims(database: asyncpg.Connection, count: int) -> list[float]:
    """The seconds after which each turn was claimed by another process."""
    began, found = time.perf_counter(), list[float]()
    while len(found) < count and time.perf_counter() - began < RECOVERED_IN:
        claimed = await database.fetchval("SELECT COUNT(*) FROM sessions WHERE epoch > 1")
        found += [time.perf_counter() - began] * (claimed - len(found))
        await asyncio.sleep(LOOK)
    return found + [RECOVERED_IN] * (count - len(found))


def _figures(claims: list[float]) -> Figures:
    deciles = {f"takeover_{share}_s": tail(claims, (share - 1) / 100) for share in DECILES}
    return {"takeover_s": median(claims), "takeover_p99_s": tail(claims), **deciles}


@contextlib.asynccontextmanager
async def observed(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Compare turns with and without a log of requests and turns, and metrics that are read every second."""
    seen = {"PERDURE_LOG_LEVEL": "info", "PERDURE_LOG_FORMAT": "json"}
    async with (
        variant.server({"PERDURE_LOG_LEVEL": "error"}) as quiet,
        variant.server(seen) as seen_server,
        open_site(quiet, variant.model) as one,
        open_site(seen_server, variant.model) as two,
    ):
        seats = [await one.seat(), await two.seat()]
        scraping = asyncio.create_task(_scrape(seen_server))

        async def once() -> Figures:
            used = [0.0, 0.0]
            for number in range(scale.turns // 5):
                for at in (0, 1) if number % 2 else (1, 0):
                    site, seat = (one, two)[at], seats[at]
                    watch = Stopwatch(site.server)
                    for _ in range(10):
                        await seat.turn(site.desk, SHORT)
                    used[at] += watch.cpu()
            return {"observed_ratio": used[1] / used[0]}

        yield once
        scraping.cancel()


async def _scrape(server: Server) -> None:
    line = await connect(server.url)
    while True:
        await line.send("GET", "/metrics")
        await asyncio.sleep(SCRAPE)
