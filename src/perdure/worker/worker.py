"""The worker: runs sessions in the engine, with one runner for each.

It cancels a runner whose session is claimed elsewhere, cancelled or deleted, and all of them after a drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice

from perdure.domain.backoff import backoff
from perdure.domain.errors import PerdureError
from perdure.domain.ids import SessionId
from perdure.domain.trace_context import tracing
from perdure.domain.working_for import work_for
from perdure.engine.advance import advance
from perdure.engine.attempt import is_cancelled, is_retryable
from perdure.engine.context import Engine
from perdure.engine.observed import observe_fence
from perdure.store.bus import Stop
from perdure.store.queue import Job, PutBack
from perdure.store.working_sessions import epochs_of
from perdure.worker.background import BackgroundTools

log = logging.getLogger("perdure.worker")

WATCH_EVERY = 0.5
"""Seconds between two checks of the running sessions' epochs: a cancel whose signal was lost still takes
effect within a second."""

TRIES = 5
"""Attempts to advance a session that fails, or while the database is unavailable; after that, the sweep
recovers it."""

TELL_AFTER = 0.5
"""Seconds that a sub-agent runs before its parent is told so: most short ones have ended by then."""

FIRST_PAUSE = 0.2
MOST_PAUSE = 2.0
"""The first and the longest pause between attempts, in seconds; each pause is twice the one before."""


class Worker:
    """The runners of one process.

    Args:
        report: tells the parent of a sub-agent's session what it has not heard of.
        background: runs tools in the background; None for a worker that leaves them to others.
    """

    def __init__(
        self,
        engine: Engine,
        report: Callable[[SessionId], Awaitable[None]],
        background: BackgroundTools | None = None,
    ) -> None:
        self._engine = engine
        self._report = report
        self._background = background
        self._running: dict[SessionId, asyncio.Task[None]] = {}
        self._given: set[asyncio.Task[None]] = set()
        """The runners that a drain has cancelled."""
        self._telling: set[asyncio.Task[None]] = set()
        self._draining = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._watch: asyncio.Task[None] | None = None
        engine.bus.on_stop(self._on_stop)

    @property
    def running(self) -> int:
        """The number of sessions that this process is running."""
        return len(self._running)

    def sessions(self, most: int) -> tuple[SessionId, ...]:
        """Return the sessions that this process has been running for longest."""
        return tuple(islice(self._running, most))

    def runs(self, session_id: SessionId) -> bool:
        """Return whether this process is running the session."""
        return session_id in self._running

    async def start(self) -> None:
        """Start to take jobs."""
        self._watch = asyncio.create_task(self._watch_epochs())
        if self._background is not None:
            self._background.start()
        await self._engine.queue.start(self.handle)

    async def handle(self, job: Job) -> None:
        """Advance a session, or run a tool of it in the background; return when that is done or lost.

        A job for a session that already runs here waits for that runner, then reads the log again, because
        the runner may have missed the job's event.

        Raises:
            PutBack: this process stops before the session is idle or parked.
        """
        if job.task_id is not None:
            if self._background is not None:
                with tracing(None):  # what enqueued the job, such as a request, may be traced
                    await self._background.handle(job)
            return
        session_id = job.session_id
        while (present := self._running.get(session_id)) is not None:
            await asyncio.wait([present])
        if self._draining.is_set():
            raise PutBack
        with tracing(None):  # as above: the turn is not a part of what enqueued its job
            task = asyncio.create_task(self._advance(job))
        self._running[session_id] = task
        self._idle.clear()
        task.add_done_callback(lambda done: self._forget(session_id, done))
        await asyncio.wait([task])
        if task in self._given:
            self._given.discard(task)
            if task.cancelled():
                raise PutBack

    def _forget(self, session_id: SessionId, task: asyncio.Task[None]) -> None:
        if self._running.get(session_id) is task:
            del self._running[session_id]
        if not self._running:
            self._idle.set()

    async def _advance(self, job: Job) -> None:
        work_for(None)  # what enqueued the job may be a request; its turn is none
        session_id, again = job.session_id, job.again
        trouble: str | None = None
        for tries in range(1, TRIES + 1):
            try:
                if await advance(
                    self._engine,
                    session_id,
                    again=again,
                    retried=tries > 1,
                    trouble=trouble,
                    begun=job.begun if tries == 1 else None,
                    of_child=self._tell_beside,
                ):
                    await self._tell(session_id)
                self._engine.meter.ended(job.org_id)
                return
            except (Exception, BaseExceptionGroup, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and is_cancelled():
                    raise
                if not is_retryable(error):
                    # Counted: after `max_recoveries` of these without progress, the session is sealed.
                    again, trouble = True, type(error).__name__
                    _log_failure(session_id, error)
                else:
                    log.warning("session %s stopped: %s; it will be resumed", session_id, error)
            if tries < TRIES:
                pause = backoff(tries, first=FIRST_PAUSE, most=MOST_PAUSE, jitter=self._engine.jitter)
                await self._engine.clock.sleep(pause)

    def _tell_beside(self, session_id: SessionId, now: bool) -> None:
        """Tell the parent that its sub-agent runs, while it does: at once, or if it takes longer."""
        task = asyncio.create_task(self._tell_running(session_id, 0 if now else TELL_AFTER))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell_running(self, session_id: SessionId, pause: float) -> None:
        if pause:
            await self._engine.clock.sleep(pause)
        if self.runs(session_id):
            await self._tell(session_id)

    async def _tell(self, session_id: SessionId) -> None:
        """Tell the parent of a session that rests; the sweep does it if this fails."""
        try:
            await self._report(session_id)
        except PerdureError as error:
            log.warning("the parent of session %s has not heard of it yet: %s", session_id, error.message)

    def _on_stop(self, stop: Stop) -> None:
        if stop.task_id is not None:
            return
        task, held = self._running.get(stop.session_id), self._engine.claimed_epochs.get(stop.session_id)
        # A runner without a claim is fenced at its first append; the signal does not concern a newer claim.
        if task is not None and held is not None and held < stop.epoch and task.cancel():
            observe_fence(self._engine, stop.session_id, None)

    async def _watch_epochs(self) -> None:
        """Stop runners whose session has a newer epoch: the signal of a cancel or a delete may be lost."""
        while True:
            await self._engine.clock.sleep(WATCH_EVERY)
            ids = list(self._running)
            if not ids:
                continue
            try:
                epochs = await self._engine.database.read(partial(epochs_of, session_ids=ids))
            except PerdureError as error:
                log.warning("cannot read the epochs of the running sessions: %s", error.message)
                continue
            for session_id in ids:
                held = self._engine.claimed_epochs.get(session_id, 0)
                self._on_stop(Stop(session_id, epochs.get(session_id, held + 1)))

    async def rest(self, grace: float) -> int:
        """Stop taking jobs, wait up to `grace` seconds for what runs, then give the rest to other processes.

        Returns:
            The number of cancelled sessions, which another process resumes.
        """
        self._draining.set()
        await self._engine.queue.stop()
        background = None
        if self._background is not None:
            background = asyncio.create_task(self._background.drain(grace))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)
        left = list(self._running.values())
        self._given.update(left)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=5)
        if background is not None:
            await background
        return len(left)

    async def resume(self) -> None:
        """Take jobs again, after `rest`."""
        self._draining.clear()
        if self._background is not None:
            self._background.resume()
        await self._engine.queue.start(self.handle)

    async def drain(self, grace: float) -> int:
        """Rest for good, because this process ends. See `rest`."""
        left = await self.rest(grace)
        for task in self._telling:
            task.cancel()
        if self._watch is not None:
            self._watch.cancel()
        return left


def _log_failure(session_id: SessionId, error: BaseException) -> None:
    if isinstance(error, MemoryError):  # there is no memory for a traceback either
        log.error("session %s failed: out of memory; it will be resumed", session_id)
    else:
        log.error("session %s failed; it will be resumed", session_id, exc_info=error)
