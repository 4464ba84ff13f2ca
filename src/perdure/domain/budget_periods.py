"""The periods of budgets: when one begins and ends, and what a rolling one still counts."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.schedules import zone_of
from perdure.domain.times import Micros

SECOND = 1_000_000
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_WINDOW = re.compile(r"([1-9][0-9]{0,6})([smhdw])")
LEAST_SECONDS = 60
MOST_SECONDS = 366 * 86_400
"""How short and how long a period may be, in seconds: a minute, and a year."""
PARTS = 60
"""A rolling window forgets what was spent in this many steps."""

CalendarUnit = Literal["hour", "day", "week", "month", "year"]


class DurationPeriod(Struct, frozen=True, tag="duration", tag_field="type"):
    """Periods of the same length, one after the other, from the creation of the budget on."""

    seconds: Annotated[
        int, Meta(ge=LEAST_SECONDS, le=MOST_SECONDS, description="The length, in seconds.", examples=[86400])
    ]


class RollingPeriod(Struct, frozen=True, tag="rolling", tag_field="type"):
    """What was spent in the last hours or days counts."""

    window: Annotated[
        str,
        Meta(
            pattern=r"^[1-9][0-9]{0,6}[smhdw]$(?!\n)",
            description="The length of the window: a number and `s`, `m`, `h`, `d` or `w`.",
            examples=["24h"],
        ),
    ]


class CalendarPeriod(Struct, frozen=True, tag="calendar", tag_field="type", omit_defaults=True):
    """Hours, days, weeks (from Monday), months or years of the calendar."""

    unit: Annotated[CalendarUnit, Meta(description="The unit.", examples=["month"])]
    time_zone: Annotated[
        str,
        Meta(
            max_length=64,
            description="The IANA name of the time zone in which they begin.",
            examples=["Europe/Berlin"],
        ),
    ] = "UTC"


BudgetPeriod = DurationPeriod | RollingPeriod | CalendarPeriod


class Span(Struct, frozen=True):
    """A period that began at `start`. At `rolls_at`, the budget has more money again."""

    start: Micros
    rolls_at: Micros


def window_seconds(period: RollingPeriod) -> int:
    """Return the length of a rolling window, in seconds. Raises ValueError: it is none."""
    match = _WINDOW.fullmatch(period.window)
    if match is None:
        raise ValueError(f"{period.window!r} is not a number and one of s, m, h, d and w")
    return int(match[1]) * _UNITS[match[2]]


def span_at(period: BudgetPeriod, began: Micros, now: Micros) -> Span:
    """Return the period that `now` is in.

    Args:
        began: when any earlier period began.
    """
    if isinstance(period, CalendarPeriod):
        return _calendar(period, now)
    seconds = period.seconds if isinstance(period, DurationPeriod) else window_seconds(period) / PARTS
    length = max(1, round(seconds * SECOND))
    start = began + max(0, now - began) // length * length
    return Span(start, start + length)


def _calendar(period: CalendarPeriod, now: Micros) -> Span:
    zone = zone_of(period.time_zone)
    local = datetime.fromtimestamp(now / SECOND, zone).replace(minute=0, second=0, microsecond=0, fold=0)
    if period.unit == "hour":  # a clock that goes back repeats one, but no hour lasts longer than an hour
        start = now - now % (3_600 * SECOND)
        return Span(start, start + 3_600 * SECOND)
    day = local.replace(hour=0)
    match period.unit:
        case "day":
            first, after = day, day + timedelta(days=1)
        case "week":
            first = day - timedelta(days=day.weekday())
            after = first + timedelta(days=7)
        case "month":
            first = day.replace(day=1)
            after = (first + timedelta(days=32)).replace(day=1)
        case _:
            first = day.replace(month=1, day=1)
            after = first.replace(year=first.year + 1)
    return Span(_micros(first), _micros(after))


def _micros(local: datetime) -> Micros:
    """The time of a local midnight. Sums of local times keep the hour, whatever clocks do in between."""
    return round(local.timestamp()) * SECOND


def still_counted(
    buckets: tuple[tuple[Micros, int], ...], period: RollingPeriod, now: Micros
) -> tuple[tuple[Micros, int], ...]:
    """Return the parts of a rolling window that began within it: (when it began, what was spent)."""
    oldest = now - window_seconds(period) * SECOND
    return tuple((began, amount) for began, amount in buckets if began > oldest)
