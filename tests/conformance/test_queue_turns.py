"""The Queue port: places, and organizations that take turns when all places are taken."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest_asyncio

from perdure.store.database import Database, Tx
from perdure.store.postgres.notify import Notifier, open_notifier
from perdure.store.postgres.queue import open_postgres_queue
from perdure.store.queue import Job, LocalQueue, Queue
from tests.conformance.places import Place, postgres, soon


class Hall:
    """Queues with few places, whose jobs run until the test ends them."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.begun: asyncio.Queue[Job] = asyncio.Queue()
        self.order: list[Job] = []
        self.running: list[tuple[Job, asyncio.Event]] = []
        self._closers: list[Queue | Notifier] = []

    async def open(self, places: int) -> tuple[Database, Queue]:
        database = await self.place.open()
        if self.place.kind == "sqlite":
            queue: Queue = LocalQueue(asyncio.ensure_future, places)
            self._closers.append(queue)
        else:
            notifier = await open_notifier(postgres(database))
            queue = await open_postgres_queue(postgres(database), notifier, places)
            self._closers += [notifier, queue]
        return database, queue

    async def handle(self, job: Job) -> None:
        end = asyncio.Event()
        self.order.append(job)
        self.running.append((job, end))
        self.begun.put_nowait(job)
        await end.wait()

    async def next(self) -> Job:
        return await soon(self.begun.get())

    async def after_one(self) -> Job:
        """End the job that has run longest, and return the one that begins in its place."""
        self.running.pop(0)[1].set()
        return await self.next()

    async def close(self) -> None:
        while self._closers:
            await self._closers.pop().close()


@pytest_asyncio.fixture
async def hall(place: Place) -> AsyncIterator[Hall]:
    hall = Hall(place)
    yield hall
    await hall.close()


async def put_for(database: Database, queue: Queue, org_id: str, count: int, name: str = "") -> None:
    async def body(tx: Tx) -> None:
        for number in range(count):
            await queue.enqueue(tx, Job(org_id, f"{name or org_id}-{number}"))

    await database.write(body)


async def test_no_more_jobs_of_sessions_run_than_there_are_places(hall: Hall) -> None:
    database, queue = await hall.open(3)
    await queue.start(hall.handle)
    await put_for(database, queue, "a", 20)
    for _ in range(3):
        await hall.next()
    for _ in range(17):
        await hall.after_one()
        assert len(hall.running) == 3
    assert hall.begun.empty()
    assert len({job.session_id for job in hall.order}) == 20


async def test_a_job_of_a_task_needs_no_place(hall: Hall) -> None:
    database, queue = await hall.open(2)
    task = Job("a", "s", task_id="t")
    await database.write(lambda tx: queue.enqueue(tx, task))
    await queue.start(hall.handle)
    assert await hall.next() == task
    await put_for(database, queue, "a", 3)
    assert {(await hall.next()).session_id for _ in range(2)} == {"a-0", "a-1"}
    await database.write(lambda tx: queue.enqueue(tx, Job("a", "s", task_id="t2")))
    assert (await hall.next()).task_id == "t2"


async def test_a_thousand_waiting_jobs_do_not_hold_up_the_first_one_of_another_organization(
    hall: Hall,
) -> None:
    database, queue = await hall.open(4)
    await queue.start(hall.handle)
    await put_for(database, queue, "many", 1_000)
    for _ in range(4):
        assert (await hall.next()).org_id == "many"
    for name in ("b", "c", "d"):
        await put_for(database, queue, name, 1)
        assert (await hall.after_one()).org_id == name
    assert (await hall.after_one()).org_id == "many"


async def test_jobs_that_waited_before_the_start_are_taken_in_turns_too(hall: Hall) -> None:
    database, queue = await hall.open(2)
    await put_for(database, queue, "many", 200)
    await put_for(database, queue, "few", 2)
    await queue.start(hall.handle)
    begun = [await hall.next(), await hall.next(), *[await hall.after_one() for _ in range(2)]]
    assert Counter(job.org_id for job in begun)["few"] >= 1
    begun.append(await hall.after_one())
    assert Counter(job.org_id for job in begun) == {"few": 2, "many": 3}


async def test_organizations_with_many_jobs_take_turns(hall: Hall) -> None:
    database, queue = await hall.open(2)
    await queue.start(hall.handle)
    for name in ("a", "b", "c"):
        await put_for(database, queue, name, 40)
    await hall.next()
    await hall.next()
    for _ in range(60):
        await hall.after_one()
    late = Counter(job.org_id for job in hall.order[2:])
    assert max(late.values()) - min(late.values()) <= 2
    # The order within an organization is that of arrival.
    for name in ("a", "b", "c"):
        numbers = [int(job.session_id.split("-")[1]) for job in hall.order[2:] if job.org_id == name]
        assert numbers == sorted(numbers)


async def test_one_that_comes_again_and_again_does_not_keep_another_from_its_turn(hall: Hall) -> None:
    database, queue = await hall.open(2)
    await queue.start(hall.handle)
    await put_for(database, queue, "many", 50)
    await hall.next()
    await hall.next()
    for number in range(20):
        await put_for(database, queue, "eager", 1, f"eager{number}")
        await hall.after_one()
    assert sum(job.org_id == "many" for job in hall.order[2:]) >= 9


async def test_another_process_begins_what_one_that_stops_puts_back(postgres_place: Place) -> None:
    one, two = Hall(postgres_place), Hall(postgres_place)
    try:
        database, first = await one.open(2)
        _, second = await two.open(2)
        await first.start(one.handle)
        await put_for(database, first, "many", 100)
        begun = {(await one.next()).session_id, (await one.next()).session_id}
        await second.start(two.handle)
        for _ in range(2):
            await two.next()
        await put_for(database, second, "b", 1)
        await one.close()
        # They had begun already: they come first, and then the organization that has had no turn.
        again = [await two.after_one(), await two.after_one()]
        assert {job.session_id for job in again} == begun
        assert all(job.again for job in again)
        assert (await two.after_one()).org_id == "b"
    finally:
        await one.close()
        await two.close()
