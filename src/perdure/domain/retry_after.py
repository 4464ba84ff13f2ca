"""Read from an HTTP response when to retry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

MAX_WAIT = 86_400.0
"""The longest wait that is honoured, in seconds: one day."""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a server asks to wait, 0 to `MAX_WAIT`; None if it does not say.

    Args:
        headers: the response headers, of which this reads `retry-after-ms` (milliseconds, from some model
            vendors) and `retry-after` (seconds or an HTTP date). A case-sensitive mapping must use lower-case
            names.
        now: the current Unix time in seconds, for dates.
    """
    millis = _number(headers.get("retry-after-ms"))
    if millis is not None:
        return min(max(millis / 1000.0, 0.0), MAX_WAIT)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is None and value:
        try:
            moment = parsedate_to_datetime(value)
        except (TypeError, ValueError, OverflowError):
            return None
        # A date without a time zone is in UTC, like all HTTP dates.
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    return None if seconds is None else min(max(seconds, 0.0), MAX_WAIT)


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None
