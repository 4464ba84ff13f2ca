"""Measure files: write and search many small ones, transfer large ones, fork a session with all of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import time
from collections.abc import AsyncIterator
from statistics import median

import msgspec

from bench.figures import Figures, Once, Scale
from bench.site import Site, open_site
from bench.variant import Stopwatch, Variant
from bench.wire import Connection

AT_ONCE = 16
SMALL, SMALL_SIZE = 1_000, 4_096
"""The number of small files, and the size of each in bytes."""
LARGE = 10 * 1024 * 1024
RAW = 100 * 1024 * 1024
SAMPLED = 0.01
"""Seconds between two looks at the server's memory."""
EVERY = 50
"""One in this many small files contains the line to search for."""
TIMES = 5

WORDS = ("river", "stone", "cloud", "meadow", "lantern", "harbour", "orchard", "window", "paper", "winter")


def text(number: int) -> str:
    """Return about 4 KB of lines of words, different for each file, but the same in every run."""
    pick = random.Random(number)
    lines = [" ".join(pick.choices(WORDS, k=9)) for _ in range(80)]
    if number % EVERY == 0:
        lines[40] = f"needle {number}"
    return "\n".join(lines)[: SMALL_SIZE - 1] + "\n"


@contextlib.asynccontextmanager
async def files(variant: Variant, _scale: Scale) -> AsyncIterator[Once]:
    """Measure over HTTP, each round on a fresh server; the server answers writes once they are durable."""
    bodies = [msgspec.json.encode({"content": text(number)}) for number in range(SMALL)]

    async def once() -> Figures:
        async with variant.server() as server, open_site(server, variant.model) as site:
            figures = await _raw(site, f"/v1/sessions/{await site.session()}/fs")
            session = f"/v1/sessions/{await site.session()}"
            figures |= await _small(site, f"{session}/fs", bodies)
            figures |= await _large(site, f"{session}/fs")
            began = time.perf_counter()
            await site.desk.json("POST", f"{session}/fork", {})
            return {**figures, "files_fork_ms": (time.perf_counter() - began) * 1e3}

    yield once


async def _raw(site: Site, base: str) -> Figures:
    """Send bytes as they are, and read them, on a server that has done nothing else yet."""
    data = random.Random(1).randbytes(RAW)
    path, back = f"{base}/raw.bin", f"{base}/_/download/raw.bin"
    await site.desk.send("PUT", f"{path}?raw=true", data[:SMALL_SIZE])  # loads what transfers need
    await site.desk.send("GET", back)
    figures: Figures = {}
    for way, method, place, body in (("in", "PUT", f"{path}?raw=true", data), ("out", "GET", back, None)):
        async with _peak(site) as peak:
            began = time.perf_counter()
            answer = await site.desk.send(method, place, body)
            figures[f"files_raw_{way}_ms"] = (time.perf_counter() - began) * 1e3
        figures[f"files_raw_{way}_mb"] = peak[0]
    if answer != data:
        raise RuntimeError("the raw file was not returned unchanged")
    return figures


@contextlib.asynccontextmanager
async def _peak(site: Site) -> AsyncIterator[list[float]]:
    """Measure by how many megabytes the server's memory grows at most; the list has it at the end."""
    before, highest = site.server.rss(), [0.0]

    async def watch() -> None:
        while True:
            highest[0] = max(highest[0], site.server.rss() - before)
            await asyncio.sleep(SAMPLED)

    watching = asyncio.create_task(watch())
    try:
        yield highest
    finally:
        watching.cancel()


async def _small(site: Site, base: str, bodies: list[bytes]) -> Figures:
    async def write(line: Connection, number: int) -> None:
        await line.send("POST", f"{base}/notes/{number % 20}/{number}.txt", bodies[number])

    watch = Stopwatch(site.server)
    rate = await site.at_once(AT_ONCE, SMALL, write)
    figures = {"files_written_per_s": rate, "files_written_cpu_ms": watch.cpu() / SMALL * 1e3}
    for name, pattern, matches in (
        ("found", "^needle [0-9]+$", SMALL // EVERY),
        ("missed", "nothing.*like.*this", 0),
    ):
        times = []
        for _ in range(TIMES):
            began = time.perf_counter()
            answer = await site.desk.json("POST", f"{base}/_/grep", {"pattern": pattern})
            times.append(time.perf_counter() - began)
            if len(answer["data"]) != matches:
                raise RuntimeError(f"{pattern!r} matched {len(answer['data'])} files, not {matches}")
        figures[f"files_grep_{name}_ms"] = median(times) * 1e3
    return figures


async def _large(site: Site, base: str) -> Figures:
    times: dict[str, list[float]] = {"in": [], "out": []}
    for number in range(TIMES):
        data = random.Random(number).randbytes(LARGE)
        body = msgspec.json.encode({"content": base64.b64encode(data).decode(), "encoding": "base64"})
        began = time.perf_counter()
        await site.desk.send("POST", f"{base}/large-{number}.bin", body)
        between = time.perf_counter()
        back = await site.desk.send("GET", f"{base}/_/download/large-{number}.bin")
        times["in"].append(between - began)
        times["out"].append(time.perf_counter() - between)
        if back != data:
            raise RuntimeError("the large file was not returned unchanged")
    return {f"files_large_{way}_ms": median(taken) * 1e3 for way, taken in times.items()}
