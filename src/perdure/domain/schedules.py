"""Schedules of a session: messages that come by themselves, once or again and again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import ScheduleId, SessionId
from perdure.domain.times import Micros, Timestamp, from_rfc3339

MAX_ACTIVE = 5
"""Enabled schedules of a session (wire contract)."""

MAX_KEPT = 100
"""Schedules of a session, those that are over or off included."""

MAX_INSTRUCTION = 20_000
"""Characters of the message that a schedule sends."""

ScheduleKind = Literal["cron", "once"]
Instruction = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_INSTRUCTION, examples=["Check the mailbox and summarise what is new."]),
]
Cron = Annotated[str, Meta(min_length=1, max_length=200, examples=["0 9 * * mon-fri"])]
Zone = Annotated[str, Meta(min_length=1, max_length=64, examples=["Europe/Paris"])]
Name = Annotated[str, Meta(min_length=1, max_length=200)]


class CreateSchedule(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/sessions/{session_id}/schedules`.

    `cron` (5 fields, in `timezone`) or `at`, one of the two.
    """

    message: Instruction
    name: Name | None = None
    cron: Cron | None = None
    at: Timestamp | None = None
    timezone: Zone = "UTC"
    enabled: bool = True


class UpdateSchedule(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/sessions/{session_id}/schedules/{schedule_id}`."""

    message: Instruction | UnsetType = UNSET
    name: Name | None | UnsetType = UNSET
    cron: Cron | UnsetType = UNSET
    at: Timestamp | UnsetType = UNSET
    timezone: Zone | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class Schedule(Struct, frozen=True, omit_defaults=True):
    """A schedule, as clients see it. `next_at` is missing when it is off or over."""

    id: ScheduleId
    session_id: SessionId
    message: str
    kind: ScheduleKind
    timezone: str
    enabled: bool
    fire_count: int
    created_at: Timestamp
    updated_at: Timestamp
    name: str | None = None
    cron: str | None = None
    at: Timestamp | None = None
    next_at: Timestamp | None = None
    last_fired_at: Timestamp | None = None


def zone_of(name: str) -> ZoneInfo:
    """The time zone. Raises InvalidInput."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(
            f"unknown time zone {name[:60]!r}: use an IANA name such as Europe/Paris", field="timezone"
        ) from None


def next_firing(cron: str, timezone: str, after: Micros) -> Micros:
    """The first instant after `after` that the expression names, in its time zone.

    A time that a change of clocks skips comes right after the change; one that it repeats comes once.

    Raises:
        InvalidInput: it is no cron expression of 5 fields, or it names no day that exists.
    """
    if len(cron.split()) != 5:
        raise InvalidInput(
            "a cron expression has 5 fields: minute hour day month weekday", code="invalid_cron", field="cron"
        )
    moment = datetime.fromtimestamp(after / 1_000_000, UTC).astimezone(zone_of(timezone))
    try:
        found = next(CronSim(cron, moment))
    except (CronSimError, StopIteration) as error:
        raise InvalidInput(
            f"not a cron expression: {str(error) or 'it never comes'}", code="invalid_cron", field="cron"
        ) from None
    return int(found.timestamp()) * 1_000_000


def first_firing(cron: str | None, at: str | None, timezone: str, now: Micros) -> Micros:
    """When a new schedule comes for the first time.

    Raises:
        InvalidInput: neither or both of `cron` and `at`, or one that is malformed, or a time that has passed.
    """
    if (cron is None) == (at is None):
        raise InvalidInput("give either `cron` or `at`", field="cron")
    if cron is not None:
        return next_firing(cron, timezone, now)
    zone_of(timezone)
    try:
        moment = from_rfc3339(at or "")
    except ValueError:
        raise InvalidInput("`at` must be an RFC 3339 time with an offset", field="at") from None
    if moment <= now:
        raise InvalidInput("`at` lies in the past", field="at")
    return moment
