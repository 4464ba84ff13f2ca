"""Turns that run where they were enqueued, without a job in the queue.

The process that accepts a message usually has a place for its turn. Then nothing is enqueued: the turn begins
when its transaction has committed. That saves a third of the statements of a short turn. The queue's job only
says that the turn needs a runner, which the session's row says as well.

A turn that takes longer gets a *lease*: a job for the same session that is due in `LEASE_SECONDS`, and which
this process puts off as long as it runs the turn. To every process, of whichever release, the session has a
live job. If this process dies, the lease is due, and whoever takes it recovers the turn. A turn that dies
before it has a lease is found by the sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from msgspec import Struct
from pgqueuer import Queries
from pgqueuer.types import JobId

from perdure.domain.errors import Unavailable
from perdure.domain.ids import SessionId, TaskId
from perdure.domain.instruments import Histogram
from perdure.store.postgres.database import PostgresTx
from perdure.store.postgres.lost import is_connection_error
from perdure.store.postgres.turns_of_orgs import QUEUE, TURNS, Places
from perdure.store.queue import Handler, Job, PutBack

LEASE_SECONDS = 9.0
"""After this time without a sign of life, another process takes the turn over."""
RENEW_SECONDS = 2.5
"""How often a lease is put off."""
BEAT_SECONDS = 1.0
"""How often leases are looked at, and the age from which a turn has one."""

_RENEW = (
    f"UPDATE {QUEUE} SET execute_after = clock_timestamp() + make_interval(secs => $2)"
    " WHERE id = ANY($1) AND status = 'queued'"
)
_REMOVE = f"DELETE FROM {QUEUE} WHERE id = ANY($1) AND status = 'queued'"

log = logging.getLogger("perdure.store")


class _Turn(Struct, eq=False):
    """A turn that runs here.

    Attributes:
        place: its number among the holders of places.
        since: when it began, on the monotonic clock.
        lease: the id of its lease; None as long as it has none.
        renewed: when the lease was last put off.
        put_back: whether it has ended here, and is being put into the queue.
    """

    job: Job
    place: JobId
    since: float
    lease: JobId | None = None
    renewed: float = 0.0
    put_back: bool = False


class DirectTurns:
    """The turns that this process runs without a job.

    Args:
        waits: how long turns wait for a runner; these do not.
        freed: called when a place is free again of which there was none.
    """

    def __init__(self, places: Places, waits: Histogram, freed: Callable[[], None]) -> None:
        self._places = places
        self._waits = waits
        self._freed = freed
        self._numbers = itertools.count(-1, -1)  # ids of jobs are positive
        self._turns: dict[asyncio.Task[None], _Turn] = {}
        self._keys: Counter[SessionId | TaskId] = Counter()
        self._ended: list[JobId] = []
        """The leases of turns that have ended."""
        self._queries: Queries | None = None
        self._handler: Handler | None = None
        self._beating: asyncio.Task[None] | None = None

    def __contains__(self, key: SessionId | TaskId) -> bool:
        return key in self._keys

    def start(self, handler: Handler, queries: Queries) -> None:
        """Take turns from now on."""
        self._handler, self._queries = handler, queries
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat_again(), name="perdure-leases")

    def stop(self) -> None:
        """Take no more turns. Those that run continue."""
        self._handler = None

    async def close(self, seconds: float) -> None:
        """Cancel the turns that run, put them into the queue, and remove what leases are left."""
        self.stop()
        for task, turn in list(self._turns.items()):
            if not turn.put_back:
                task.cancel()
        if self._turns:
            await asyncio.wait(list(self._turns), timeout=seconds)
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])
            self._beating = None
        if self._queries is not None and self._ended:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._attempt(self._remove_ended())

    def take(self, tx: PostgresTx, job: Job) -> bool:
        """Have the job run here once the transaction has committed, if it may.

        Returns:
            False if it has to be enqueued: it is a recovery or no turn, or others have to come first.
        """
        handler, places = self._handler, self._places
        if handler is None or job.again or job.task_id is not None:
            return False
        if not places.nobody_waits:
            return False
        turn = _Turn(job, JobId(next(self._numbers)), 0.0)
        places.take(turn.place, job.org_id)
        tx.after_commit(lambda: self._begin(turn, handler))
        tx.after_rollback(lambda: self._give_up(turn))
        return True

    def _begin(self, turn: _Turn, handler: Handler) -> None:
        turn.since = time.monotonic()
        self._waits.observe(0.0)
        self._keys[turn.job.key] += 1
        task = asyncio.ensure_future(self._run(turn, handler))
        self._turns[task] = turn

    def _give_up(self, turn: _Turn) -> None:
        self._release(turn)

    def _release(self, turn: _Turn) -> None:
        if self._places.release(turn.place):
            self._freed()

    async def _run(self, turn: _Turn, handler: Handler) -> None:
        task, back = asyncio.current_task(), False
        assert task is not None  # noqa: S101 - a running coroutine has a task
        try:
            await handler(turn.job)
        except PutBack:
            back = True
        except asyncio.CancelledError:
            task.uncancel()
            back = True
        except Exception:
            log.exception("the handler of a job for %s failed", turn.job.key)
        if back:
            turn.put_back = True
            await self._attempt(self._put_back(turn))
        del self._turns[task]
        self._keys[turn.job.key] -= 1
        if not self._keys[turn.job.key]:
            del self._keys[turn.job.key]
        if turn.lease is not None:
            self._ended.append(turn.lease)
        self._release(turn)

    async def _put_back(self, turn: _Turn) -> None:
        """Enqueue the turn for another process."""
        await self._enqueue([turn], timedelta(0))
        await self._remove_ended()

    async def _enqueue(self, turns: list[_Turn], wait: timedelta) -> list[JobId]:
        """Enqueue jobs for turns that have begun; whoever takes one, takes the turn over."""
        assert self._queries is not None  # noqa: S101 - nothing runs before the start
        return await self._queries.enqueue(
            [TURNS] * len(turns),
            [turn.job.key.encode() for turn in turns],
            [0] * len(turns),
            [wait] * len(turns),
            None,
            [{"org_id": turn.job.org_id, "again": "yes"} for turn in turns],
        )

    async def _beat_again(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            if self._turns or self._ended:
                await self._attempt(self._beat())

    async def _beat(self) -> None:
        """Give leases to turns without one, put off those of others, and remove those of turns that ended."""
        now = time.monotonic()
        turns = list(self._turns.values())
        old = [turn for turn in turns if turn.lease is not None and now - turn.renewed >= RENEW_SECONDS]
        if old:
            assert self._queries is not None  # noqa: S101 - nothing runs before the start
            await self._queries.driver.execute(_RENEW, [turn.lease for turn in old], LEASE_SECONDS)
            for turn in old:
                turn.renewed = now
        new = [turn for turn in turns if turn.lease is None and now - turn.since >= BEAT_SECONDS]
        if new:
            leases = await self._enqueue(new, timedelta(seconds=LEASE_SECONDS))
            running = set(map(id, self._turns.values()))
            for turn, lease in zip(new, leases, strict=True):
                turn.lease, turn.renewed = lease, now
                if id(turn) not in running:
                    self._ended.append(lease)
        await self._remove_ended()

    async def _remove_ended(self) -> None:
        if self._ended and self._queries is not None:
            ended, self._ended = self._ended, []
            try:
                await self._queries.driver.execute(_REMOVE, ended)
            except BaseException:
                self._ended += ended
                raise

    async def _attempt(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it, or leave it to the next time or to the sweep."""
        try:
            await work
        except Exception as error:
            if not (isinstance(error, Unavailable) or is_connection_error(error)):
                log.exception("the leases of running turns cannot be kept")
