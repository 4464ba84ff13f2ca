"""Answers under an Idempotency-Key, on both databases: stored with the work or not at all, and for a day."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from perdure.app.idempotency import Once, Replayed, write_once
from perdure.domain.errors import Conflict, InvalidInput
from perdure.domain.ids import OrgId
from perdure.engine.context import SystemClock
from perdure.settings import Settings
from perdure.store.database import Database, Purged, Tx
from perdure.store.idempotency import (
    KEPT,
    PURGED,
    KeptAnswer,
    keep_answer,
    kept_answer,
    purge_answers,
    take_key,
)
from perdure.wiring import Parts, open_parts
from perdure.worker.retention import RetentionSweep
from tests.conformance.places import Place

ORG, OTHER = OrgId("org_" + "1" * 32), OrgId("org_" + "2" * 32)
NOW = 2_000_000_000_000_000


class Fixed(SystemClock):
    """A clock that only tests advance."""

    def __init__(self, now: int) -> None:
        self._now = now

    def now(self) -> int:
        return self._now

    def elapsed(self) -> float:
        return 0.0


class Made(Struct):
    """An answer."""

    name: str


async def answered(database: Database, key: str, at: int, body: bytes = b"{}", org: OrgId = ORG) -> None:
    async def work(tx: Tx) -> None:
        assert await take_key(tx, org, key, "print", at, at - KEPT)
        await keep_answer(tx, org, key, 201, body)

    await database.write(work)


async def keys(database: Database) -> list[str]:
    rows = await database.read(lambda tx: tx.all("SELECT key FROM idempotency ORDER BY key"))
    return [row[0] for row in rows]


async def purge(database: Database, limit: int = 500) -> Purged:
    return await database.write(lambda tx: purge_answers(tx, NOW - KEPT, limit))


async def test_a_taken_key_stays_taken_for_a_day_in_its_organization(database: Database) -> None:
    await answered(database, "mine", NOW, b'{"a":1}')
    kept = await database.read(lambda tx: kept_answer(tx, ORG, "mine"))
    assert kept == KeptAnswer("print", 201, b'{"a":1}')
    assert await database.read(lambda tx: kept_answer(tx, OTHER, "mine")) is None
    for later, free in ((KEPT, False), (KEPT + 1, True)):
        taken = await database.write(lambda tx, at=NOW + later: take_key(tx, ORG, "mine", "x", at, at - KEPT))
        assert taken is free


async def test_answers_over_a_day_old_are_purged_and_younger_ones_stay(database: Database) -> None:
    await answered(database, "old", NOW - KEPT - 1)
    await answered(database, "just-a-day", NOW - KEPT)
    await answered(database, "young", NOW - 1)
    await answered(database, "old", NOW - KEPT - 5, org=OTHER)
    assert await purge(database) == Purged(2, more=False)
    assert await keys(database) == ["just-a-day", "young"]


async def test_a_batch_of_purged_answers_is_bounded_in_number_the_oldest_first(database: Database) -> None:
    for age in range(5):
        await answered(database, f"key-{age}", NOW - KEPT - 10 - age)
    assert await purge(database, 2) == Purged(2, more=True)
    assert await keys(database) == ["key-0", "key-1", "key-2"]
    assert await purge(database, 2) == Purged(2, more=True)
    assert await purge(database, 2) == Purged(1, more=False)
    assert await keys(database) == []


async def test_a_batch_of_purged_answers_is_bounded_in_bytes(database: Database) -> None:
    for age in range(3):
        await answered(database, f"key-{age}", NOW - KEPT - 10 - age, b" " * (PURGED // 2 - age))
    assert await purge(database) == Purged(2, more=True)
    assert await purge(database) == Purged(1, more=False)


async def test_looking_for_old_answers_uses_an_index(database: Database) -> None:
    if database.dialect == "postgres":
        sql = "SELECT 1 FROM pg_indexes WHERE tablename = 'idempotency' AND indexdef LIKE '%(created_at)'"
        assert await database.read(lambda tx: tx.one(sql)) is not None
        return
    sql = "EXPLAIN QUERY PLAN SELECT org_id FROM idempotency WHERE created_at < 1 ORDER BY created_at LIMIT 9"
    plan = await database.read(lambda tx: tx.all(sql))
    assert [row[3] for row in plan] == ["SEARCH idempotency USING INDEX idempotency_by_age (created_at<?)"]


@pytest.fixture
async def parts(place: Place, tmp_path: Path) -> AsyncIterator[Parts]:
    url = place.url if place.kind == "postgres" else ""
    async with open_parts(Settings(data=str(tmp_path / "data"), database_url=url)) as opened:
        yield opened


async def test_a_sweep_purges_all_that_is_over_a_day_old(parts: Parts) -> None:
    now = time.time_ns() // 1000 + 600_000_000  # far after the times of all other rows
    for number in range(2):  # more than one batch
        await answered(parts.database, f"old-{number}", now - KEPT - 1 - number, b" " * (PURGED // 2 + 1))
    await answered(parts.database, "young", now - KEPT + 1)
    await RetentionSweep(replace(parts.app, now=lambda: now), Fixed(now)).once()
    assert await keys(parts.database) == ["young"]


def once_of(key: str = "mine", fingerprint: str = "print") -> Once:
    return Once(ORG, key, fingerprint, None)


async def test_the_same_request_again_gets_the_first_answer_and_does_nothing(parts: Parts) -> None:
    done: list[str] = []

    async def work(tx: Tx) -> Made:
        done.append("done")
        return Made("first")

    first = once_of()
    assert await write_once(parts.app, first, work) == Made("first")
    assert first.used
    again = once_of()
    with pytest.raises(Replayed) as caught:
        await write_once(parts.app, again, work)
    assert (caught.value.status, caught.value.body) == (201, b'{"name":"first"}')
    assert (again.used, done) == (False, ["done"])
    with pytest.raises(Conflict, match="used for another request"):
        await write_once(parts.app, once_of(fingerprint="another"), work)
    assert await write_once(parts.app, None, work) == Made("first")
    assert done == ["done", "done"]


async def test_an_answer_has_the_status_that_its_use_case_says(parts: Parts) -> None:
    async def work(tx: Tx) -> tuple[Made, bool]:
        return Made("there"), False

    answer = lambda made: (made[0], 201 if made[1] else 200)  # noqa: E731
    assert await write_once(parts.app, once_of(), work, answer) == (Made("there"), False)
    with pytest.raises(Replayed) as caught:
        await write_once(parts.app, once_of(), work, answer)
    assert (caught.value.status, caught.value.body) == (200, b'{"name":"there"}')


async def test_work_that_fails_leaves_no_answer_and_the_key_free(parts: Parts) -> None:
    async def fail(tx: Tx) -> Made:
        await tx.run("INSERT INTO session_totals (org_id, shard, sessions) VALUES (?, 0, 1)", ORG)
        raise InvalidInput("no")

    async def work(tx: Tx) -> Made:
        return Made("second")

    once = once_of()
    with pytest.raises(InvalidInput):
        await write_once(parts.app, once, fail)
    assert not once.used
    assert await keys(parts.database) == []
    assert await parts.database.read(lambda tx: tx.all("SELECT 1 FROM session_totals")) == []
    assert await write_once(parts.app, once, work) == Made("second")


async def test_a_second_transaction_under_one_key_is_refused_before_it_does_anything(parts: Parts) -> None:
    async def work(tx: Tx) -> Made:
        return Made("one")

    async def more(tx: Tx) -> Made:
        raise AssertionError("must not run")

    once = once_of()
    await write_once(parts.app, once, work)
    with pytest.raises(RuntimeError, match="one transaction"):
        await write_once(parts.app, once, more)


async def test_of_many_at_once_under_one_key_one_does_the_work(parts: Parts) -> None:
    async def work(tx: Tx) -> Made:
        await tx.run(
            "INSERT INTO session_totals (org_id, shard, sessions) VALUES (?, 0, 1)"
            " ON CONFLICT (org_id, shard) DO UPDATE SET sessions = session_totals.sessions + 1",
            ORG,
        )
        return Made("one")

    found = await asyncio.gather(
        *(write_once(parts.app, once_of(), work) for _ in range(8)), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in found) == ["Made"] + ["Replayed"] * 7
    row = await parts.database.read(
        lambda tx: tx.one("SELECT sessions FROM session_totals WHERE org_id = ?", ORG)
    )
    assert row is not None
    assert row[0] == 1
