"""Measure whether memory levels off while sessions are created, used and deleted for a long time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import AsyncIterator

import msgspec

from bench.figures import Figures, Once, Scale
from bench.model import Script
from bench.site import Site, open_site
from bench.variant import Server, Variant
from bench.wire import Connection, connect

WORKERS = 8
TURNS = 3
SAMPLES = 30
"""Readings of the memory that are printed, whatever the duration."""
TEXT, TOOLS = Script(), Script(tools=1)
FILE = "# Notes\n" + "A line of text.\n" * 500


@contextlib.asynccontextmanager
async def soak(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Measure the memory at the end, and its growth per minute in the last half. It runs once."""
    figures: Figures = {}

    async def once() -> Figures:
        if not figures:
            async with variant.server() as server, open_site(server, variant.model) as site:
                figures.update(await _soak(server, site, scale.soak_minutes * 60))
        return figures

    yield once


async def _soak(server: Server, site: Site, seconds: float) -> Figures:
    began = time.perf_counter()
    done = itertools.count()
    workers = [asyncio.create_task(_work(site, began + seconds, done)) for _ in range(WORKERS)]
    readings: list[tuple[float, float]] = []
    for number in range(SAMPLES):
        await asyncio.sleep(max(began + seconds * (number + 1) / SAMPLES - time.perf_counter(), 0))
        readings.append((time.perf_counter() - began, server.rss()))
        print(f"{readings[-1][0] / 60:6.1f} min {readings[-1][1]:7.1f} MB", file=sys.stderr, flush=True)
    await asyncio.gather(*workers)
    late = readings[SAMPLES // 2 :]
    minutes = (late[-1][0] - late[0][0]) / 60
    third = len(late) // 3
    growth = _mean(late[-third:]) - _mean(late[:third])
    return {
        "soak_mb": late[-1][1],
        "soak_growth_mb": growth / (minutes * 2 / 3),
        "soak_sessions": float(next(done)),
    }


def _mean(readings: list[tuple[float, float]]) -> float:
    return sum(size for _, size in readings) / len(readings)


async def _work(site: Site, until: float, done: itertools.count[int]) -> None:
    """Create, use and delete sessions, one after another."""
    line = await connect(site.server.url)
    while time.perf_counter() < until:
        seat = await site.seat(over=line)
        for number in range(TURNS):
            await seat.turn(line, TOOLS if number == 1 else TEXT)
        await _use(line, f"/v1/sessions/{seat.session_id}")
        seat.close()
        await line.send("DELETE", f"/v1/sessions/{seat.session_id}")
        next(done)
    line.close()


async def _use(line: Connection, path: str) -> None:
    body = msgspec.json.encode({"title": "A title that is found", "tags": ["soak"]})
    await line.send("PATCH", path, body)
    await line.json("PUT", f"{path}/storage/secrets", {"secrets": {"TOKEN": "something to keep"}})
    await line.json("POST", f"{path}/fs/notes.md", {"content": FILE})
    for rest in ("", "/messages", "/events?limit=100", "/context-report", "/fs/notes.md"):
        await line.send("GET", path + rest)
    await line.send("GET", "/v1/sessions?limit=50&search=found")
