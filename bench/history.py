"""Measure what a session's age costs."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from statistics import median

import asyncpg

from bench.figures import Figures, Once, Scale
from bench.model import Script
from bench.site import Seat, Site, model_stats, open_site
from bench.variant import Server, Stopwatch, Variant
from bench.wire import connect

TEXT = Script()
WINDOW = 400
"""Maximum history tokens of a model call, about 20 messages, in the measures with a bounded window."""
BLOCK = 10
"""Turns before switching between the old and the young session, so that noise affects both."""
YOUNG = 15
"""Turns that fill a young session's window before the comparison."""
EVENTS_A_TURN = 11


@contextlib.asynccontextmanager
async def history(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Compare an old session with an empty one, with a bounded window and with the whole history sent.

    Also measure the bytes per turn.
    """
    bounded = {"PERDURE_HISTORY_TOKENS": str(WINDOW)}
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(variant.server(bounded))
        async with open_site(first, variant.model) as site:
            old_id = (await _aged(site, scale.old_events // EVENTS_A_TURN)).session_id
        await first.stop()
        server = await variant.start(first.settings, bounded)
        stack.push_async_callback(server.stop)
        site = await stack.enter_async_context(open_site(server, variant.model))
        await (await site.seat()).turn(site.desk, TEXT)
        old = await site.seat_of(old_id)
        cold = (await old.turn(site.desk, TEXT)).total
        whole = await stack.enter_async_context(variant.server())
        whole_site = await stack.enter_async_context(open_site(whole, variant.model))
        long = await _aged(whole_site, scale.old_messages // 2)

        async def once() -> Figures:
            figures = await _old_and_young(site, old, scale.history_turns // BLOCK)
            figures["turn_bytes"] = await _bytes(site, scale.history_turns * 4)
            figures |= await _messages(variant, whole_site, long, scale)
            figures["old_cold_ms"] = cold * 1e3
            return figures

        yield once


async def _aged(site: Site, turns: int) -> Seat:
    """Create a session with this many turns."""
    seat = await site.seat()
    for _ in range(turns):
        await seat.turn(site.desk, TEXT)
    return seat


async def _old_and_young(site: Site, old: Seat, blocks: int) -> Figures:
    cpu: dict[str, list[float]] = {"old": [], "young": []}
    wall: dict[str, list[float]] = {"old": [], "young": []}
    for _ in range(blocks):
        young = await site.seat()
        for _ in range(YOUNG):
            await young.turn(site.desk, TEXT)
        for name, seat in (("old", old), ("young", young)):
            await seat.turn(site.desk, TEXT)
            watch = Stopwatch(site.server)
            wall[name] += [(await seat.turn(site.desk, TEXT)).total for _ in range(BLOCK)]
            cpu[name].append(watch.cpu() + watch.database_cpu())
        young.close()
    return {
        "old_cpu_ratio": median(cpu["old"]) / median(cpu["young"]),
        "old_wall_ratio": median(wall["old"]) / median(wall["young"]),
    }


async def _messages(variant: Variant, site: Site, long: Seat, scale: Scale) -> Figures:
    """Compare a turn that sends all old messages with a turn in a young session."""
    times: dict[str, list[float]] = {"long": [], "young": []}
    cpu: dict[str, list[float]] = {"long": [], "young": []}
    for _ in range(max(scale.history_turns // BLOCK // 2, 1)):
        young = await site.seat()
        for name, seat in (("long", long), ("young", young)):
            await seat.turn(site.desk, TEXT)
            watch = Stopwatch(site.server)
            times[name] += [(await seat.turn(site.desk, TEXT)).total for _ in range(BLOCK)]
            cpu[name].append(watch.cpu() / BLOCK)
            if name == "long":
                await _check_sent(variant, scale.old_messages)
        young.close()
    return {
        "messages_added_ms": (median(times["long"]) - median(times["young"])) * 1e3,
        "messages_added_cpu_ms": (median(cpu["long"]) - median(cpu["young"])) * 1e3,
    }


async def _check_sent(variant: Variant, messages: int) -> None:
    line = await connect(variant.model)
    stats = await model_stats(line)
    line.close()
    if stats.messages < messages:
        raise RuntimeError(f"the model got {stats.messages} messages, not {messages}")


async def _bytes(site: Site, turns: int) -> float:
    """Measure how many bytes the database grows per turn, indexes included."""
    async with site.seats(10) as seats:
        before = await _size(site.server)
        for i in range(turns):
            await seats[i % len(seats)].turn(site.desk, TEXT)
        return (await _size(site.server) - before) / turns


async def _size(server: Server) -> int:
    settings = server.settings
    if settings.database_url:
        connection = await asyncpg.connect(settings.database_url)
        try:
            return int(
                await connection.fetchval(
                    "SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
                    " WHERE relname IN ('events', 'sessions')"
                )
            )
        finally:
            await connection.close()
    with contextlib.closing(sqlite3.connect(settings.data_folder / "perdure.db")) as connection:
        pages, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
        )
        return int(pages * size)
