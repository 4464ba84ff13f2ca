"""The queue of sessions that need a runner.

The queue is a hint: the session's row is authoritative, and the sweep enqueues sessions whose job was lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.events import Event
from perdure.domain.ids import OrgId, SessionId, TaskId
from perdure.domain.metrics import Metrics
from perdure.store.database import Tx
from perdure.store.fair_line import FairLine
from perdure.store.sessions import SessionRow

log = logging.getLogger("perdure.store")


MAX_BEGUN = 50_000
"""The most characters of events that a job keeps for its runner."""
PLACES = 1_000
"""How many jobs of sessions run in a process at a time, by default."""
CLOSE_SECONDS = 5.0
"""How long `close` waits for the handlers that it has cancelled."""


class Begun(Struct):
    """A session as the append left it that its turn begins with, for a runner in the same process.

    It is filled in by the transaction that enqueues the job, and may be outdated when the job runs. A job
    that has to wait loses it.
    """

    row: SessionRow | None = None
    events: tuple[Event, ...] = ()

    def fill_in(self, row: SessionRow, events: tuple[Event, ...]) -> None:
        """Keep them, unless they are large: many jobs may run."""
        if sum(len(event.data) for event in events) <= MAX_BEGUN:
            self.row, self.events = row, events


class Job(Struct, frozen=True):
    """A session to advance, or a tool of it to run in the background.

    Attributes:
        again: an earlier attempt may have died or failed; it counts as a recovery.
        task_id: the task of the tool; None for the session itself.
        begun: what this process knows of the session; no other process gets it.
    """

    org_id: OrgId
    session_id: SessionId
    again: bool = False
    task_id: TaskId | None = None
    begun: Begun | None = None

    @property
    def key(self) -> SessionId | TaskId:
        """What the job is for: one of a task is none of its session."""
        return self.task_id or self.session_id


Handler = Callable[[Job], Awaitable[None]]


class PutBack(Exception):
    """Raised by a handler whose process stops, so that another process gets the job at once."""


class Queue(Protocol):
    """The port that use cases and the worker see."""

    knows_all_jobs: bool
    """Whether `has_live_job` knows of every runner at once. Otherwise one may run that has no job yet."""

    async def enqueue(self, tx: Tx, job: Job) -> None:
        """Enqueue a job in the caller's transaction: the job exists if and only if that commits."""
        ...

    async def start(self, handler: Handler) -> None:
        """Start to pass jobs to the handler, many concurrently.

        Jobs of sessions run as far as the process has places. Those that wait for one are taken in turns of
        their organizations, so that none is held up by another's many jobs. Jobs of tasks need no place.

        A job is done when the handler returns or raises. After `PutBack` or a cancellation, another process
        gets the job, if one is running.
        """
        ...

    async def stop(self) -> None:
        """Start no more jobs. Running handlers continue."""
        ...

    async def close(self) -> None:
        """Stop, cancel the running handlers, put their jobs back, and release all resources."""
        ...

    async def has_live_job(self, tx: Tx, key: SessionId | TaskId) -> bool:
        """Return whether a job with this key waits or is held by a live worker."""
        ...

    def depth(self) -> int:
        """Return the number of jobs that wait in this process."""
        ...

    async def waiting(self, tx: Tx) -> int:
        """Return the number of jobs that wait, in all processes."""
        ...


class LocalQueue:
    """The queue of an installation with SQLite: in memory, filled when a transaction commits.

    It needs no table. Only one process uses it, and at its next start that process finds every active session
    by its row.

    Args:
        places: how many jobs of sessions run at a time.
    """

    knows_all_jobs = True

    def __init__(
        self,
        spawn: Callable[[Awaitable[None]], object],
        places: int = PLACES,
        metrics: Metrics | None = None,
    ) -> None:
        self._spawn = spawn
        self._wait = (metrics or Metrics()).queue_wait
        self._places = places
        self._waiting: FairLine[tuple[Job, float]] = FairLine()
        """Jobs, and since when they wait."""
        self._tasks: list[Job] = []
        """The jobs of tasks that wait for the start."""
        self._handler: Handler | None = None
        self._known: Counter[SessionId | TaskId] = Counter()
        self._holders: Counter[OrgId] = Counter()
        self._held = 0
        self._running: set[asyncio.Task[object]] = set()

    async def enqueue(self, tx: Tx, job: Job) -> None:
        tx.after_commit(lambda: self.put(job))

    def put(self, job: Job) -> None:
        """Add a job whose transaction has committed."""
        self._known[job.key] += 1
        if job.task_id is not None and self._handler is None:
            self._tasks.append(job)
        elif self._handler is not None and (job.task_id is not None or self._held < self._places):
            self._begin(job, self._handler, 0.0)
        else:
            # Its session may get other settings until it runs.
            waits = replace(job, begun=None), time.monotonic()
            self._waiting.put(job.org_id, waits, has_place=job.org_id in self._holders)

    def _begin(self, job: Job, handler: Handler, waited: float) -> None:
        """Run a job that has waited for so many seconds."""
        if job.task_id is None:
            self._wait.observe(waited)
            self._held += 1
            self._holders[job.org_id] += 1
        self._spawn(self._run(job, handler))

    async def _run(self, job: Job, handler: Handler) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a running coroutine has a task
        self._running.add(task)
        try:
            await handler(job)
        except PutBack:
            pass  # no other process exists; the next one finds the session by its row
        except Exception:
            log.exception("the handler of a job for %s failed", job.key)
        finally:
            self._running.discard(task)
            _release(self._known, job.key)
            if job.task_id is None:
                self._held -= 1
                _release(self._holders, job.org_id)
                self._fill()

    def _fill(self) -> None:
        """Begin jobs that wait, as far as there are places."""
        while self._handler is not None and self._waiting and self._held < self._places:
            job, since = self._waiting.next()
            self._begin(job, self._handler, time.monotonic() - since)

    async def start(self, handler: Handler) -> None:
        self._handler = handler
        tasks, self._tasks = self._tasks, []
        for job in tasks:
            self._begin(job, handler, 0.0)
        self._fill()

    async def stop(self) -> None:
        self._handler = None

    async def close(self) -> None:
        await self.stop()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_SECONDS)

    async def has_live_job(self, tx: Tx, key: SessionId | TaskId) -> bool:
        return key in self._known

    def depth(self) -> int:
        return len(self._waiting) + len(self._tasks)

    async def waiting(self, tx: Tx) -> int:
        return self.depth()


Key = TypeVar("Key")


def _release(counts: Counter[Key], key: Key) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
