"""Lists and searches as an organization fills up."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator
from functools import partial
from statistics import median

import msgspec

from bench.figures import Figures, Once, Scale
from bench.place import Place, Server
from bench.wire import Connection, connect
from perdure.app.accounts import bootstrap
from perdure.app.sessions import find_harness
from perdure.domain.ids import new_id
from perdure.domain.sessions import SessionConfig
from perdure.settings import Settings
from perdure.store.database import Tx
from perdure.store.rows import insert, to_json, values
from perdure.store.sessions import SessionRow, count_sessions
from perdure.wiring import open_parts
from perdure.worker.sorter import sort_sessions

WORDS = (
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "haven",
    "iris",
    "maple",
    "north",
    "ocean",
    "quartz",
    "tulip",
)
COMMON = "maple"
"""In one title of five or so: every page of the search is full."""
MIDDLE = "maple north"
"""In one title of ninety or so: to count two hundred, a good part of the index is gone through."""
RARE = "zephyr"
"""In the title of the oldest session only."""
BATCH = 5_000


def titles(count: int) -> list[str]:
    """Titles of three words, the same in every run; the oldest is the rare one."""
    pick = random.Random(7)
    return [f"{RARE} at last", *(" ".join(pick.sample(WORDS, 3)) for _ in range(count - 1))]


async def fill(settings: Settings, count: int) -> None:
    """Put so many sessions into a fresh database, a second apart, through the store."""
    async with open_parts(settings) as parts:
        owner = await bootstrap(parts.app)
        harness = await parts.database.read(lambda tx: find_harness(tx, owner.organization_id, None, None))
        config, now = to_json(SessionConfig()), parts.app.now() - count * 1_000_000
        rows = [
            SessionRow(
                new_id("session"),
                owner.organization_id,
                owner.user_id,
                harness.id,
                None,
                title,
                '["seed"]',
                None,
                None,
                config,
                None,
                None,
                now + i * 1_000_000,
                now + i * 1_000_000,
                None,
                0,
                0,
                -1,
                0,
                "started",
                None,
                0,
                None,
                None,
                None,
                None,
                None,
                None,
            )
            for i, title in enumerate(titles(count))
        ]

        for begin in range(0, count, BATCH):
            batch = [values(row) for row in rows[begin : begin + BATCH]]

            async def write(tx: Tx, batch: list[tuple[object, ...]] = batch) -> None:
                await tx.run_many(insert("sessions", SessionRow), batch)
                await count_sessions(tx, owner.organization_id, len(batch))

            await parts.database.write(write)
        await sort_sessions(parts.database, rest=0)
        if parts.database.dialect == "postgres":
            # What PostgreSQL does by itself within a minute: without knowing its tables it plans at random.
            await parts.database.read(lambda tx: tx.all("VACUUM ANALYZE sessions"))
            await parts.database.read(lambda tx: tx.all("VACUUM ANALYZE search_terms"))


@contextlib.asynccontextmanager
async def scale(place: Place, scale: Scale) -> AsyncIterator[Once]:
    """Pages of 50, one at a time, from an organization with few sessions and from one with many."""
    async with contextlib.AsyncExitStack() as stack:
        lines: dict[int, Connection] = {}
        for count in (scale.few_sessions, scale.many_sessions):
            server: Server = await stack.enter_async_context(place.server(seed=partial(fill, count=count)))
            lines[count] = await connect(server.url)
        few, many = lines[scale.few_sessions], lines[scale.many_sessions]

        async def once() -> Figures:
            found: Figures = {}
            for name, query in (
                ("list", ""),
                ("search", f"&search={COMMON}"),
                ("rare", f"&search={RARE}"),
                # Ten, because a thousand sessions have no fifty: the pages that are compared are alike.
                ("middle", f"&limit=10&search={MIDDLE.replace(' ', '%20')}"),
            ):
                small, large = await _pages(few, many, query, query, scale.pages)
                found[f"{name}_page_ms"], found[f"{name}_ratio"] = small * 1e3, large / small
            for name, share in (("deep", 1), ("halfway", 2)):
                begins = [
                    f"&offset={count // share - 50}" for count in (scale.few_sessions, scale.many_sessions)
                ]
                small, large = await _pages(few, many, *begins, scale.pages)
                found[f"{name}_ratio"] = large / small
            return found

        yield once
        few.close()
        many.close()


async def _pages(
    few: Connection, many: Connection, small: str, large: str, count: int
) -> tuple[float, float]:
    """The median seconds of a page from each, in turn."""
    times: list[list[float]] = [[], []]
    for _ in range(count):
        for line, query, took in ((few, small, times[0]), (many, large, times[1])):
            began = time.perf_counter()
            limit = "" if "limit=" in query else "&limit=50"
            answer = await line.send("GET", f"/v1/sessions?{query[1:]}{limit}")
            took.append(time.perf_counter() - began)
            if not msgspec.json.decode(answer)["data"]:
                raise RuntimeError(f"the page of {query!r} is empty")
    return median(times[0]), median(times[1])
