"""The queue of sessions that need a runner.

It is a hint: the session's row is the truth, and a sweep finds what a queue lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct

from perdure.domain.ids import OrgId, SessionId
from perdure.store.database import Tx

log = logging.getLogger("perdure.store")


CLOSE_SECONDS = 5.0
"""How long `close` waits for handlers that it has cancelled."""


class Job(Struct, frozen=True):
    """A session that is to be advanced."""

    org_id: OrgId
    session_id: SessionId


Handler = Callable[[Job], Awaitable[None]]


class PutBack(Exception):
    """Raised by a handler that gives its job up (its process stops).

    Another process is to have it, at once.
    """


class Queue(Protocol):
    """The port."""

    async def enqueue(self, tx: Tx, job: Job) -> None:
        """Put the job in, as part of the caller's transaction: it exists if and only if that commits."""
        ...

    async def start(self, handler: Handler) -> None:
        """Begin to hand jobs to the handler, many at once.

        A job is done when the handler returns or raises, `PutBack` and a cancellation apart: then it goes to
        another process, if there is one.
        """
        ...

    async def stop(self) -> None:
        """Hand out no further jobs. What is running goes on."""
        ...

    async def close(self) -> None:
        """Stop, cancel the handlers that still run, put their jobs back, and let go of everything."""
        ...

    async def has_live_job(self, tx: Tx, session_id: SessionId) -> bool:
        """Whether a job of this session waits, or is with a worker that lives."""
        ...

    def depth(self) -> int:
        """Jobs that wait here, as far as this process knows."""
        ...


class LocalQueue:
    """The queue of the embedded default: in memory, filled when a transaction commits.

    It needs no table: the one process that could lose it is the one that, at its next start, finds every
    active session by its row.
    """

    def __init__(self, spawn: Callable[[Awaitable[None]], object]) -> None:
        self._spawn = spawn
        self._waiting: deque[Job] = deque()
        self._handler: Handler | None = None
        self._known: Counter[SessionId] = Counter()
        self._running: set[asyncio.Task[object]] = set()

    async def enqueue(self, tx: Tx, job: Job) -> None:
        tx.after_commit(lambda: self.put(job))

    def put(self, job: Job) -> None:
        """Take a job whose transaction has committed."""
        self._known[job.session_id] += 1
        self._offer(job)

    def _offer(self, job: Job) -> None:
        if self._handler is None:
            self._waiting.append(job)
        else:
            self._spawn(self._run(job, self._handler))

    async def _run(self, job: Job, handler: Handler) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs has one
        self._running.add(task)
        try:
            await handler(job)
        except PutBack:
            pass  # there is no other process; the next one finds the session by its row
        except Exception:
            log.exception("the handler of a job of %s failed", job.session_id)
        finally:
            self._running.discard(task)
            self._known[job.session_id] -= 1
            if self._known[job.session_id] <= 0:
                del self._known[job.session_id]

    async def start(self, handler: Handler) -> None:
        self._handler = handler
        while self._waiting:
            self._offer(self._waiting.popleft())

    async def stop(self) -> None:
        self._handler = None

    async def close(self) -> None:
        await self.stop()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_SECONDS)

    async def has_live_job(self, tx: Tx, session_id: SessionId) -> bool:
        return session_id in self._known

    def depth(self) -> int:
        return len(self._waiting)
