"""Turns for work that may look at very much, such as searches: fair shares for each organization."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from perdure.domain.errors import RateLimited
from perdure.domain.ids import OrgId
from perdure.store.fair_turns import FairTurns

SLOTS, EACH = 3, 2
"""Turns at a time in this process, and those of one organization: one is always left for the others."""
QUEUE = 32
"""The most work of an organization that waits."""
PATIENCE = 20.0
"""Seconds that work waits for its turn."""


class Shares:
    """Turns, given to the organizations in rotation. Too much work that waits is refused."""

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
        self._queue, self._patience = queue, patience
        self._turns = FairTurns(slots, each)

    @asynccontextmanager
    async def turn(self, org_id: OrgId) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for the block. A block that holds a turn must not take another.

        Raises:
            RateLimited: too much of the organization's work waits already, or its turn did not come in time.
        """
        if self._turns.waiting(org_id) >= self._queue:
            raise self._refusal()
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._turns.turn(org_id, self._patience))
            except TimeoutError:
                raise self._refusal() from None
            yield

    def _refusal(self) -> RateLimited:
        return RateLimited(
            f"your organization has too many {self._what} at once: wait for some to end",
            code=self._code,
            retry_after=5,
        )
