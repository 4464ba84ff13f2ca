"""The sweep: recovers lost sessions.

It enqueues active sessions without a runner and parked sessions that are due. The queue is a hint; the
session's row is authoritative.
"""

from __future__ import annotations

import logging
from functools import partial

from msgspec import Struct

from perdure.domain.ids import OrgId, SessionId
from perdure.engine.context import Engine
from perdure.store.database import Tx
from perdure.store.queue import Job
from perdure.store.working_sessions import ActiveSession, active_sessions, ahead, due
from perdure.worker.rounds import again_and_again
from perdure.worker.worker import Worker

log = logging.getLogger("perdure.sweep")

SWEEP_EVERY = 2.0
"""Seconds between two sweeps."""

STALE_AFTER = 10.0
"""Seconds after which an active session that has not changed is checked, longer than a queue takes to hand
out a job. They are counted from when this process first saw it so: stored times would depend on clocks, which
go back and jump."""


class _Sighting(Struct, frozen=True):
    """An active session as it was first seen, at `since` seconds on this process's monotonic clock."""

    epoch: int
    head: int
    since: float


class Sweep:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, engine: Engine, worker: Worker) -> None:
        self._engine = engine
        self._worker = worker
        self._seen: dict[SessionId, _Sighting] = {}

    async def run(self) -> None:
        """Sweep until cancelled."""
        pause = partial(self._engine.clock.sleep, SWEEP_EVERY)
        await again_and_again(lambda number: self.once(), pause, log, "the sweep failed")

    async def once(self, *, stale_after: float = STALE_AFTER) -> int:
        """Sweep once; return the number of sessions without a runner that it found.

        Args:
            stale_after: seconds without a change; 0 at start, when nothing can be running yet.
        """
        engine, now = self._engine, self._engine.clock.now()

        async def candidates(tx: Tx) -> tuple[list[ActiveSession], list[tuple[OrgId, SessionId]]]:
            return await active_sessions(tx), [*await due(tx, now), *await ahead(tx, now)]

        active, parked = await engine.database.read(candidates)
        jobs = [Job(each.org_id, each.id, again=True) for each in self._lost(active, stale_after)]
        # At start, a parked session may be what the last process died of.
        again = stale_after == 0
        jobs += [Job(org_id, id_, again) for org_id, id_ in parked if not self._worker.runs(id_)]
        if jobs:
            await engine.database.write(lambda tx: self._enqueue(tx, jobs))
        return len(jobs)

    def _lost(self, active: list[ActiveSession], stale_after: float) -> list[ActiveSession]:
        """Return the sessions that nobody has changed for a time, and that this process does not run."""
        moment, seen, lost = self._engine.clock.elapsed(), {}, []
        for each in active:
            if self._worker.runs(each.id):
                continue
            before = self._seen.get(each.id)
            if before is None or (before.epoch, before.head) != (each.epoch, each.head):
                before = _Sighting(each.epoch, each.head, moment)
            if moment - before.since >= stale_after:
                lost.append(each)
                # One whose job waits for a place is not looked up again in each sweep.
                before = _Sighting(each.epoch, each.head, moment)
            seen[each.id] = before
        self._seen = seen
        return lost

    async def _enqueue(self, tx: Tx, jobs: list[Job]) -> None:
        for job in jobs:
            if not await self._engine.queue.has_live_job(tx, job.session_id):
                await self._engine.queue.enqueue(tx, job)
