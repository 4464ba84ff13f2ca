"""Waiters: requests that wait for a turn. They sleep until the bus says that their session's log has grown.

Wake-ups may be lost, so something must look at the log from time to time. One task does this for all waiters
of the process: every few seconds, it compares the heads of all their logs in a few reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from functools import partial

from perdure.domain.errors import PerdureError
from perdure.domain.ids import SessionId
from perdure.store.bus import Subscription
from perdure.store.database import Database
from perdure.store.working_sessions import heads_of

log = logging.getLogger("perdure.waiters")

LOOK_EVERY = 5.0
"""Seconds between two looks at the heads of the logs."""
AT_A_TIME = 500
"""Sessions whose heads one read returns."""


class Waiter:
    """One request that waits.

    Attributes:
        head: the sequence up to which it knows the log.
    """

    __slots__ = ("head", "subscription")

    def __init__(self, subscription: Subscription, head: int) -> None:
        self.subscription = subscription
        self.head = head


class Waiters:
    """The waiters of one process.

    Args:
        every: seconds between two looks.
    """

    def __init__(self, every: float = LOOK_EVERY) -> None:
        self._every = every
        self._waiters: set[Waiter] = set()
        self._looking: asyncio.Task[None] | None = None
        self.ended = False
        """Whether waiting is of no use any more, because the server shuts down."""

    def add(self, waiter: Waiter, database: Database) -> None:
        """Wake this one, too, when its session's log has grown unnoticed."""
        self._waiters.add(waiter)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(database))

    def remove(self, waiter: Waiter) -> None:
        """Forget a waiter. Without any, nothing looks."""
        self._waiters.discard(waiter)
        if not self._waiters and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def end(self) -> None:
        """Wake all, and let nobody wait from now on: the server shuts down."""
        self.ended = True
        for waiter in self._waiters:
            waiter.subscription.lose()

    async def _look(self, database: Database) -> None:
        while True:
            await asyncio.sleep(self._every)
            waiting = [*self._waiters]
            try:
                heads = await _heads(database, {each.subscription.session_id for each in waiting})
            except PerdureError as error:
                log.warning("cannot read the heads of %d logs: %s", len(waiting), error.message)
                continue
            except Exception:
                log.exception("cannot read the heads of %d logs", len(waiting))
                continue
            for waiter in waiting:
                if heads.get(waiter.subscription.session_id, -1) != waiter.head:
                    waiter.subscription.lose()


async def _heads(database: Database, session_ids: Iterable[SessionId]) -> dict[SessionId, int]:
    """The heads of these sessions' logs, without deleted ones."""
    ids = sorted(session_ids)
    heads: dict[SessionId, int] = {}
    for start in range(0, len(ids), AT_A_TIME):
        heads |= await database.read(partial(heads_of, session_ids=ids[start : start + AT_A_TIME]))
    return heads
