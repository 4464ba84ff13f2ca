"""Measure how long other sessions wait while one session does something large with its files."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import uvloop

from bench.figures import Figures, Once, Scale
from bench.model import Script
from bench.site import WHOLE, Seat, Site, open_site
from bench.tools import script_of, simulated
from bench.variant import ROOT, Variant
from bench.wire import Connection, connect

FOLDERS, FILES, SIZE = 20, 499, 1_024
"""Folders of the session with many files, the files in each, and the size of one in bytes: 10,000 entries."""
LARGE, PIECES = 10_000_000, 10
"""The size of a large file in bytes, and how many of them the session with large files has."""
REST = 0.3
"""Seconds in which only the prober works, before and after each operation."""


class Prober:
    """Plays tiny turns in a session and a process of its own: what this process does must not count."""

    def __init__(self, lines: asyncio.StreamReader) -> None:
        self._lines = lines
        self._turns: list[tuple[float, float]] = []
        """When each turn began, and the seconds that it took."""

    async def run(self) -> None:
        """Note the turns until cancelled."""
        while line := await self._lines.readline():
            began, total = line.split()
            self._turns.append((float(began), float(total)))

    async def during(self, work: Awaitable[Any]) -> tuple[float, float]:
        """Return the milliseconds that some work took, and those of the longest turn meanwhile."""
        await asyncio.sleep(REST)
        began = time.perf_counter()
        await work
        ended = time.perf_counter()
        await asyncio.sleep(REST)  # a turn that still waits counts
        turns = [took for at, took in self._turns if at < ended and at + took > began]
        return (ended - began) * 1e3, max(turns) * 1e3


@contextlib.asynccontextmanager
async def probing(site: Site) -> AsyncIterator[Prober]:
    """Start the prober; stop it afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.stalls", site.server.url, await site.session(),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()  # the first turn: from now on, it plays
    prober = Prober(process.stdout)
    reading = asyncio.create_task(prober.run())
    try:
        yield prober
    finally:
        process.kill()
        await process.wait()
        await reading


async def probe(url: str, session: str) -> None:
    """Play tiny turns until killed; print when each began, and the seconds that it took."""
    post, feed = await connect(url), await connect(url)
    feed.follow("GET", f"/v1/sessions/{session}/sse?{'&'.join(f'types={kind}' for kind in WHOLE)}")
    await feed.frame()
    seat = Seat(session, feed)
    while True:
        turn = await seat.turn(post, Script())
        print(turn.began, turn.total, flush=True)


@contextlib.asynccontextmanager
async def stalls(variant: Variant, _scale: Scale) -> AsyncIterator[Once]:
    """Measure on a fresh server each time, with one prober and one operation at a time."""

    async def once() -> Figures:
        async with variant.server() as server, open_site(server, variant.model) as site:
            body = {"model_id": await simulated(site)}
            many, large = [str((await site.desk.json("POST", "/v1/sessions", body))["id"]) for _ in "ab"]
            await _fill(site, f"/v1/sessions/{many}/fs")
            figures: Figures = {}
            async with probing(site) as prober:
                for name, work in (_many(site, many) | _large(site, large)).items():
                    took, longest = await prober.during(work())
                    figures |= {f"stall_{name}_ms": longest, f"{name}_ms": took}
            return figures

    yield once


Work = Callable[[], Awaitable[Any]]


def _many(site: Site, session: str) -> dict[str, Work]:
    """What is done with many small files."""
    place, files = f"/v1/sessions/{session}", f"/v1/sessions/{session}/fs"
    copy = {"src_path": "/0", "dst_path": "/copy"}
    move = {"src_path": "/copy", "dst_path": "/moved"}
    return {
        "list": lambda: site.desk.send("GET", f"{files}?recursive=true"),
        "grep": lambda: site.desk.json("POST", f"{files}/_/grep", {"pattern": "nothing.*like"}),
        "bash_ls": lambda: _bash(site, session, "ls"),
        "bash_cat": lambda: _bash(site, session, "cat 7/7.txt"),
        "bash_grep": lambda: _bash(site, session, "grep -rl needle . | wc -l"),
        "bash_write": lambda: _bash(site, session, "for f in 3/*; do echo more >> $f; done"),
        "copy": lambda: site.desk.json("POST", f"{files}/_/copy", copy),
        "move": lambda: site.desk.json("POST", f"{files}/_/move", move),
        "remove": lambda: site.desk.send("DELETE", f"{files}/moved?recursive=true"),
        "fork": lambda: site.desk.json("POST", f"{place}/fork", {}),
        "delete": lambda: site.desk.send("DELETE", place),
    }


def _large(site: Site, session: str) -> dict[str, Work]:
    """What is done with large files."""
    place, files = f"/v1/sessions/{session}", f"/v1/sessions/{session}/fs"
    data = random.Random(2).randbytes(LARGE * PIECES)
    line = b"all these words are on one line of a long file of text\n"

    async def upload() -> None:
        await site.desk.send("PUT", f"{files}/whole.bin?raw=true", data)

    async def parts() -> None:
        for number in range(PIECES):
            text = line * (LARGE // len(line)) + str(number).encode()
            await site.desk.send("PUT", f"{files}/{number}.txt?raw=true", text)

    return {
        "upload": upload,
        "uploads": parts,
        "download": lambda: site.desk.send("GET", f"{files}/_/download/whole.bin"),
        "read": lambda: _tool(site, session, "read_file", {"path": "/3.txt"}),
        "large_grep": lambda: site.desk.json("POST", f"{files}/_/grep", {"pattern": "nothing.*like"}),
        "large_bash": lambda: _bash(site, session, "ls; wc -c 3.txt"),
        "large_bash_write": lambda: _bash(site, session, "for f in [1-9].txt; do echo more >> $f; done"),
        "large_fork": lambda: site.desk.json("POST", f"{place}/fork", {}),
        "large_delete": lambda: site.desk.send("DELETE", place),
    }


async def _bash(site: Site, session: str, command: str) -> None:
    await _tool(site, session, "bash", {"command": command, "timeout": 100})


async def _tool(site: Site, session: str, name: str, arguments: dict[str, Any]) -> None:
    """Let the session's model call a tool; wait for the end of the turn."""
    post = await connect(site.server.url)
    seat = await site.seat_of(session)
    try:
        await seat.turn(post, script_of([(name, arguments)]))
    finally:
        seat.close()
        post.close()


async def _fill(site: Site, base: str) -> None:
    """Write the files of one folder, and of the others as copies with a file of their own."""

    async def write(line: Connection, number: int) -> None:
        text = f"{'needle' if number == 7 else 'hay'} {number}\n" + "word " * (SIZE // 5)
        await line.send(
            "POST", f"{base}/{number % FOLDERS}/{number}.txt", msgspec.json.encode({"content": text})
        )

    await site.at_once(16, FOLDERS * FILES, write)


if __name__ == "__main__":
    uvloop.run(probe(*sys.argv[1:3]))
