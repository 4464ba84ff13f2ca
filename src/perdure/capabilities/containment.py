"""Keep what foreign code does within its call: it may ignore its time limit, cancel itself or try to exit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

GRACE = 5.0
"""Seconds that a call has to end after it was cancelled. Then nobody waits for it any more."""

log = logging.getLogger("perdure")


class Escaped(Exception):
    """The call raised what would have stopped its caller or this process; the message names it."""


async def contain(
    call: Callable[[], Awaitable[T]],
    seconds: float,
    name: str,
    grace: float = GRACE,
    *,
    limited: Callable[[asyncio.Timeout], None] | None = None,
) -> T:
    """Run foreign code, in a task of its own.

    Args:
        seconds: the time limit.
        name: what runs, for the log.
        limited: receives the time limit, which it may move, before the call begins.

    Raises:
        TimeoutError: the time limit is over. A call that ignores its cancellation goes on, but nobody waits
            for it.
        Escaped: the call raised `SystemExit`, `CancelledError` or the like.
    """
    task = asyncio.create_task(_caught(call))
    try:
        async with asyncio.timeout(seconds) as limit:
            if limited is not None:
                limited(limit)
            await asyncio.wait((task,))
    except (TimeoutError, asyncio.CancelledError):
        await _stop(task, name, grace)
        raise
    if task.cancelled():
        raise Escaped("CancelledError")
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, GeneratorExit | BaseExceptionGroup):
        raise Escaped(type(error).__name__) from error
    raise error


async def _caught(call: Callable[[], Awaitable[T]]) -> T:
    try:
        return await call()
    except (SystemExit, KeyboardInterrupt) as error:  # out of a task, they would stop the event loop
        raise Escaped(type(error).__name__) from error


async def _stop(task: asyncio.Task[T], name: str, grace: float) -> None:
    task.add_done_callback(_retrieve)
    task.cancel()
    await asyncio.wait((task,), timeout=grace)
    if not task.done():
        log.error("%s ignores its cancellation: it still runs, and is not waited for", name)


def _retrieve(task: asyncio.Task[T]) -> None:
    """Mark the task's exception as retrieved: nobody asks for it, and asyncio would log it."""
    if not task.cancelled():
        task.exception()
