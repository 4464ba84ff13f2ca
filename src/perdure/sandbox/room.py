"""Limits the bytes that the sandbox's processes hold at once: first come, first served."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Room:
    """A semaphore that counts bytes. A request for more than `size` gets all of it."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Wait until `size` bytes are free and hold them for the block. Waiters are served in order."""
        size = min(size, self._size)
        await self._take(size)
        try:
            yield
        finally:
            self._give_back(size)

    async def _take(self, size: int) -> None:
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(size)  # the room was granted in the moment of the cancellation
            else:
                self._give_back(0)  # the next waiter may need less than this one
            raise

    def _give_back(self, size: int) -> None:
        self._free += size
        while self._waiting:
            needed, turn = self._waiting[0]
            if not turn.done():
                if needed > self._free:
                    return
                self._free -= needed
                turn.set_result(None)
            self._waiting.popleft()
