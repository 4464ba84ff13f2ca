"""The queue on PostgreSQL: PgQueuer, with jobs enqueued in the caller's own transaction.

PgQueuer wakes workers by a trigger whose NOTIFY is part of the transaction that enqueues, which serializes
commits. That trigger is disabled: the `Notifier` sends the wake-up after the commit, and polling covers lost
ones. PgQueuer's log of finished jobs is disabled too, because the session's own log is the record.

Most turns need no job: see `direct`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from pgqueuer import AsyncpgDriver, AsyncpgPoolDriver, Queries, QueueManager, RetryRequested
from pgqueuer.adapters.persistence.qb import (
    QueryBuilderEnvironment,
    QueryQueueBuilder,
    QuerySchedulerBuilder,
)
from pgqueuer.db import Driver
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.models import Job as PickedJob
from pgqueuer.models import TableChangedEvent
from pgqueuer.types import Channel

from perdure.domain.ids import OrgId, SessionId, TaskId
from perdure.domain.metrics import Metrics
from perdure.store.audit_changes import bare
from perdure.store.database import NotSingle, Tx
from perdure.store.faults import CAUSES, sqlstate_cause
from perdure.store.postgres.connections import close_pool
from perdure.store.postgres.database import PostgresDatabase, PostgresTx
from perdure.store.postgres.direct import DirectTurns
from perdure.store.postgres.lost import is_connection_error
from perdure.store.postgres.notify import Frame, Notifier, Woke
from perdure.store.postgres.turns_of_orgs import (
    ADD_BY_ORG,
    BY_ORG,
    QUEUE,
    TASKS,
    TURNS,
    PlacedManager,
    Places,
)
from perdure.store.queue import CLOSE_SECONDS, PLACES, Handler, Job, PutBack

T = TypeVar("T")

HEARTBEAT_SECONDS = 7.0
"""A picked job with an older heartbeat goes to another worker; PgQueuer sends one every half of this time.
With polling, a killed worker's job is taken over within `HEARTBEAT_SECONDS + POLL_SECONDS`."""
POLL_SECONDS = 1.5
"""How often the queue is polled without a wake-up."""
BATCH = 64
"""The most jobs that one statement takes, and the most that one statement marks as done."""
RETRY_SECONDS = 0.5
"""Pause before a statement of the queue is retried while the server is unavailable."""
POOL = 3
"""The queue's own connections: to take jobs, to mark them as done, and for heartbeats."""

_HEARTBEAT = timedelta(seconds=HEARTBEAT_SECONDS)
_QUEUE, _LOG, _TRIGGER = QUEUE, f"{QUEUE}_log", f"{QUEUE}_changed"
_NO_LOG = "perdure_queue_no_log"
_CHANGES = f"""
ALTER TABLE {_QUEUE} DISABLE TRIGGER {_TRIGGER};
CREATE INDEX IF NOT EXISTS {_QUEUE}_by_session ON {_QUEUE} (payload);
{ADD_BY_ORG};
CREATE OR REPLACE FUNCTION {_NO_LOG}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE OR REPLACE TRIGGER {_NO_LOG} BEFORE INSERT ON {_LOG} FOR EACH ROW EXECUTE FUNCTION {_NO_LOG}();
"""
_HAS_CHANGES = (
    f"SELECT count(*) = 2 AND to_regclass('{BY_ORG}') IS NOT NULL FROM pg_trigger WHERE NOT tgisinternal"
    " AND tgrelid IN (to_regclass($1), to_regclass($2))"
    f" AND (tgname = '{_TRIGGER}' AND tgenabled = 'D' OR tgname = '{_NO_LOG}' AND tgenabled = 'O')"
)
_SOON = "clock_timestamp() + make_interval(secs => ?)"
_LIVE = (
    f"SELECT 1 FROM {_QUEUE} WHERE payload = ? AND (status = 'queued' AND execute_after < {_SOON}"
    " OR status = 'picked' AND heartbeat > clock_timestamp() - make_interval(secs => ?)"
    f" AND heartbeat < {_SOON}) LIMIT 1"
)
"""Times that are yet to come are from before the server's clock went back. A live worker's heartbeat follows
the clock within seconds; a job that waits for such a time must not keep the sweep from enqueuing another."""
_GIVE_BACK = (
    f"UPDATE {_QUEUE} SET status = 'queued', attempts = attempts + 1, queue_manager_id = NULL, slot = NULL,"
    " updated = now(), heartbeat = now() WHERE queue_manager_id = ANY($1::uuid[]) AND status = 'picked'"
)

log = logging.getLogger("perdure.store")


class PostgresQueue:
    """The queue for PostgreSQL.

    Create it with `open_postgres_queue`. The caller owns the notifier.

    Args:
        places: how many jobs of sessions run in this process at a time.
    """

    knows_all_jobs = False  # direct turns have none in their first second

    def __init__(
        self,
        database: PostgresDatabase,
        notifier: Notifier,
        settings: DBSettings,
        places: int,
        metrics: Metrics,
    ) -> None:
        self._wait = metrics.queue_wait
        self._database = database
        self._notifier = notifier
        self._settings = settings
        self._places = Places(places)
        self._pool: Any = None
        self._driver: _WokenDriver | None = None
        self._manager: QueueManager | None = None
        self._owners: list[UUID] = []
        self._managing: set[asyncio.Task[None]] = set()
        self._running: set[asyncio.Task[object]] = set()
        self._direct = DirectTurns(self._places, self._wait, self._wake)
        notifier.on_frames(self._receive)
        notifier.on_loss(self._wake)

    async def enqueue(self, tx: Tx, job: Job) -> None:
        tx = bare(tx)
        if not isinstance(tx, PostgresTx):
            raise TypeError(f"a job must be enqueued in a PostgreSQL transaction, not a {type(tx).__name__}")
        if self._direct.take(tx, job):
            return
        if tx.single:
            raise NotSingle
        queries = _queries(AsyncpgDriver(tx.connection), self._settings)
        headers: dict[str, str] = {"org_id": job.org_id}
        if job.again:
            headers["again"] = "yes"
        if job.task_id is not None:
            headers["session_id"] = job.session_id
        entrypoint, priority = TASKS, 0
        if job.task_id is None:
            entrypoint, priority = TURNS, await self._places.priority(tx, job.org_id)
        await queries.enqueue(entrypoint, job.key.encode(), priority, headers=headers)
        tx.after_commit(self._announce)

    def _announce(self) -> None:
        self._wake()
        self._notifier.send(Woke())

    def _receive(self, frames: list[Frame]) -> None:
        if any(isinstance(frame, Woke) for frame in frames):
            self._wake()

    def _wake(self) -> None:
        if self._driver is not None:
            self._driver.wake()

    async def start(self, handler: Handler) -> None:
        if self._manager is not None:
            raise RuntimeError("the queue is already running")
        if self._pool is None:
            # If the server crashes, the last marks of finished jobs may be lost, and those jobs run again.
            # That is harmless, but waiting for a disk flush on each mark is slow.
            self._pool = await self._database.open_pool(POOL, synchronous_commit="off")
        self._driver = _WokenDriver(self._pool, self._settings)
        self._manager = self._new_manager(self._driver, handler)
        self._owners.append(self._manager.queue_manager_id)
        self._direct.start(handler, _queries(self._driver, self._settings))
        task = asyncio.create_task(self._manage(self._manager), name="perdure-queue")
        self._managing.add(task)
        task.add_done_callback(self._managing.discard)

    def _new_manager(self, driver: _WokenDriver, handler: Handler) -> QueueManager:
        manager = PlacedManager(_queries(driver, self._settings), self._settings.channel, self._places)

        async def handle(picked: PickedJob) -> None:
            try:
                if manager.shutdown.is_set() or not await self._handle(picked, handler):
                    raise RetryRequested
            finally:
                if self._places.release(picked.id):
                    driver.wake()

        for entrypoint in (TURNS, TASKS):
            manager.entrypoint(entrypoint, accepts_context=False)(handle)
        return manager

    async def _manage(self, manager: QueueManager) -> None:
        """Run jobs until the manager is told to stop and the handlers have returned."""
        while True:
            try:
                await manager.run(
                    dequeue_timeout=timedelta(seconds=POLL_SECONDS),
                    batch_size=BATCH,
                    heartbeat_timeout=_HEARTBEAT,
                    log_aggregation_interval=timedelta(0),
                )
                return
            except Exception:
                log.exception("the queue failed; restarting it")
            if manager.shutdown.is_set():
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _handle(self, picked: PickedJob, handler: Handler) -> bool:
        """Run the handler; return whether the job is done."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a running coroutine has a task
        self._running.add(task)
        key = (picked.payload or b"").decode()
        if picked.attempts == 0:
            due = max(
                picked.created, picked.execute_after
            )  # a lease is due once its turn has lost its process
            self._wait.observe(max(0.0, (picked.updated - due).total_seconds()))
        try:
            await handler(_job_of(picked, key))
        except PutBack:
            return False
        except asyncio.CancelledError:
            task.uncancel()
            return False
        except Exception:
            log.exception("the handler of a job for %s failed", key)
        finally:
            self._running.discard(task)
        return True

    async def stop(self) -> None:
        self._direct.stop()
        if self._manager is not None:
            self._manager.shutdown.set()
            self._manager = None

    async def close(self) -> None:
        await self.stop()
        if self._driver is not None:
            self._driver.closing = True
        for task in list(self._running):
            task.cancel()
        await self._direct.close(CLOSE_SECONDS)
        if self._managing:
            _, late = await asyncio.wait(self._managing, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
        if self._pool is not None:
            await self._give_back()
            await close_pool(self._pool)
            self._pool = None

    async def _give_back(self) -> None:
        """Put this process's unfinished jobs back at once, instead of after their heartbeats expire."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._pool.execute(_GIVE_BACK, self._owners)
        except Exception as error:
            if not is_connection_error(error):
                raise
        self._notifier.send(Woke())

    async def has_live_job(self, tx: Tx, key: SessionId | TaskId) -> bool:
        if key in self._direct:
            return True
        seconds = 2 * HEARTBEAT_SECONDS
        return await tx.one(_LIVE, key.encode(), seconds, seconds, seconds) is not None

    def depth(self) -> int:
        return 0  # jobs wait in the database, where every process sees them

    async def waiting(self, tx: Tx) -> int:
        found = await tx.one(f"SELECT count(*) FROM {_QUEUE} WHERE status = 'queued'")
        return int(found[0]) if found else 0


def _job_of(picked: PickedJob, key: str) -> Job:
    """The job as handlers see it.

    A job that was put back was tried. PgQueuer does not tell whether it takes a job over from a dead worker.
    A job that was created longer ago than a heartbeat lasts may be one; if it is not, the first append of its
    runner corrects the count.
    """
    headers = picked.headers or {}
    old = picked.updated - picked.created > _HEARTBEAT
    again = bool(headers.get("again")) or picked.attempts > 0 or old
    org_id, session_id = OrgId(str(headers.get("org_id", ""))), headers.get("session_id")
    if session_id is None:
        return Job(org_id, SessionId(key), again)
    return Job(org_id, SessionId(str(session_id)), again, TaskId(key))


class _WokenDriver(AsyncpgPoolDriver):
    """PgQueuer's driver over our pool. It retries while the server is unavailable; our notifier wakes it."""

    def __init__(self, pool: Any, settings: DBSettings) -> None:
        super().__init__(pool)
        self._jobs_pool = pool
        self.closing = False
        self._on_change: Callable[[str], None] | None = None
        self._woken = False
        self._changed = TableChangedEvent(
            channel=settings.channel,
            operation="insert",
            sent_at=datetime.now(UTC),
            table=settings.queue_table,
            type="table_changed_event",
        ).model_dump_json()

    def wake(self) -> None:
        """Make PgQueuer fetch jobs. Does nothing if an earlier wake-up is still pending."""
        if not self._woken and self._on_change is not None:
            self._woken = True
            self._on_change(self._changed)

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        self._woken = False
        fetch = super().fetch
        return await self._with_retries(lambda: fetch(query, *args))

    async def execute(self, query: str, *args: object) -> str:
        execute = super().execute
        return await self._with_retries(lambda: execute(query, *args))

    async def _with_retries(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except Exception as error:
                cause = sqlstate_cause(getattr(error, "sqlstate", None) or "")
                if self.closing or not (cause or is_connection_error(error)):
                    raise
                if cause is not None:
                    log.warning("no jobs can be taken from the queue: %s", CAUSES[cause])
                if cause == "read_only":
                    await self._jobs_pool.expire_connections()  # new ones may find a writable server
            await asyncio.sleep(RETRY_SECONDS)

    async def notify(self, channel: str, payload: str) -> None:
        # PgQueuer probes its listener this way. Answer at once: the notifier checks its own connection.
        if self._on_change is not None:
            self._on_change(payload)

    async def add_listener(self, channel: str, callback: Callable[[str | bytes | bytearray], None]) -> None:
        self._on_change = callback

    async def __aexit__(self, *_: object) -> None:
        self._on_change = None


def _queries(driver: Driver, settings: DBSettings) -> Queries:
    """Return PgQueuer's statements for our tables; it accepts settings only through its three builders."""
    return Queries(
        driver,
        QueryBuilderEnvironment(settings),
        QueryQueueBuilder(settings),
        QuerySchedulerBuilder(settings),
    )


async def open_postgres_queue(
    database: PostgresDatabase, notifier: Notifier, places: int = PLACES, metrics: Metrics | None = None
) -> PostgresQueue:
    """Open the queue; create or upgrade its tables.

    Args:
        places: how many jobs of sessions run in this process at a time.

    Raises:
        Unavailable: no server answers.
    """
    settings = _settings()
    connection = await database.connect(statement_timeout="0", lock_timeout="0")
    try:
        with database.connecting():
            await _install(connection, settings)
    finally:
        with contextlib.suppress(Exception):
            await connection.close(timeout=CLOSE_SECONDS)
    return PostgresQueue(database, notifier, settings, places, metrics or Metrics())


def _settings() -> DBSettings:
    """Return PgQueuer's settings, all of them set here: it would read missing ones from the environment."""
    return DBSettings(
        prefix="",
        db_schema=None,
        channel=Channel(_TRIGGER),
        function=f"{_QUEUE}_notify",
        statistics_table=f"{_QUEUE}_statistics",
        queue_status_type=f"{_QUEUE}_status",
        queue_table=_QUEUE,
        queue_table_log=_LOG,
        trigger=_TRIGGER,
        schedules_table=f"{_QUEUE}_schedules",
        durability=Durability.balanced,
        widen_id=True,
    )


async def _install(connection: Any, settings: DBSettings) -> None:
    """Create or upgrade PgQueuer's tables, with our changes; one process at a time."""
    queries = _queries(AsyncpgDriver(connection), settings)
    async with queries.schema_lock():
        if not await queries.schema_is_installed():
            async with connection.transaction():
                await queries.install()
                await queries.optimize_autovacuum()
                await connection.execute(_CHANGES)
            return
        plan = await queries.plan_upgrade()
        if plan.statements:
            await queries.apply_upgrade()
        if plan.statements or not await connection.fetchval(_HAS_CHANGES, _QUEUE, _LOG):
            await connection.execute(_CHANGES)
