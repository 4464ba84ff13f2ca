"""Work that is done again and again beside a worker, whatever one round of it fails with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from logging import Logger

from perdure.domain.errors import PerdureError


async def again_and_again(
    once: Callable[[int], Awaitable[object]],
    pause: Callable[[], Awaitable[object]],
    log: Logger,
    failed: str,
    *,
    at_once: bool = False,
) -> None:
    """Do something until cancelled. A failure is logged, and the next round comes nevertheless.

    Args:
        once: does it once; receives the number of the round, from 0.
        pause: waits between two rounds.
        failed: what the log says of a round that failed.
        at_once: do it before the first pause.
    """
    for number in count():
        if number or not at_once:
            await pause()
        try:
            await once(number)
        except PerdureError as error:
            log.warning("%s: %s", failed, error.message)
        except Exception:
            log.exception(failed)
