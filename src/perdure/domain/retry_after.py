"""What an HTTP answer says about when to try again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

MAX_WAIT = 86_400.0
"""The longest wait, in seconds, that is taken from `Retry-After`: one day."""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a server asks to wait, 0 to `MAX_WAIT`; None when it does not say.

    Args:
        headers: `retry-after-ms` (milliseconds, as some model vendors send it) or `retry-after` (seconds, or
            an HTTP date). Names are in lower case, unless the mapping ignores case.
        now: Unix time, for dates.
    """
    millis = _number(headers.get("retry-after-ms"))
    if millis is not None:
        return min(max(millis / 1000.0, 0.0), MAX_WAIT)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is None and value:
        try:
            moment = parsedate_to_datetime(value)
        except (TypeError, ValueError):
            return None
        # A date without a time zone is in UTC, like all dates of HTTP.
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    return None if seconds is None else min(max(seconds, 0.0), MAX_WAIT)


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None
