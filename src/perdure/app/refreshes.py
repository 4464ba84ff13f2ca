"""Refreshes of tokens that run in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Refreshes:
    """Runs one refresh of each connection at a time, to its end, even if whoever asked for it is cancelled.

    The answer has the only tokens that are valid from then on, so it must be stored.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[str, str, str], asyncio.Future[None]] = {}

    async def run(self, key: tuple[str, str, str], work: Callable[[], Awaitable[None]]) -> None:
        """Run `work`, or wait for the one that runs. Raises what it raises."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.ensure_future(work())
            task.add_done_callback(lambda ended: self._end(key, ended))
        await asyncio.shield(task)

    def _end(self, key: tuple[str, str, str], ended: asyncio.Future[None]) -> None:
        self._running.pop(key, None)
        if not ended.cancelled():
            ended.exception()  # whoever waited for it may have left
