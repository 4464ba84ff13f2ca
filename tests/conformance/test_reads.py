"""Reads that are bounded in bytes and in time, on both databases."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from perdure.domain.errors import Unavailable
from perdure.domain.ids import OrgId
from perdure.domain.working_for import work_for
from perdure.store import sqlite
from perdure.store.database import Database, Row, Tx
from perdure.store.postgres import database as postgres
from perdure.store.sqlite import SEARCHES, open_sqlite
from tests.conformance.places import PATIENCE, Place, eventually, soon

NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "
A, B = OrgId("org_a"), OrgId("org_b")
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


class Requests:
    """Requests of organizations that read long: each read ends when it is told to."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.running: list[OrgId | None] = []
        self._may_end = asyncio.Event()
        self._threads: list[threading.Event] = []
        self._tasks: list[asyncio.Task[Row | None]] = []

    def ask(self, org_id: OrgId | None) -> asyncio.Task[Row | None]:
        task = asyncio.create_task(self._ask(org_id))
        self._tasks.append(task)
        return task

    async def _ask(self, org_id: OrgId | None) -> Row | None:
        work_for(org_id)

        async def body(tx: Tx) -> Row | None:
            self.running.append(org_id)
            if tx.dialect == "postgres":
                await self._may_end.wait()
            else:
                end = threading.Event()
                self._threads.append(end)
                end.wait(PATIENCE)
            return await tx.one("SELECT 7")

        return await self._database.read(body, long=True)

    def forget_last(self) -> None:
        self._tasks.pop()

    async def end(self) -> None:
        while not all(task.done() for task in self._tasks):
            self._may_end.set()
            for each in self._threads:
                each.set()
            await asyncio.sleep(0)
        assert {task.result() for task in self._tasks} == {(7,)}


async def test_the_long_reads_of_one_organization_leave_room_for_those_of_others(store: Database) -> None:
    requests = Requests(store)
    for _ in range(30):
        requests.ask(A)
    await eventually(lambda: _count(requests.running, A), lambda count: count >= 2)
    requests.ask(B)
    await eventually(lambda: _count(requests.running, B), lambda count: count == 1)
    most = requests.running.count(A)
    assert most < 30
    await soon(requests.end())
    assert requests.running.count(A) == 30


async def _count(running: list[OrgId | None], org_id: OrgId) -> int:
    return running.count(org_id)


async def test_long_reads_for_nobody_wait_only_for_a_free_place(store: Database) -> None:
    requests = Requests(store)
    for _ in range(12):
        requests.ask(None)
    await soon(requests.end())


async def test_a_long_read_ends_at_its_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = await open_sqlite(tmp_path / "perdure.db")
    monkeypatch.setattr(sqlite, "LONG_SECONDS", 0.2)
    for _ in range(4):
        with pytest.raises(Unavailable) as caught:
            await soon(database.read(lambda tx: tx.one(FOREVER), long=True))
        assert caught.value.code == "read_timeout"
    monkeypatch.setattr(sqlite, "LONG_SECONDS", PATIENCE)
    assert await soon(database.read(lambda tx: tx.one("SELECT 7"), long=True)) == (7,)
    await soon(database.close())


async def test_a_long_read_whose_turn_does_not_come_is_refused_as_busy(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = Requests(store)
    for _ in range(20):
        requests.ask(A)
    await eventually(lambda: _count(requests.running, A), lambda count: count >= 2)
    monkeypatch.setattr(sqlite, "LONG_SECONDS", 0.05)
    monkeypatch.setattr(postgres, "ACQUIRE_SECONDS", 0.05)
    with pytest.raises(Unavailable) as caught:
        await requests.ask(A)
    assert caught.value.cause == "busy"
    requests.forget_last()
    await soon(requests.end())


async def test_a_search_stops_even_if_its_caller_leaves_between_two_statements(tmp_path: Path) -> None:
    database = await open_sqlite(tmp_path / "perdure.db")
    begun, left = threading.Semaphore(0), threading.Event()

    async def body(tx: Tx) -> Row | None:
        begun.release()
        left.wait(PATIENCE)
        return await tx.one(FOREVER)

    searches = [asyncio.create_task(database.read(body, seconds=3600)) for _ in range(SEARCHES)]
    for _ in searches:
        assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)
    for task in searches:
        task.cancel()
    await soon(asyncio.gather(*searches, return_exceptions=True))
    left.set()
    assert await soon(database.read(lambda tx: tx.one("SELECT 7"), seconds=PATIENCE)) == (7,)
    await soon(database.close())
