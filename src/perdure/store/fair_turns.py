"""Turns that are given to organizations in rotation, so that none has all of them."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from perdure.domain.ids import OrgId
from perdure.domain.working_for import working_for
from perdure.store.faults import unavailable


class FairTurns:
    """A number of turns, and how many one organization may have; work for nobody has no such limit."""

    def __init__(self, slots: int, each: int) -> None:
        self._slots, self._each = slots, each
        self._running: Counter[OrgId | None] = Counter()
        self._waiting: OrderedDict[OrgId | None, deque[asyncio.Future[None]]] = OrderedDict()

    def waiting(self, org_id: OrgId | None) -> int:
        """How much of the organization's work waits."""
        return len(self._waiting.get(org_id, ()))

    @asynccontextmanager
    async def turn(self, org_id: OrgId | None, patience: float) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for the block. A block that holds a turn must not take another.

        Args:
            patience: the most seconds to wait.

        Raises:
            TimeoutError: the turn did not come in time. The block raises none.
        """
        async with asyncio.timeout(patience):
            await self._enter(org_id)
        try:
            yield
        finally:
            self._running[org_id] -= 1
            self._give()
            self._forget(org_id)

    @asynccontextmanager
    async def of_caller(self, patience: float) -> AsyncIterator[None]:
        """As `turn`, for the organization that this task works for. Raises Unavailable: it came too late."""
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self.turn(working_for(), patience))
            except TimeoutError:
                raise unavailable("busy") from None
            yield

    async def _enter(self, org_id: OrgId | None) -> None:
        waiting = self._waiting.setdefault(org_id, deque())
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(place)
        self._give()
        try:
            await place
        except BaseException:
            if place.done() and not place.cancelled():
                self._running[org_id] -= 1
                self._give()
            elif place in waiting:
                waiting.remove(place)
            self._forget(org_id)
            raise

    def _give(self) -> None:
        """Give the free turns to those that wait, one organization after the other."""
        while self._running.total() < self._slots:
            org_id = next((each for each in self._waiting if self._may_run(each)), _NOBODY)
            if isinstance(org_id, _Nobody):
                return
            self._waiting.move_to_end(org_id)
            place = self._waiting[org_id].popleft()
            self._forget(org_id)
            if not place.done():
                self._running[org_id] += 1
                place.set_result(None)

    def _may_run(self, org_id: OrgId | None) -> bool:
        return org_id is None or self._running[org_id] < self._each

    def _forget(self, org_id: OrgId | None) -> None:
        if not self._waiting.get(org_id, True):
            del self._waiting[org_id]
        if not self._running[org_id]:
            del self._running[org_id]


class _Nobody:
    pass


_NOBODY = _Nobody()
