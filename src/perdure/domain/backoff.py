"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable


def backoff(
    failures: int, *, first: float, most: float, jitter: Callable[[], float] = random.random
) -> float:
    """Return the seconds to wait: exponential back-off with jitter.

    The wait doubles with each failure. The jitter takes up to half of it off, so that clients that failed
    together do not come back together.

    Args:
        failures: how often it has failed in a row, from 1.
        first: the longest wait after the first failure, in seconds.
        most: the longest wait of all, in seconds.
        jitter: draws a number from 0 up to 1.
    """
    return min(most, first * 2.0 ** min(failures - 1, 64)) * (1.0 - jitter() / 2.0)
