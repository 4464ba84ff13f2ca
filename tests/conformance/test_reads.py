"""Reads that are bounded in bytes and in time, on both databases."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from perdure.domain.errors import Unavailable
from perdure.store.database import Database, Row, Tx
from perdure.store.sqlite import open_sqlite
from perdure.store.sqlite_searches import THREADS
from tests.conformance.places import PATIENCE, Place, soon

NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "
FOREVER = NUMBERS.format(10_000_000_000) + "SELECT COUNT(*) FROM n"
"""A query that takes hours."""


@pytest.fixture
async def store(place: Place) -> Database:
    """A database with five texts of 100 bytes, an empty one and one that is missing."""
    database = await place.open()

    async def body(tx: Tx) -> None:
        await tx.run("CREATE TABLE texts (id BIGINT PRIMARY KEY, text TEXT)")
        texts = [*("x" * 98 + "ä" for _ in range(5)), "", None]
        await tx.run_many("INSERT INTO texts (id, text) VALUES (?, ?)", [*enumerate(texts)])

    await database.write(body)
    return database


@pytest.mark.parametrize(
    ("size", "ids", "more"),
    [
        (1, [0], True),
        (99, [0], True),
        (250, [0, 1], True),
        (10_000, [0, 1, 2, 3, 4, 5, 6], False),
    ],
)
async def test_a_page_holds_as_many_rows_as_its_bytes_allow_and_one_at_least(
    store: Database, size: int, ids: list[int], more: bool
) -> None:
    async def body(tx: Tx) -> tuple[list[Row], bool]:
        return await tx.within(
            size, ("text",), "SELECT id, text FROM texts WHERE id >= ? ORDER BY id LIMIT ?", 0, 100
        )

    rows, cut = await store.read(body)
    assert ([row[0] for row in rows], cut) == (ids, more)
    assert all(len(row) == 2 for row in rows)


async def test_the_order_and_the_limit_of_a_query_hold_for_its_page(store: Database) -> None:
    async def body(tx: Tx) -> tuple[list[Row], bool]:
        return await tx.within(10_000, ("text",), "SELECT id, text FROM texts ORDER BY id DESC LIMIT ?", 3)

    rows, cut = await store.read(body)
    assert ([row[0] for row in rows], cut) == ([6, 5, 4], False)
    nothing = "SELECT id, text FROM texts WHERE id > 9 ORDER BY id"
    assert await store.read(lambda tx: tx.within(9, ("text",), nothing)) == ([], False)


async def test_a_search_ends_at_its_time_limit_and_its_thread_works_on(store: Database) -> None:
    for _ in range(4):
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            await soon(store.read(lambda tx: tx.one(FOREVER), seconds=0.2))
        assert caught.value.code == "read_timeout"
        assert time.monotonic() - began < 10
    assert await soon(store.read(lambda tx: tx.one("SELECT 7"), seconds=5)) == (7,)


async def test_a_body_of_many_short_statements_is_stopped_too(store: Database) -> None:
    async def body(tx: Tx) -> None:
        while True:
            await tx.one(NUMBERS.format(1000) + "SELECT COUNT(*) FROM n")

    with pytest.raises(Unavailable):
        await soon(store.read(body, seconds=0.2))


async def test_searches_keep_no_other_read_or_write_waiting(store: Database) -> None:
    searches = [asyncio.create_task(store.read(lambda tx: tx.one(FOREVER), seconds=60)) for _ in range(8)]
    await asyncio.sleep(0)
    for long in (False, True):
        assert await store.read(lambda tx: tx.one("SELECT 7"), long=long) == (7,)
    await store.write(lambda tx: tx.run("DELETE FROM texts"))
    assert not any(task.done() for task in searches)
    for task in searches:
        task.cancel()
    await soon(asyncio.gather(*searches, return_exceptions=True))
    assert await soon(store.read(lambda tx: tx.one("SELECT 7"), seconds=5)) == (7,)


async def test_a_search_stops_even_if_its_caller_leaves_between_two_statements(tmp_path: Path) -> None:
    database = await open_sqlite(tmp_path / "perdure.db")
    begun, left = threading.Semaphore(0), threading.Event()

    async def body(tx: Tx) -> Row | None:
        begun.release()
        left.wait(PATIENCE)
        return await tx.one(FOREVER)

    searches = [asyncio.create_task(database.read(body, seconds=3600)) for _ in range(THREADS)]
    for _ in searches:
        assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)
    for task in searches:
        task.cancel()
    await soon(asyncio.gather(*searches, return_exceptions=True))
    left.set()
    assert await soon(database.read(lambda tx: tx.one("SELECT 7"), seconds=PATIENCE)) == (7,)
    await soon(database.close())
