"""How many requests a caller may make: a token bucket for each, in memory."""

from __future__ import annotations

import time
from collections import OrderedDict

from perdure.domain.errors import RateLimited

MAX_CALLERS = 100_000
"""Buckets that are kept; the least recently used goes first, full again if it ever returns."""


class RateLimit:
    """`rate` requests a second on average for each caller, `burst` at once. A rate of 0 limits nothing."""

    def __init__(self, rate: float, burst: float | None = None) -> None:
        self._rate = rate
        self._burst = burst if burst is not None else max(rate * 2, 1.0)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, now: float | None = None) -> None:
        """Count a request.

        Raises:
            RateLimited: with the seconds until the next one may come.
        """
        if self._rate <= 0:
            return
        moment = time.monotonic() if now is None else now
        level, seen = self._buckets.pop(caller, (self._burst, moment))
        level = min(self._burst, level + (moment - seen) * self._rate)
        if level < 1:
            self._buckets[caller] = (level, moment)
            raise RateLimited("too many requests: slow down", retry_after=(1 - level) / self._rate)
        self._buckets[caller] = (level - 1, moment)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
