"""A session's schedules: messages that the server sends to it at set times, once or repeatedly."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import ScheduleId, SessionId
from perdure.domain.times import CreatedAt, Micros, Timestamp, UpdatedAt, from_rfc3339

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

MAX_ACTIVE = 5
"""Enabled schedules of a session (wire contract)."""

MAX_KEPT = 100
"""Schedules of a session, including finished and disabled ones."""

SCHEDULED = "scheduled"
"""The key under which a schedule's message says, in its metadata, which one sent it."""

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


_MESSAGE = Meta(description="The message that the session receives each time.")
_SCHEDULE_NAME = Meta(description="The schedule's name, for people.")
_CRON = Meta(
    description=("When to send the message: minute, hour, day, month, weekday. Give this or `at`, not both.")
)
_AT = Meta(description="The single time at which to send the message. Give this or `cron`, not both.")
_TIMEZONE = Meta(description="The IANA name of the time zone of `cron`.")
_ENABLED = Meta(description="Whether the schedule is active.")


class CreateSchedule(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/sessions/{session_id}/schedules`.

    It contains exactly one of `cron` (5 fields, in `timezone`) and `at`.
    """

    message: Annotated[Instruction, _MESSAGE]
    name: Annotated[Name | None, _SCHEDULE_NAME] = None
    cron: Annotated[Cron | None, _CRON] = None
    at: Annotated[Timestamp | None, _AT] = None
    timezone: Annotated[Zone, _TIMEZONE] = "UTC"
    enabled: Annotated[bool, _ENABLED] = True


class UpdateSchedule(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/sessions/{session_id}/schedules/{schedule_id}`."""

    message: Annotated[Instruction | UnsetType, _MESSAGE] = UNSET
    name: Annotated[Name | None | UnsetType, _SCHEDULE_NAME] = UNSET
    cron: Annotated[Cron | UnsetType, _CRON] = UNSET
    at: Annotated[Timestamp | UnsetType, _AT] = UNSET
    timezone: Annotated[Zone | UnsetType, _TIMEZONE] = UNSET
    enabled: Annotated[bool | UnsetType, _ENABLED] = UNSET


class Schedule(Struct, frozen=True, omit_defaults=True):
    """A schedule, as clients see it. `next_at` is missing when it is disabled or finished."""

    id: Annotated[ScheduleId, Meta(description="The schedule's id.")]
    session_id: Annotated[SessionId, Meta(description="The session that the schedule belongs to.")]
    message: Annotated[str, _MESSAGE, Meta(examples=["Check the mailbox and summarise what is new."])]
    kind: Annotated[
        ScheduleKind, Meta(description="`cron`: repeats; `once`: sends the message a single time.")
    ]
    timezone: Annotated[str, _TIMEZONE, Meta(examples=["Europe/Paris"])]
    enabled: Annotated[bool, _ENABLED, Meta(examples=[True])]
    fire_count: Annotated[
        int, Meta(description="The number of times that the message was sent.", examples=[12])
    ]
    created_at: CreatedAt
    updated_at: UpdatedAt
    name: Annotated[str | None, _SCHEDULE_NAME] = None
    cron: Annotated[str | None, _CRON, Meta(examples=["0 9 * * mon-fri"])] = None
    at: Annotated[Timestamp | None, _AT] = None
    next_at: Annotated[
        Timestamp | None,
        Meta(
            description="When the message is sent next. Absent when the schedule is disabled or finished.",
            examples=["2026-03-14T09:26:54.731204Z"],
        ),
    ] = None
    last_fired_at: Annotated[Timestamp | None, Meta(description="When the message was last sent.")] = None


def zone_of(name: str) -> ZoneInfo:
    """The time zone with this IANA name. Raises InvalidInput."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # it loads the whole configuration of Python's build

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(
            f"unknown time zone {name[:60]!r}: use an IANA name such as Europe/Paris", field="timezone"
        ) from None


def next_firing(cron: str, timezone: str, after: Micros) -> Micros:
    """The first time after `after` that matches the cron expression, in its time zone.

    A local time that a clock change skips fires right after the change; one that it repeats fires once.

    Raises:
        InvalidInput: the expression is not a cron expression of 5 fields, or never matches.
    """
    if len(cron.split()) != 5:
        raise InvalidInput(
            f"{cron[:60]!r} is not a cron expression of 5 fields: minute hour day month weekday",
            code="invalid_cron",
            field="cron",
        )
    moment = datetime.fromtimestamp(after / 1_000_000, UTC).astimezone(zone_of(timezone))
    # Not at the top: the client imports the structs of this module, and is installed without cronsim.
    from cronsim import CronSim, CronSimError

    try:
        firing = next(CronSim(cron, moment))
    except (CronSimError, StopIteration) as error:
        raise InvalidInput(
            f"{cron[:60]!r} is not a valid cron expression: {str(error) or 'it never matches'}",
            code="invalid_cron",
            field="cron",
        ) from None
    return int(firing.timestamp()) * 1_000_000


def first_firing(cron: str | None, at: str | None, timezone: str, now: Micros) -> Micros:
    """The first firing of a new schedule.

    Raises:
        InvalidInput: both or neither of `cron` and `at` are set, one is malformed, or `at` has passed.
    """
    if (cron is None) == (at is None):
        raise InvalidInput("set exactly one of `cron` and `at`", field="cron")
    if cron is not None:
        return next_firing(cron, timezone, now)
    zone_of(timezone)
    try:
        moment = from_rfc3339(at or "")
    except ValueError:
        raise InvalidInput(
            "`at` must be an RFC 3339 time with an offset, such as 2030-05-01T09:00:00Z", field="at"
        ) from None
    if moment <= now:
        raise InvalidInput(f"`at` must be in the future, but {at} has passed", field="at")
    return moment
