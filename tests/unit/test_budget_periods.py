"""The periods of budgets: every instant is in exactly one, whatever clocks and calendars do."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.domain.budget_periods import (
    SECOND,
    CalendarPeriod,
    DurationPeriod,
    RollingPeriod,
    span_at,
    still_counted,
    window_seconds,
)

HOUR, DAY = 3_600 * SECOND, 86_400 * SECOND
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "America/Havana",
    "Asia/Beirut",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Africa/Cairo",
)
UNITS = ("hour", "day", "week", "month", "year")
FIRST, LAST = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * SECOND for year in (2000, 2060))
instants = st.integers(FIRST, LAST)


def at(text: str, zone: str = "UTC") -> int:
    """An instant, from the local time of a zone."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * SECOND


@given(instants, st.sampled_from(UNITS), st.sampled_from(ZONES))
@example(at("2011-12-31T12:00", "Pacific/Apia"), "day", "Pacific/Apia")
@example(at("2011-12-29T12:00", "Pacific/Apia"), "day", "Pacific/Apia")
def test_every_instant_is_in_a_period_of_the_calendar_and_the_next_one_follows_at_once(
    now: int, unit: str, zone: str
) -> None:
    period = CalendarPeriod(unit, zone)  # type: ignore[arg-type]
    span = span_at(period, 0, now)
    assert span.start <= now < span.rolls_at
    assert span_at(period, 0, span.rolls_at - 1) == span
    if zone != "Australia/Lord_Howe" or unit != "hour":  # half of an hour happens twice
        assert span_at(period, 0, span.rolls_at).start == span.rolls_at


@given(instants, st.integers(60, 366 * 86_400), st.integers(0, 10**16))
def test_periods_of_one_length_follow_each_other(began: int, seconds: int, later: int) -> None:
    period = DurationPeriod(seconds)
    span = span_at(period, began, began + later)
    assert span.start <= began + later < span.rolls_at == span.start + seconds * SECOND
    assert (span.start - began) % (seconds * SECOND) == 0
    assert span_at(period, span.start, began + later) == span


def test_a_clock_that_has_gone_back_does_not_begin_an_earlier_period() -> None:
    assert span_at(DurationPeriod(60), 1_000 * SECOND, 0).start == 1_000 * SECOND


@pytest.mark.parametrize(
    ("unit", "zone", "now", "start", "end"),
    [
        ("month", "Europe/Berlin", "2026-02-28T23:59:59", "2026-02-01T00:00", "2026-03-01T00:00"),
        ("month", "UTC", "2028-02-29T12:00", "2028-02-01T00:00", "2028-03-01T00:00"),
        ("month", "UTC", "2026-12-31T23:59:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("month", "UTC", "2026-01-31T00:00", "2026-01-01T00:00", "2026-02-01T00:00"),
        ("year", "UTC", "2028-02-29T12:00", "2028-01-01T00:00", "2029-01-01T00:00"),
        ("week", "America/New_York", "2026-03-08T12:00", "2026-03-02T00:00", "2026-03-09T00:00"),
        ("day", "Europe/Berlin", "2026-03-29T12:00", "2026-03-29T00:00", "2026-03-30T00:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00", "2026-10-25T00:00", "2026-10-26T00:00"),
        ("day", "America/Santiago", "2026-09-06T12:00", "2026-09-06T01:00", "2026-09-07T00:00"),
        ("hour", "Asia/Kolkata", "2026-05-05T10:15", "2026-05-05T10:00", "2026-05-05T11:00"),
    ],
)
def test_a_period_begins_when_the_calendar_of_its_zone_says(
    unit: str, zone: str, now: str, start: str, end: str
) -> None:
    span = span_at(CalendarPeriod(unit, zone), 0, at(now, zone))  # type: ignore[arg-type]
    assert (span.start, span.rolls_at) == (at(start, zone), at(end, zone))


def test_a_day_is_as_long_as_its_clocks_make_it() -> None:
    lengths = [
        (span.rolls_at - span.start) // HOUR
        for day in ("2026-03-29T12:00", "2026-03-30T12:00", "2026-10-25T12:00")
        if (span := span_at(CalendarPeriod("day", "Europe/Berlin"), 0, at(day, "Europe/Berlin")))
    ]
    assert lengths == [23, 24, 25]


def test_a_rolling_window_forgets_only_what_was_spent_before_it_began() -> None:
    period = RollingPeriod("1h")
    assert window_seconds(period) == 3_600
    spent = ((0, 5), (HOUR // 2, 7))
    assert still_counted(spent, period, HOUR - 1) == spent
    assert still_counted(spent, period, HOUR) == ((HOUR // 2, 7),)
    assert still_counted(spent, period, 2 * HOUR) == ()
    assert span_at(period, 0, 0).rolls_at == 60 * SECOND


@pytest.mark.parametrize("window", ["", "0h", "1y", "h", "-1d", "1 d", "12345678d", "1h\n"])
def test_a_window_without_a_unit_is_refused(window: str) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        window_seconds(RollingPeriod(window))
