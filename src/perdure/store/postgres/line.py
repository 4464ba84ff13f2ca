"""Who gets the next free connection: turns that were accepted, or requests.

If all waited in one line, thousands of messages at once would be accepted before the first of their turns
gets on, and each of its statements would wait behind all of theirs.
"""

from __future__ import annotations

import asyncio
from collections import deque

from perdure.domain.working_for import working_for

WORK_FIRST = 3
"""How many waiters of work under way come before one of a request: about what a turn takes after its
message."""


class Line:
    """Those that wait for one of a number of connections.

    Args:
        count: the number of connections.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._work = deque[asyncio.Future[None]]()
        self._requests = deque[asyncio.Future[None]]()
        self._passed = 0
        """How many waiters of work have come since one of a request."""

    async def enter(self) -> None:
        """Wait for a connection; `leave` gives it to the next."""
        if self._free:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._work if working_for() is None else self._requests).append(place)
        try:
            await place
        except BaseException:
            if not place.cancelled():
                self.leave()  # it came together with the cancellation
            raise

    def leave(self) -> None:
        """Give a connection to the next that waits."""
        while line := self._next():
            place = line.popleft()
            if not place.done():
                self._passed = self._passed + 1 if line is self._work else 0
                place.set_result(None)
                return
        self._free += 1

    def _next(self) -> deque[asyncio.Future[None]]:
        if self._work and (self._passed < WORK_FIRST or not self._requests):
            return self._work
        return self._requests
