"""Compute how long to wait before a retry."""

from __future__ import annotations

import random
from collections.abc import Callable


def backoff(
    failures: int, *, first: float, most: float, jitter: Callable[[], float] = random.random
) -> float:
    """Return the seconds to wait: exponential back-off with jitter.

    The wait doubles with each failure. The jitter shortens it by up to half, so that clients that failed
    together do not retry together.

    Args:
        failures: the number of failures in a row, from 1.
        first: the longest wait after the first failure, in seconds.
        most: the longest wait after any failure, in seconds.
        jitter: returns a random number from 0 up to 1.
    """
    return min(most, first * 2.0 ** min(failures - 1, 64)) * (1.0 - jitter() / 2.0)
