"""Measure lists and searches as an organization grows."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator
from functools import partial
from statistics import median

import msgspec

from bench.figures import Figures, Once, Scale
from bench.variant import Server, Variant
from bench.wire import Connection, connect
from perdure.app.accounts import bootstrap
from perdure.app.sessions import find_harness
from perdure.domain.accounts import Caller
from perdure.domain.ids import new_id
from perdure.domain.sessions import SessionConfig
from perdure.settings import Settings
from perdure.store.database import Tx
from perdure.store.rows import insert, to_json, values
from perdure.store.session_counts import count_sessions
from perdure.store.sessions import SessionRow
from perdure.wiring import Parts, open_parts
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
"""In about one title of five: every page of the search is full."""
MIDDLE = "maple north"
"""In about one title of ninety: counting 200 matches reads a large part of the index."""
RARE = "zephyr"
"""Only in the title of the oldest session."""
BATCH = 5_000


def titles(count: int) -> list[str]:
    """Return titles of three words, the same in every run; the oldest contains `RARE`."""
    pick = random.Random(7)
    return [f"{RARE} at last", *(" ".join(pick.sample(WORDS, 3)) for _ in range(count - 1))]


async def new_rows(parts: Parts, owner: Caller, count: int) -> list[SessionRow]:
    """Return rows of this many new sessions, created one second apart."""
    harness = await parts.database.read(lambda tx: find_harness(tx, owner.organization_id, None, None))
    config, now = to_json(SessionConfig()), parts.app.now() - count * 1_000_000
    return [
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


async def fill(settings: Settings, count: int, newest: int | None = None) -> None:
    """Insert this many sessions, one second apart, into a fresh database through the store.

    Args:
        newest: the last migration that the measured server knows: it refuses a database with a later one.
    """
    async with open_parts(settings) as parts:
        owner = await bootstrap(parts.app)
        rows = await new_rows(parts, owner, count)
        for begin in range(0, count, BATCH):
            batch = [values(row) for row in rows[begin : begin + BATCH]]

            async def write(tx: Tx, batch: list[tuple[object, ...]] = batch) -> None:
                await tx.run_many(insert("sessions", SessionRow), batch)
                await count_sessions(tx, owner.organization_id, len(batch))

            await parts.database.write(write)
        await sort_sessions(parts.database, rest=0)
        if newest is not None:
            await parts.database.write(lambda tx: tx.run("DELETE FROM migrations WHERE number > ?", newest))
        if parts.database.dialect == "postgres":
            # PostgreSQL would do this within a minute; until then its query plans are arbitrary.
            await parts.database.read(lambda tx: tx.all("VACUUM ANALYZE sessions"))
            await parts.database.read(lambda tx: tx.all("VACUUM ANALYZE search_terms"))


@contextlib.asynccontextmanager
async def scale(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Compare pages of 50 sessions from a small and a large organization, one request at a time."""
    async with contextlib.AsyncExitStack() as stack:
        lines: dict[int, Connection] = {}
        for count in (scale.few_sessions, scale.many_sessions):
            server: Server = await stack.enter_async_context(
                variant.server(seed=partial(fill, count=count, newest=variant.newest_migration()))
            )
            lines[count] = await connect(server.url)
        few, many = lines[scale.few_sessions], lines[scale.many_sessions]

        async def once() -> Figures:
            figures: Figures = {}
            for name, query in (
                ("list", ""),
                ("search", f"&search={COMMON}"),
                ("rare", f"&search={RARE}"),
                # Ten, because the small organization has fewer than fifty matches: both pages must be full.
                ("middle", f"&limit=10&search={MIDDLE.replace(' ', '%20')}"),
            ):
                small, large = await _pages(few, many, query, query, scale.pages)
                figures[f"{name}_page_ms"], figures[f"{name}_ratio"] = small * 1e3, large / small
            for name, share in (("deep", 1), ("halfway", 2)):
                near, far = (
                    f"&offset={count // share - 50}" for count in (scale.few_sessions, scale.many_sessions)
                )
                small, large = await _pages(few, many, near, far, scale.pages)
                figures[f"{name}_ratio"] = large / small
            return figures

        yield once
        few.close()
        many.close()


async def _pages(
    few: Connection, many: Connection, small: str, large: str, count: int
) -> tuple[float, float]:
    """Return the median seconds of a page from each organization, measured alternately."""
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
