"""What a turn costs: alone, many at once, and for each round of tools."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator
from statistics import median

from bench.figures import Figures, Once, Scale, tail
from bench.model import Script
from bench.place import Place, Stopwatch
from bench.site import Seat, Site, open_site
from bench.wire import Connection

TEXT = Script()
ROUNDS = 5
TOOLS = Script(tools=ROUNDS)


@contextlib.asynccontextmanager
async def turns(place: Place, scale: Scale) -> AsyncIterator[Once]:
    """Text turns and tool rounds with a model that answers at once.

    Sessions are young and followed before the clock starts.
    """
    async with place.server() as server, open_site(server, place.model) as site:

        async def once() -> Figures:
            found = await _one_at_a_time(site, scale)
            for count in (16, 64):
                found[f"turns_per_s_{count}"], found[f"turns_cpu_ms_{count}"] = await _crowd(
                    site, count, scale.turns_at_once
                )
            return found

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


async def _crowd(site: Site, count: int, limit: int) -> tuple[float, float]:
    """Turns a second, and the server's CPU milliseconds for each; eight sessions for each worker, in turn."""
    async with site.seats(count * 8) as seats:
        free = deque(seats)

        async def play(line: Connection, _number: int) -> None:
            seat = free.popleft()
            await seat.turn(line, TEXT)
            free.append(seat)

        await site.at_once(count, count * 2, play)
        watch = Stopwatch(site.server)
        rate = await site.at_once(count, limit, play)
        return rate, watch.cpu() / limit * 1e3
