"""The sweep: recovers lost sessions and removes deleted data.

It enqueues active sessions without a runner and parked sessions that are due, and purges what deleted
sessions left behind. The queue is a hint; the session's row is authoritative.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from perdure.domain.errors import PerdureError
from perdure.domain.ids import OrgId, SessionId
from perdure.engine.context import Engine
from perdure.store.blobs import KEPT, purge_blobs
from perdure.store.database import Purged, Tx
from perdure.store.idempotency import KEPT as ANSWERS_KEPT
from perdure.store.idempotency import purge_answers
from perdure.store.queue import Job
from perdure.store.sessions import due, purge_deleted, unfinished
from perdure.worker.worker import Worker

log = logging.getLogger("perdure.sweep")

SWEEP_EVERY = 2.0
"""Seconds between two sweeps."""

STALE_AFTER = 10_000_000
"""Microseconds without a change after which an active session is checked, longer than a queue takes to hand
out a job."""

PURGE_AFTER = 3_600_000_000
"""Microseconds between a session's deletion and the removal of its log."""

PURGE_SECONDS = 1.0
"""The most seconds per minute for each purge: of deleted sessions' logs, of contents without a file (about
10,000 small ones, or 300 MB), and of expired answers to requests with an Idempotency-Key."""


class Sweep:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, engine: Engine, worker: Worker) -> None:
        self._engine = engine
        self._worker = worker

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self._engine.clock.sleep(SWEEP_EVERY)
            try:
                await self.once()
            except PerdureError as error:
                log.warning("the sweep failed: %s", error.message)
            except Exception:
                log.exception("the sweep failed")

    async def once(self, *, stale_after: int = STALE_AFTER) -> int:
        """Sweep once; return the number of sessions without a runner that it found.

        Args:
            stale_after: microseconds without a change; 0 at start, when nothing can be running yet.
        """
        engine, now = self._engine, self._engine.clock.now()

        async def candidates(tx: Tx) -> list[tuple[OrgId, SessionId]]:
            return [*await unfinished(tx, now - stale_after), *await due(tx, now)]

        lost = [pair for pair in await engine.database.read(candidates) if not self._worker.runs(pair[1])]
        if lost:
            await engine.database.write(lambda tx: self._enqueue(tx, lost))
        if self._purges(now):
            await self._repeat(lambda tx: purge_deleted(tx, now - PURGE_AFTER))
            await self._repeat(lambda tx: purge_blobs(tx, now - KEPT))
            await self._repeat(lambda tx: purge_answers(tx, now - ANSWERS_KEPT))
        return len(lost)

    async def _repeat(self, purge: Callable[[Tx], Awaitable[Purged]]) -> None:
        """Run a purge batch by batch, so that other writes come in between, for `PURGE_SECONDS` at most."""
        clock, began = self._engine.clock, self._engine.clock.elapsed()
        while (await self._engine.database.write(purge)).more:
            if clock.elapsed() - began > PURGE_SECONDS:
                return

    def _purges(self, now: int) -> bool:
        """Return whether this sweep purges, about once a minute."""
        return now // 1_000_000 % 60 < SWEEP_EVERY

    async def _enqueue(self, tx: Tx, sessions: list[tuple[OrgId, SessionId]]) -> None:
        for org_id, session_id in sessions:
            if not await self._engine.queue.has_live_job(tx, session_id):
                await self._engine.queue.enqueue(tx, Job(org_id, session_id))
