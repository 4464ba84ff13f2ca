"""Reads the dates that people give to `date -d`."""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta, tzinfo

_FORMS = (
    "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%m/%d/%Y", "%Y%m%d",
    "%d %b %Y %H:%M:%S", "%d %b %Y %H:%M", "%d %b %Y", "%d %B %Y", "%b %d %Y %H:%M:%S", "%b %d %Y %H:%M",
    "%b %d %Y", "%B %d %Y %H:%M:%S", "%B %d %Y %H:%M", "%B %d %Y", "%a %d %b %Y %H:%M:%S",
    "%a %b %d %H:%M:%S %Y", "%d-%b-%Y", "%Y-%m",
)  # fmt: skip
_ITEM = re.compile(
    r"([+-]?\s*\d{1,9}|next|last|this|an?)?\s*"
    r"\b(sec(?:ond)?|min(?:ute)?|hour|day|week|fortnight|month|year)s?\b(\s+ago\b)?",
    re.IGNORECASE,
)
_WORDS = {"next": 1, "last": -1, "this": 0, "a": 1, "an": 1}
_LENGTHS = {"sec": 1, "second": 1, "min": 60, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800,
            "fortnight": 1_209_600}  # fmt: skip
_NEAR = {"now": 0, "today": 0, "tomorrow": 1, "yesterday": -1}
_ZONE = re.compile(r"\s*(?:(?<=\d)Z|\bUTC|\bGMT|(?<=\d)\s*([+-])(\d\d):?(\d\d))$", re.IGNORECASE)


def moment(text: str, zone: str | None, now: datetime | None = None) -> int | None:
    """Return the date in seconds since 1970, or None if it is not understood.

    Args:
        zone: the time zone's name; UTC if it is None or unknown.
        now: the current time; the clock's by default.
    """
    if len(text) > 200:
        return None
    local = _zone(zone)
    rest, shifts = _relative(text)
    if not shifts and not rest.strip():
        return None
    offset = _ZONE.search(rest)
    if offset is not None:
        rest, local = rest[: offset.start()], _fixed(offset)
    start = _base(" ".join(rest.replace(",", " ").split()), local, now or datetime.now(local))
    try:
        for count, unit in shifts:
            start = None if start is None else _shifted(start, count, unit)
        return None if start is None else int(start.timestamp())
    except (OverflowError, ValueError):
        return None


def _zone(name: str | None) -> tzinfo:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name) if name else UTC
    except (ValueError, OSError, KeyError):
        return UTC


def _fixed(match: re.Match[str]) -> tzinfo:
    from datetime import timezone

    if match[1] is None:
        return UTC
    minutes = int(match[2]) * 60 + int(match[3])
    return timezone(timedelta(minutes=minutes if match[1] == "+" else -minutes)) if minutes < 1440 else UTC


def _relative(text: str) -> tuple[str, list[tuple[int, str]]]:
    """The text without its relative items, and these."""
    shifts = []
    for match in _ITEM.finditer(text):
        given = (match[1] or "1").replace(" ", "").lower()
        count = _WORDS[given] if given in _WORDS else int(given)
        shifts.append((-count if match[3] else count, match[2].lower()))
    return _ITEM.sub(" ", text), shifts


def _base(text: str, zone: tzinfo, now: datetime) -> datetime | None:
    """The date that the relative items start from."""
    now = now.astimezone(zone)
    if not text:
        return now
    first, _, clock = text.partition(" ")
    if first.lower() in _NEAR:
        day = now + timedelta(days=_NEAR[first.lower()])
        return _at(day, clock) if clock else day
    if re.fullmatch(r"@\d{1,11}", text):
        return datetime.fromtimestamp(int(text[1:]), zone)
    try:
        given = datetime.fromisoformat(text)
        return given if given.tzinfo is not None else given.replace(tzinfo=zone)
    except ValueError:
        pass
    for form in _FORMS:
        try:
            return datetime.strptime(text, form).replace(tzinfo=zone)
        except ValueError:
            continue
    return _at(now, text)


def _at(day: datetime, clock: str) -> datetime | None:
    match = re.fullmatch(r"(\d{1,2}):(\d\d)(?::(\d\d))?", clock)
    if match is None or int(match[1]) > 23 or int(match[2]) > 59 or int(match[3] or 0) > 59:
        return None
    return day.replace(hour=int(match[1]), minute=int(match[2]), second=int(match[3] or 0), microsecond=0)


def _shifted(start: datetime, count: int, unit: str) -> datetime:
    if unit in _LENGTHS:
        return start + timedelta(seconds=count * _LENGTHS[unit])
    months = start.year * 12 + start.month - 1 + count * (12 if unit == "year" else 1)
    year, month = divmod(months, 12)
    # As GNU date does it, the 31st of a shorter month is a day of the next one.
    over = max(0, start.day - calendar.monthrange(year, month + 1)[1])
    return start.replace(year=year, month=month + 1, day=start.day - over) + timedelta(days=over)
