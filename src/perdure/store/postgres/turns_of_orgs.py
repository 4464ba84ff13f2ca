"""How organizations take turns on PostgreSQL: priorities for PgQueuer's jobs, and places in each process.

While all places are taken, each job of an organization gets a lower priority than the one before it, and the
first one of an organization a higher priority than all that waits. Jobs are then taken in the order of their
priorities, as PgQueuer does anyway: nothing is scanned, and nothing is lost when a process stops.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator, Container
from datetime import timedelta

from pgqueuer import Queries, QueueManager
from pgqueuer.models import Job as PickedJob
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pgqueuer.types import Channel, JobId, QueueEntrypoint

from perdure.domain.ids import OrgId
from perdure.store.database import Tx

TURNS, TASKS = "advance", "task"
"""The names of PgQueuer's entrypoints: jobs of sessions, which need a place, and those of tasks."""
QUEUE = "perdure_queue"
LONGEST = 60.0
"""Seconds after which a transaction that enqueued a job has ended."""
BY_ORG = f"{QUEUE}_by_org"
ADD_BY_ORG = (
    f"CREATE INDEX IF NOT EXISTS {BY_ORG} ON {QUEUE} ((headers->>'org_id'), priority)"
    f" WHERE status = 'queued' AND entrypoint = '{TURNS}'"
)
_WAITING = (
    f"SELECT (SELECT MAX(priority) FROM {QUEUE} WHERE status = 'queued' AND entrypoint = '{TURNS}'),"
    f" (SELECT MIN(priority) FROM {QUEUE} WHERE status = 'queued' AND entrypoint = '{TURNS}'"
    " AND headers->>'org_id' = ?)"
)


class Places:
    """The places of one process, and what it knows of the jobs that wait for one.

    Args:
        count: how many jobs of sessions run at a time.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._held: dict[JobId, OrgId] = {}
        self._holders: Counter[OrgId] = Counter()
        self._last: dict[OrgId, int] = {}
        """The priority of the last job that each organization was given since jobs began to wait."""
        self._put = 0
        """The jobs that were enqueued here since this process last found that none was left."""
        self._open: dict[int, float] = {}
        """When jobs were enqueued, by number, whose transactions are still open."""
        self._numbers = itertools.count()

    @property
    def free(self) -> int:
        return self.count - len(self._held)

    @property
    def nobody_waits(self) -> bool:
        """Whether a place is free, and no job waits for one, as far as this process knows."""
        return self.free > 0 and not self._put

    def take(self, job_id: JobId, org_id: OrgId) -> None:
        """Note that a job has a place."""
        if job_id not in self._held:
            self._held[job_id] = org_id
            self._holders[org_id] += 1

    def release(self, job_id: JobId) -> bool:
        """Note that a job is done. Returns whether all places were taken until now."""
        org_id = self._held.pop(job_id, None)
        if org_id is None:
            return False
        self._holders[org_id] -= 1
        if not self._holders[org_id]:
            del self._holders[org_id]
        return self.free == 1

    def keep(self, running: Container[JobId]) -> None:
        """Release the places of PgQueuer's jobs that do not run here, in case it has not begun one."""
        for job_id in [each for each in self._held if each > 0 and each not in running]:
            self.release(job_id)

    def drained(self) -> None:
        """Note that no job was left when this process looked."""
        began = time.monotonic() - LONGEST
        for number in [each for each, at in self._open.items() if at < began]:
            del self._open[number]  # it was rolled back
        self._put = len(self._open)
        if not self._open:
            self._last.clear()

    async def priority(self, tx: Tx, org_id: OrgId) -> int:
        """Return the priority of the organization's next job.

        Without jobs that wait, all have the same one, and nothing is read. Even numbers are rounds, in each
        of which every organization has one job; the odd number above is for an organization's first one.
        """
        number = next(self._numbers)
        self._open[number] = time.monotonic()
        tx.after_commit(lambda: self._committed(number))
        self._put += 1
        if self._put <= self.free:
            return 0
        found = await tx.one(_WAITING, org_id)
        head, last = (None, None) if found is None else found
        if head is None:
            return self._noted(org_id, 0)
        current = head - head % 2
        before = min((each for each in (last, self._last.get(org_id)) if each is not None), default=None)
        if before is not None:
            return self._noted(org_id, min(current, before - before % 2 - 2))
        return self._noted(org_id, current if org_id in self._holders else current + 1)

    def _committed(self, number: int) -> None:
        self._open.pop(number, None)

    def _noted(self, org_id: OrgId, priority: int) -> int:
        self._last[org_id] = priority
        return priority


def place_of(picked: PickedJob) -> OrgId | None:
    """The organization of a job that needs a place; None for one of a task, which needs none."""
    headers = picked.headers or {}
    return None if "session_id" in headers else OrgId(str(headers.get("org_id", "")))


class PlacedManager(QueueManager):
    """PgQueuer's manager, which takes no more jobs of sessions than there are places."""

    def __init__(self, queries: Queries, channel: Channel, places: Places) -> None:
        super().__init__(queries, channel=channel)
        self._places = places

    async def fetch_jobs(
        self, batch_size: int, global_concurrency_limit: int | None, heartbeat_timeout: timedelta
    ) -> AsyncGenerator[PickedJob, None]:
        """Yield jobs that are ready, one at a time."""
        unlimited = EntrypointExecutionParameter(concurrency_limit=0)
        while not self.shutdown.is_set():
            if self._places.free <= 0:
                self._places.keep(self.job_context)
            free = self._places.free
            names = (TURNS, TASKS) if free > 0 else (TASKS,)
            most = min(batch_size, free) if free > 0 else batch_size
            jobs = await self.queries.dequeue(
                batch_size=most,
                entrypoints={QueueEntrypoint(name): unlimited for name in names},
                queue_manager_id=self.queue_manager_id,
                global_concurrency_limit=global_concurrency_limit,
                heartbeat_timeout=heartbeat_timeout,
            )
            if len(jobs) < most and free > 0:
                self._places.drained()
            for job in jobs:
                if (org_id := place_of(job)) is not None:
                    self._places.take(job.id, org_id)
            if not jobs:
                return
            for job in jobs:
                yield job
