"""An event loop with virtual time: it never sleeps, fires timers in order, and is deterministic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Stuck(Exception):
    """Deadlock: every task waits, and no timer is set."""


class _Jump:
    """Replaces the selector: where a real loop would sleep, time jumps to the next timer."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            self._loop.on_quiet()
        elif timeout > 0:
            self._loop.now += timeout
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio's event loop with a virtual clock, without files, threads or signals."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._selector = _Jump(self)
        self._clock_resolution = 1e-9
        self._waiting: list[asyncio.Future[None]] = []

    def time(self) -> float:
        return self.now

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def on_quiet(self) -> None:
        """Nothing is ready and no timer is set."""
        if not self._waiting:
            raise Stuck
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def quiet(self) -> None:
        """Wait until no task is ready and no timer is set."""
        future = self.create_future()
        self._waiting.append(future)
        await future

    def timers(self) -> int:
        """The number of timers that are set."""
        return sum(not handle.cancelled() for handle in self._scheduled)


def run_virtually(main: Callable[[VirtualLoop], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine function on a new virtual loop."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(main(loop))
    finally:
        loop.close()
