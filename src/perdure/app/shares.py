"""Turns for work that may look at very much, such as searches: fair shares for each organization."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from perdure.domain.errors import RateLimited
from perdure.domain.ids import OrgId

SLOTS, EACH = 3, 2
"""Turns at a time in this process, and those of one organization: one is always left for the others."""
QUEUE = 32
"""The most work of an organization that waits."""
PATIENCE = 20.0
"""Seconds that work waits for its turn."""


class Shares:
    """Turns, given to the organizations in rotation."""

    def __init__(
        self,
        slots: int = SLOTS,
        each: int = EACH,
        queue: int = QUEUE,
        patience: float = PATIENCE,
        *,
        what: str = "searches",
        code: str = "too_many_searches",
    ) -> None:
        """Make the turns; `what` takes them, and `code` is the error if too much of it waits."""
        self._what, self._code = what, code
        self._slots, self._each, self._queue, self._patience = slots, each, queue, patience
        self._running: Counter[OrgId] = Counter()
        self._waiting: OrderedDict[OrgId, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, org_id: OrgId) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for the block. A block that holds a turn must not take another.

        Raises:
            RateLimited: too much of the organization's work waits already, or its turn did not come in time.
        """
        await self._enter(org_id)
        try:
            yield
        finally:
            self._running[org_id] -= 1
            self._give()

    async def _enter(self, org_id: OrgId) -> None:
        waiting = self._waiting.setdefault(org_id, deque())
        if len(waiting) >= self._queue:
            raise self._refusal()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(place)
        self._give()
        try:
            async with asyncio.timeout(self._patience):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self._running[org_id] -= 1
                self._give()
            elif place in waiting:
                waiting.remove(place)
            self._forget(org_id)
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise

    def _give(self) -> None:
        """Give the free turns to those that wait, one organization after the other."""
        while self._running.total() < self._slots:
            org_id = next((each for each in self._waiting if self._running[each] < self._each), None)
            if org_id is None:
                return
            self._waiting.move_to_end(org_id)
            place = self._waiting[org_id].popleft()
            self._forget(org_id)
            if not place.done():
                self._running[org_id] += 1
                place.set_result(None)

    def _forget(self, org_id: OrgId) -> None:
        if not self._waiting.get(org_id, True):
            del self._waiting[org_id]
        if not self._running[org_id]:
            del self._running[org_id]

    def _refusal(self) -> RateLimited:
        return RateLimited(
            f"your organization has too many {self._what} at once: wait for some to end",
            code=self._code,
            retry_after=5,
        )
