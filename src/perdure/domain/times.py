"""Instants: integer microseconds since the Unix epoch (UTC) inside, RFC 3339 on the wire."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated

from msgspec import Meta

Micros = int
"""Microseconds since 1970-01-01T00:00:00Z, as the databases store them."""

Timestamp = Annotated[
    str, Meta(extra_json_schema={"format": "date-time"}, examples=["2026-03-14T09:26:53.589793Z"])
]
"""The wire format: RFC 3339 in UTC with `Z` and six fractional digits."""

CreatedAt = Annotated[Timestamp, Meta(description="When the resource was created.")]
UpdatedAt = Annotated[
    Timestamp,
    Meta(
        description="When the resource last changed. Every change moves it forward.",
        examples=["2026-03-14T09:26:54.731204Z"],
    ),
]
ArchivedAt = Annotated[Timestamp | None, Meta(description="When the resource was archived.")]
DeletedAt = Annotated[Timestamp | None, Meta(description="When the resource was deleted.")]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - the same instant, without the offset in its format
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)")


_FIRST, _LAST = "0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"
"""The instants at the ends of what can be formatted."""


def to_rfc3339(micros: Micros) -> str:
    """Format an instant for the wire, always with six fractional digits."""
    hour, rest = divmod(micros, 3_600_000_000)
    try:
        start = _hour(hour)
    except OverflowError:  # of a damaged row: the nearest time that there is
        return _FIRST if micros < 0 else _LAST
    seconds, fraction = divmod(rest, 1_000_000)
    return f"{start}:{seconds // 60:02d}:{seconds % 60:02d}.{fraction:06d}Z"


@lru_cache(maxsize=4096)  # formatting only what follows the hour takes a quarter of the time
def _hour(hour: int) -> str:
    return (_NAIVE_EPOCH + timedelta(hours=hour)).isoformat(timespec="hours")


def maybe_rfc3339(micros: Micros | None) -> str | None:
    """Format an instant for the wire; None stays None."""
    return None if micros is None else to_rfc3339(micros)


def from_rfc3339(text: str) -> Micros:
    """Parse an RFC 3339 time with an offset.

    Raises:
        ValueError: the text is not RFC 3339, has no offset, or names a day that does not exist.
    """
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"not an RFC 3339 time with an offset: {text[:40]!r}")
    moment = datetime.fromisoformat(text.upper())
    return (moment - _EPOCH) // timedelta(microseconds=1)
