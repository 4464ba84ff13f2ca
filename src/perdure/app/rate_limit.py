"""Rate limits: one token bucket per caller, or per token of a callback, in memory."""

from __future__ import annotations

import time
from collections import OrderedDict

from perdure.domain.errors import RateLimited

MAX_CALLERS = 100_000
"""The maximum number of buckets. Over it, the least recently used one is dropped, and its caller starts again
with a full bucket."""

TOKEN_RATE, TOKEN_BURST = 1.0, 60.0
"""How often one callback's URL can be used: requests per second on average, and at once."""


class RateLimit:
    """Limits each caller to `rate` requests per second on average.

    Args:
        rate: requests per second; 0 for no limit.
        burst: requests that may come at once; twice the rate by default, but at least 1.
    """

    def __init__(self, rate: float, burst: float | None = None) -> None:
        self._rate = rate
        self._burst = burst if burst is not None else max(rate * 2, 1.0)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, now: float | None = None) -> None:
        """Count a request of a caller.

        Args:
            now: the monotonic time in seconds; read from the clock if not given.

        Raises:
            RateLimited: the caller is over the limit; carries the seconds until its next request is accepted.
        """
        if self._rate <= 0:
            return
        moment = time.monotonic() if now is None else now
        level, seen = self._buckets.pop(caller, (self._burst, moment))
        level = min(self._burst, level + (moment - seen) * self._rate)
        if level < 1:
            self._buckets[caller] = (level, moment)
            raise RateLimited(
                "too many requests: retry after the number of seconds in Retry-After",
                retry_after=(1 - level) / self._rate,
            )
        self._buckets[caller] = (level - 1, moment)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
