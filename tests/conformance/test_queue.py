"""The Queue port: in one process and between processes, then what is specific to PgQueuer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from functools import partial

import pytest
import pytest_asyncio
from pgqueuer.adapters.persistence.schema_plan import advisory_key

from perdure.domain.errors import InvalidInput, Unavailable
from perdure.store.database import Database, Tx
from perdure.store.migrate import migrate
from perdure.store.postgres.database import open_postgres
from perdure.store.postgres.notify import open_notifier
from perdure.store.postgres.queue import _settings, open_postgres_queue
from perdure.store.queue import Job, LocalQueue, PutBack, Queue
from tests.conformance.other_process import other_process
from tests.conformance.places import Place, eventually, postgres, soon, wire_to

WAITING = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted LIMIT 1"
"""The process that waits for an advisory lock."""


class Queues:
    """Creates queues, each as a separate process would have it; with SQLite there is only one."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._closers: list[Awaitable[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> tuple[Database, Queue]:
        database = await self.place.open()
        if self.place.kind == "sqlite":
            local = LocalQueue(self._spawn)
            self._closers.append(local.close())
            return database, local
        notifier = await open_notifier(postgres(database))
        queue = await open_postgres_queue(postgres(database), notifier)
        self._closers += [notifier.close(), queue.close()]
        return database, queue

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for closer in reversed(self._closers):
            await closer


@pytest_asyncio.fixture
async def queues(place: Place) -> AsyncIterator[Queues]:
    queues = Queues(place)
    yield queues
    await queues.close()


@pytest_asyncio.fixture
async def postgres_queues(postgres_place: Place) -> AsyncIterator[Queues]:
    queues = Queues(postgres_place)
    yield queues
    await queues.close()


class Desk:
    """A handler that records jobs and holds each until the test releases it."""

    def __init__(self, *, hold: bool = False) -> None:
        self.taken: asyncio.Queue[Job] = asyncio.Queue()
        self.seen: Counter[str] = Counter()
        self.running = 0
        self.most = 0
        self.free = asyncio.Event()
        if not hold:
            self.free.set()

    async def __call__(self, job: Job) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.seen[job.session_id] += 1
        self.taken.put_nowait(job)
        try:
            await self.free.wait()
        finally:
            self.running -= 1

    async def next(self) -> Job:
        return await soon(self.taken.get())


async def put(database: Database, queue: Queue, *names: str) -> None:
    async def body(tx: Tx) -> None:
        for name in names:
            await queue.enqueue(tx, Job("org_1", name))

    await database.write(body)


def live(database: Database, queue: Queue, name: str) -> Awaitable[bool]:
    return database.read(lambda tx: queue.has_live_job(tx, name))


async def test_a_job_exists_exactly_if_its_transaction_commits(queues: Queues) -> None:
    database, queue = await queues.open()
    desk = Desk()
    await queue.start(desk)

    async def failing(tx: Tx) -> None:
        await queue.enqueue(tx, Job("org_1", "lost"))
        raise InvalidInput("no")

    with pytest.raises(InvalidInput):
        await database.write(failing)
    assert not await live(database, queue, "lost")
    await put(database, queue, "kept")
    assert await desk.next() == Job("org_1", "kept")
    assert desk.seen == {"kept": 1}


async def test_a_job_of_a_task_is_none_of_its_session(queues: Queues) -> None:
    database, queue = await queues.open()
    job = Job("org_1", "s1", again=True, task_id="t1")
    await database.write(lambda tx: queue.enqueue(tx, job))
    assert await live(database, queue, "t1")
    assert not await live(database, queue, "s1")
    desk = Desk()
    await queue.start(desk)
    assert await desk.next() == job


async def test_jobs_that_wait_are_handed_out_at_the_start(queues: Queues) -> None:
    database, queue = await queues.open()
    await put(database, queue, *(f"s{number}" for number in range(30)))
    assert await live(database, queue, "s7")
    desk = Desk()
    await queue.start(desk)
    assert {(await desk.next()).session_id for _ in range(30)} == {f"s{number}" for number in range(30)}


async def test_every_job_is_handled_once(queues: Queues) -> None:
    database, queue = await queues.open()
    desk = Desk()
    await queue.start(desk)
    await asyncio.gather(*(put(database, queue, f"s{number}") for number in range(300)))
    for _ in range(300):
        await desk.next()
    assert desk.seen == Counter({f"s{number}": 1 for number in range(300)})


async def test_hundreds_of_long_jobs_run_at_once(queues: Queues) -> None:
    database, queue = await queues.open()
    desk = Desk(hold=True)
    await queue.start(desk)
    await put(database, queue, *(f"s{number}" for number in range(250)))
    for _ in range(250):
        await desk.next()
    assert desk.most == 250
    desk.free.set()


async def test_a_job_is_live_while_it_waits_and_while_it_runs_and_then_no_more(queues: Queues) -> None:
    database, queue = await queues.open()
    desk = Desk(hold=True)
    assert not await live(database, queue, "s")
    await put(database, queue, "s")
    assert await live(database, queue, "s")
    await queue.start(desk)
    await desk.next()
    assert await live(database, queue, "s")
    assert not await live(database, queue, "another")
    desk.free.set()
    await eventually(lambda: live(database, queue, "s"), lambda found: not found)


async def test_of_two_jobs_of_a_session_one_may_end_and_the_other_is_live(queues: Queues) -> None:
    database, queue = await queues.open()
    calls: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def handle(job: Job) -> None:
        mine = asyncio.Event()
        calls.put_nowait(mine)
        await mine.wait()

    await queue.start(handle)
    await put(database, queue, "s")
    one = await soon(calls.get())
    await put(database, queue, "s")
    two = await soon(calls.get())
    two.set()
    await put(database, queue, "after")
    three = await soon(calls.get())
    assert await live(database, queue, "s")
    one.set()
    three.set()
    await eventually(lambda: live(database, queue, "s"), lambda found: not found)


async def test_a_handler_that_raises_ends_its_job_and_no_other(
    queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    database, queue = await queues.open()
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def handle(job: Job) -> None:
        seen.put_nowait(job.session_id)
        if job.session_id == "bad":
            raise ValueError("spoilt")

    await queue.start(handle)
    await put(database, queue, "bad")
    assert await soon(seen.get()) == "bad"
    await eventually(lambda: live(database, queue, "bad"), lambda found: not found)
    await put(database, queue, "good")
    assert await soon(seen.get()) == "good"
    assert seen.empty()
    assert "spoilt" in caplog.text


async def test_after_a_stop_nothing_is_handed_out_and_what_runs_goes_on(queues: Queues) -> None:
    database, queue = await queues.open()
    desk = Desk(hold=True)
    await queue.start(desk)
    await put(database, queue, "before")
    await desk.next()
    await queue.stop()
    await put(database, queue, "after")
    assert await live(database, queue, "after")
    assert desk.running == 1
    desk.free.set()
    again = Desk()
    await queue.start(again)
    assert (await again.next()).session_id == "after"
    assert desk.seen == {"before": 1}


async def test_closing_ends_the_handlers(queues: Queues) -> None:
    database, queue = await queues.open()
    desk = Desk(hold=True)
    await queue.start(desk)
    await put(database, queue, "s")
    await desk.next()
    await soon(queue.close())
    assert desk.running == 0


# --- PostgreSQL
# -----------------------------------------------------------------------------------------------------


async def rows_of(database: Database, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await database.read(lambda tx: tx.all(sql))]


async def test_two_workers_share_the_jobs_and_none_is_handled_twice(postgres_queues: Queues) -> None:
    (database, one), (_, two) = await postgres_queues.open(), await postgres_queues.open()
    desks = Desk(), Desk()
    await one.start(desks[0])
    await two.start(desks[1])
    for start in range(0, 400, 20):
        await put(database, one, *(f"s{number}" for number in range(start, start + 20)))
    total = await eventually(lambda: _total(desks), lambda seen: sum(seen.values()) >= 400)
    assert total == Counter({f"s{number}": 1 for number in range(400)})
    await eventually(
        lambda: rows_of(database, "SELECT count(*) FROM perdure_queue"), lambda rows: rows == [(0,)]
    )


async def _total(desks: tuple[Desk, Desk]) -> Counter[str]:
    return desks[0].seen + desks[1].seen


async def test_a_worker_in_another_process_is_woken(postgres_queues: Queues) -> None:
    database, queue = await postgres_queues.open()
    async with other_process("work", postgres_queues.place.url) as other:
        assert await other.line() == "ready"
        await put(database, queue, "s")
        assert await other.line() == "org_1 s"


async def test_a_killed_workers_job_goes_to_one_that_lives(postgres_queues: Queues) -> None:
    database, queue = await postgres_queues.open()
    async with other_process("work", postgres_queues.place.url) as other:
        assert await other.line() == "ready"
        await put(database, queue, "s")
        assert await other.line() == "org_1 s"
        desk = Desk()
        await queue.start(desk)
        await other.kill()
        assert await live(database, queue, "s")
        assert (await desk.next()).session_id == "s"


@pytest.mark.parametrize("hours", [3, 24 * 3652])
async def test_a_job_from_before_the_clock_went_back_is_not_live(postgres_queues: Queues, hours: int) -> None:
    """Its worker may have died since, and nobody takes it before the clock has caught up."""
    database, queue = await postgres_queues.open()
    later = f"now() + interval '{hours} hours'"
    for status, column in (("queued", "execute_after"), ("picked", "heartbeat")):
        await put(database, queue, status)
        sql = f"UPDATE perdure_queue SET status = ?, {column} = {later} WHERE payload = ?"
        await database.write(lambda tx, s=status, sql=sql: tx.run(sql, s, s.encode()))
        assert not await live(database, queue, status)


async def test_a_job_that_is_taken_over_says_that_it_may_have_been_tried(postgres_queues: Queues) -> None:
    database, queue = await postgres_queues.open()
    desk = Desk()
    await put(database, queue, "fresh", "old")
    sql = "UPDATE perdure_queue SET created = now() - interval '1 minute' WHERE payload = ?"
    await database.write(lambda tx: tx.run(sql, b"old"))
    await database.write(lambda tx: queue.enqueue(tx, Job("org_1", "lost", again=True)))
    await queue.start(desk)
    jobs = [await desk.next() for _ in range(3)]
    assert {job.session_id: job.again for job in jobs} == {"fresh": False, "old": True, "lost": True}


@pytest.mark.parametrize("how", ["close", "put back"])
async def test_a_worker_that_ends_gives_its_jobs_to_another_at_once(
    postgres_queues: Queues, how: str
) -> None:
    (database, one), (_, two) = await postgres_queues.open(), await postgres_queues.open()
    desk, free = Desk(hold=True), asyncio.Event()

    async def giving_up(job: Job) -> None:
        if how == "close":
            await desk(job)
        else:
            desk.taken.put_nowait(job)
            await free.wait()
            raise PutBack

    await one.start(giving_up)
    await put(database, one, "s", "t")
    await desk.next()
    await desk.next()
    await one.stop()
    other = Desk()
    await two.start(other)
    if how == "close":
        await soon(one.close())
    else:
        free.set()
    async with asyncio.timeout(5):  # well before a heartbeat is missed
        taken = [await other.taken.get() for _ in range(2)]
    assert {(job.session_id, job.again) for job in taken} == {("s", True), ("t", True)}


async def test_nothing_is_kept_of_jobs_that_are_done(postgres_queues: Queues) -> None:
    database, queue = await postgres_queues.open()
    desk = Desk()
    await queue.start(desk)
    await put(database, queue, *(f"s{number}" for number in range(20)))
    for _ in range(20):
        await desk.next()
    for table in ("perdure_queue", "perdure_queue_log", "perdure_queue_statistics"):
        sql = f"SELECT count(*) FROM {table}"
        await eventually(partial(rows_of, database, sql), lambda rows: rows == [(0,)])


async def test_the_queue_outlives_a_server_that_is_away(postgres_place: Place) -> None:
    database = await postgres_place.open()
    async with wire_to(postgres_place.url) as wire:
        there = await open_postgres(wire.url, min_size=1, max_size=4)
        notifier = await open_notifier(there)
        queue = await open_postgres_queue(there, notifier)
        desk = Desk(hold=True)
        await queue.start(desk)
        await put(there, queue, "before")
        await desk.next()
        await wire.cut()
        await put(database, queue, "meanwhile")
        desk.free.set()
        await wire.mend()
        assert (await desk.next()).session_id == "meanwhile"
        await eventually(
            lambda: rows_of(database, "SELECT count(*) FROM perdure_queue"), lambda rows: rows == [(0,)]
        )
        await queue.close()
        await notifier.close()
        await there.close()


async def test_closing_does_not_wait_for_a_server_that_is_away(postgres_place: Place) -> None:
    async with wire_to(postgres_place.url) as wire:
        there = await open_postgres(wire.url, min_size=1, max_size=4)
        notifier = await open_notifier(there)
        queue = await open_postgres_queue(there, notifier)
        desk = Desk(hold=True)
        await queue.start(desk)
        await put(there, queue, "s")
        await desk.next()
        await wire.cut()
        for what in (queue, notifier, there):
            await soon(what.close())


async def test_its_tables_are_made_once_and_brought_up_to_date(postgres_place: Place) -> None:
    database = postgres(await postgres_place.open())
    await migrate(database)
    notifier = await open_notifier(database)
    await soon(asyncio.gather(*(open_postgres_queue(database, notifier) for _ in range(4))))
    triggers = "SELECT tgname, tgenabled::text FROM pg_trigger WHERE tgname LIKE 'perdure_queue%' ORDER BY 1"
    ours = [("perdure_queue_changed", "D"), ("perdure_queue_no_log", "O")]
    assert await rows_of(database, triggers) == ours
    # The state that an older version leaves behind.
    await database.write(lambda tx: tx.run("ALTER TABLE perdure_queue DROP COLUMN slot"))
    await database.write(lambda tx: tx.run("DROP TRIGGER perdure_queue_changed ON perdure_queue"))
    queue = await open_postgres_queue(database, notifier)
    assert await rows_of(database, triggers) == ours
    desk = Desk()
    await queue.start(desk)
    await put(database, queue, "s")
    await desk.next()
    await queue.close()
    await notifier.close()


async def test_the_environment_does_not_name_its_tables(
    postgres_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGQUEUER_PREFIX", "QUEUE_TABLE", "TRIGGER", "FUNCTION", "CHANNEL", "PGQUEUER_SCHEMA"):
        monkeypatch.setenv(name, "strange")
    database = postgres(await postgres_place.open())
    notifier = await open_notifier(database)
    await open_postgres_queue(database, notifier)
    tables = await rows_of(
        database, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    )
    assert all(str(name).startswith("perdure_queue") for (name,) in tables)
    await notifier.close()


async def test_a_connection_that_is_lost_while_it_is_opened_is_an_unavailable_database(
    postgres_place: Place,
) -> None:
    database = postgres(await postgres_place.open())
    await migrate(database)
    notifier = await open_notifier(database)
    holder = await database.connect()
    await holder.execute("SELECT pg_advisory_lock($1)", advisory_key(_settings()))
    opening = asyncio.create_task(open_postgres_queue(database, notifier))
    await eventually(lambda: holder.fetchval(WAITING))
    await holder.execute(f"SELECT pg_terminate_backend(({WAITING}))")
    with pytest.raises(Unavailable, match="cannot connect to the database at 127"):
        await opening
    await holder.close()
    await notifier.close()
