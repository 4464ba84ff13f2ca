"""Measure what a turn costs: alone, many at once, and per round of tools."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from statistics import median

from bench.figures import Figures, Once, Scale, tail
from bench.model import Script
from bench.site import Seat, Site, open_site
from bench.variant import Stopwatch, Variant

TEXT = Script()
ROUNDS = 5
TOOLS = Script(tools=ROUNDS)


@contextlib.asynccontextmanager
async def turns(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Measure text turns and tool rounds with a model that answers immediately.

    Sessions are young, and their followers connect before the measurement starts.
    """
    async with variant.server() as server, open_site(server, variant.model) as site:

        async def once() -> Figures:
            figures = await _one_at_a_time(site, scale)
            for count in (16, 64):
                rate, cpu, _ = await play_crowd(site, count, scale.turns_at_once)
                figures[f"turns_per_s_{count}"], figures[f"turns_cpu_ms_{count}"] = rate, cpu
            return figures

        yield once


async def _one_at_a_time(site: Site, scale: Scale) -> Figures:
    async with site.seats(20) as seats:
        await _play(site, seats, TEXT, 20)
        watch = Stopwatch(site.server)
        text = await _play(site, seats, TEXT, scale.turns)
        text_cpu, text_database = watch.cpu() / scale.turns, watch.database_cpu() / scale.turns
        watch = Stopwatch(site.server)
        tools = await _play(site, seats, TOOLS, scale.tool_turns)
        tools_cpu = watch.cpu() / scale.tool_turns
    only = {"turn_database_cpu_ms": text_database * 1e3} if text_database else {}
    return {
        **only,
        "turn_ms": median(text) * 1e3,
        "turn_p99_ms": tail(text) * 1e3,
        "turn_cpu_ms": text_cpu * 1e3,
        "round_ms": (median(tools) - median(text)) / ROUNDS * 1e3,
        "round_cpu_ms": (tools_cpu - text_cpu) / ROUNDS * 1e3,
    }


async def _play(site: Site, seats: list[Seat], script: Script, count: int) -> list[float]:
    return [(await seats[i % len(seats)].turn(site.desk, script)).total for i in range(count)]


async def play_crowd(site: Site, count: int, limit: int) -> tuple[float, float, float]:
    """Play turns, `count` at a time; each worker uses eight sessions.

    Returns:
        Turns per second, and the CPU milliseconds per turn of the server and of PostgreSQL.
    """
    async with site.seats(count * 8) as seats:
        await site.play(seats, count, count * 2, TEXT)
        watch = Stopwatch(site.server)
        rate = await site.play(seats, count, limit, TEXT)
        return rate, watch.cpu() / limit * 1e3, watch.database_cpu() / limit * 1e3
