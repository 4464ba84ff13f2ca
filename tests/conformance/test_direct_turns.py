"""Turns on PostgreSQL that run where they were enqueued, and the leases of those that take longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from perdure.domain.errors import InvalidInput
from perdure.domain.metrics import Metrics
from perdure.store.database import Database, Row, Tx
from perdure.store.postgres.notify import Notifier, open_notifier
from perdure.store.postgres.queue import open_postgres_queue
from perdure.store.queue import Job, PutBack, Queue
from tests.conformance.other_process import other_process
from tests.conformance.places import Place, eventually, postgres, soon

ROWS = "SELECT id, payload, headers::text, status::text, execute_after > now() FROM perdure_queue ORDER BY id"


class Office:
    """Processes on one database, whose turns run until the test ends them."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.begun: asyncio.Queue[Job] = asyncio.Queue()
        self.ends: dict[str, asyncio.Event] = {}
        self.puts_back = False
        self.metrics = Metrics()
        self._closers: list[Queue | Notifier] = []

    async def open(self, places: int = 1_000) -> tuple[Database, Queue]:
        database = await self.place.open()
        notifier = await open_notifier(postgres(database))
        queue = await open_postgres_queue(postgres(database), notifier, places, self.metrics)
        self._closers += [notifier, queue]
        return database, queue

    async def handle(self, job: Job) -> None:
        end = self.ends[job.session_id] = asyncio.Event()
        self.begun.put_nowait(job)
        await end.wait()
        if self.puts_back:
            raise PutBack

    async def next(self) -> Job:
        return await soon(self.begun.get())

    async def close(self) -> None:
        while self._closers:
            await self._closers.pop().close()


@pytest_asyncio.fixture
async def office(postgres_place: Place) -> AsyncIterator[Office]:
    office = Office(postgres_place)
    yield office
    await office.close()


async def put(database: Database, queue: Queue, *jobs: Job) -> None:
    async def body(tx: Tx) -> None:
        for job in jobs:
            await queue.enqueue(tx, job)

    await database.write(body)


async def rows_of(database: Database) -> list[Row]:
    return await database.read(lambda tx: tx.all(ROWS))


async def lease_of(database: Database) -> Row:
    """Wait until the queue has one row, and return it."""
    return (await eventually(lambda: rows_of(database), lambda rows: len(rows) == 1))[0]


async def nothing_queued(database: Database) -> None:
    await eventually(lambda: rows_of(database), lambda rows: not rows)


async def test_a_turn_whose_process_has_a_place_is_not_enqueued(office: Office) -> None:
    database, queue = await office.open()
    await queue.start(office.handle)
    await put(database, queue, Job("org_1", "s"))
    assert await office.next() == Job("org_1", "s")
    assert await rows_of(database) == []
    assert await database.read(lambda tx: queue.has_live_job(tx, "s"))
    office.ends["s"].set()

    async def live() -> bool:
        return await database.read(lambda tx: queue.has_live_job(tx, "s"))

    await eventually(live, lambda found: not found)
    assert await rows_of(database) == []


async def test_a_turn_that_takes_longer_is_live_to_all_processes_until_it_ends(office: Office) -> None:
    (database, queue), (_, other) = await office.open(), await office.open()
    await queue.start(office.handle)
    await other.start(office.handle)
    await put(database, queue, Job("org_1", "s"))
    await office.next()
    lease = await lease_of(database)
    assert lease[1] == b"s"
    assert '"again": "yes"' in str(lease[2])
    assert lease[3:] == ("queued", True)
    assert await database.read(lambda tx: other.has_live_job(tx, "s"))

    async def due() -> Row:
        return await database.read(lambda tx: tx.one("SELECT execute_after FROM perdure_queue")) or ()

    first = await due()
    await eventually(due, lambda row: row > first)  # it is put off
    office.ends["s"].set()
    await nothing_queued(database)
    assert office.begun.empty()


async def test_a_lease_that_runs_out_lets_another_process_take_the_turn_over(office: Office) -> None:
    (database, queue), (_, other) = await office.open(), await office.open()
    await queue.start(office.handle)
    await put(database, queue, Job("org_1", "s"))
    await office.next()
    await lease_of(database)
    await queue.stop()  # it takes no more jobs, so the other one has to
    await other.start(office.handle)
    # The turn has run for an hour, and its process has stood still since.
    sql = "UPDATE perdure_queue SET created = now() - interval '1 hour', execute_after = now()"
    await database.write(lambda tx: tx.run(sql))
    assert await office.next() == Job("org_1", "s", again=True)
    *counts, seconds = office.metrics.queue_wait.values[()]
    assert sum(counts) == 2  # each time that it was begun
    assert seconds < 60
    office.ends["s"].set()


async def test_a_killed_processs_turns_go_to_one_that_lives(office: Office) -> None:
    database, queue = await office.open()
    async with other_process("work", office.place.url) as other:
        assert await other.line() == "ready"
        for name in ("s", "t"):
            other.tell(name)
            assert await other.line() == f"org_1 {name}"
        await eventually(lambda: rows_of(database), lambda rows: len(rows) == 2)
        await queue.start(office.handle)
        await other.kill()
        assert {await office.next(), await office.next()} == {
            Job("org_1", name, again=True) for name in ("s", "t")
        }
    for end in office.ends.values():
        end.set()


@pytest.mark.parametrize("how", ["close", "put back"])
async def test_turns_of_a_process_that_ends_go_to_another_at_once(office: Office, how: str) -> None:
    (database, queue), (_, other) = await office.open(), await office.open()
    await queue.start(office.handle)
    await put(database, queue, Job("org_1", "young"), Job("org_1", "old"))
    ends = [office.ends[(await office.next()).session_id] for _ in range(2)]
    await eventually(lambda: rows_of(database), lambda rows: len(rows) == 2)
    await put(database, queue, Job("org_1", "young"))  # a second job, which has no lease yet
    ends.append(office.ends[(await office.next()).session_id])
    await queue.stop()
    if how == "close":
        await soon(queue.close())
    else:
        office.puts_back = True
        for end in ends:
            end.set()
        await eventually(
            lambda: rows_of(database), lambda rows: len(rows) == 3 and not any(r[4] for r in rows)
        )
    await other.start(office.handle)
    taken = [await office.next() for _ in range(3)]
    assert sorted(job.session_id for job in taken) == ["old", "young", "young"]
    assert all(job.again for job in taken)
    office.puts_back = False
    for end in office.ends.values():
        end.set()


async def test_a_transaction_that_fails_runs_nothing_and_gives_its_place_back(office: Office) -> None:
    database, queue = await office.open(places=1)
    await queue.start(office.handle)

    async def failing(tx: Tx) -> None:
        await queue.enqueue(tx, Job("org_1", "lost"))
        raise InvalidInput("no")

    for _ in range(3):
        with pytest.raises(InvalidInput):
            await database.write(failing)
    await put(database, queue, Job("org_1", "kept"))
    assert await office.next() == Job("org_1", "kept")
    assert await rows_of(database) == []
    assert office.begun.empty()
    office.ends["kept"].set()


async def test_recoveries_tasks_and_turns_without_a_place_are_enqueued(office: Office) -> None:
    database, queue = await office.open(places=2)
    await queue.start(office.handle)
    jobs = [Job("org_1", f"s{number}") for number in range(4)]
    await put(database, queue, *jobs)
    begun = {(await office.next()).session_id for _ in range(2)}
    assert begun == {"s0", "s1"}  # as many as there are places
    assert {row[1].decode() for row in await rows_of(database)} >= {"s2", "s3"}
    office.ends[begun.pop()].set()
    begun.add((await office.next()).session_id)
    await put(database, queue, Job("org_1", "t", task_id="task_1"), Job("org_1", "lost", again=True))
    assert (await office.next()).task_id == "task_1"
    for name in begun:
        office.ends[name].set()
    left = {(await office.next()).session_id for _ in range(2)}
    assert left == {"s2", "s3", "lost"} - begun
    for name in left:
        office.ends[name].set()
    office.ends["t"].set()
    await nothing_queued(database)


async def test_turns_that_are_being_put_back_when_their_process_closes_are_put_back(office: Office) -> None:
    database, queue = await office.open()
    await queue.start(office.handle)
    jobs = [Job("org_1", f"s{number}") for number in range(300)]
    await put(database, queue, *jobs)
    for _ in jobs:
        await office.next()
    await queue.stop()
    office.puts_back = True  # as the worker does at the end of a drain
    for end in office.ends.values():
        end.set()
    await eventually(lambda: rows_of(database))  # it has begun
    await soon(queue.close())
    rows = await rows_of(database)
    assert {row[1].decode() for row in rows if not row[4]} == {job.session_id for job in jobs}
    assert len(rows) == len(jobs)
