"""Retention: how long an organization keeps what it has, by kind."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.errors import InvalidInput
from perdure.domain.times import Timestamp

RetentionKind = Literal[
    "idle_sessions",
    "chat_sessions",
    "api_sessions",
    "archived_sessions",
    "waiting_sessions",
    "subagent_sessions",
    "images",
    "model_calls",
    "audit_entries",
]
RETENTION_KINDS: tuple[RetentionKind, ...] = get_args(RetentionKind)
MOST_DAYS = 36_500

_IDLE = Meta(
    description=(
        "Days without a change after which a session is deleted that rests: no turn runs or waits, no task is"
        " open, no schedule is on, and no session below it has changed since."
    )
)
_CHAT = Meta(description="The same, for sessions with the source `chat`.")
_API = Meta(description="The same, for sessions with the source `api`.")
_ARCHIVED = Meta(description="Days after which a session is deleted that was archived and rests.")
_WAITING = Meta(
    description=(
        "Days without a change after which a session is deleted whose turn waits: for an approval, an answer,"
        " a client or a budget."
    )
)
_SUBAGENT = Meta(
    description="Days without a change after which the session of a sub-agent is deleted that has ended."
)
_IMAGES = Meta(description="Days after which an uploaded image is deleted that belongs to no session.")
_CALLS = Meta(
    description="Days after which the ledger forgets a model call whose session is deleted and purged."
)
_AUDITS = Meta(description="Days after which an entry of the audit log is deleted.")

Days = Annotated[int, Meta(ge=0, le=MOST_DAYS)]


class RetentionDays(Struct, frozen=True):
    """Days by kind. 0: for ever; null: not set."""

    idle_sessions: Annotated[Days | None, _IDLE] = None
    chat_sessions: Annotated[Days | None, _CHAT] = None
    api_sessions: Annotated[Days | None, _API] = None
    archived_sessions: Annotated[Days | None, _ARCHIVED] = None
    waiting_sessions: Annotated[Days | None, _WAITING] = None
    subagent_sessions: Annotated[Days | None, _SUBAGENT] = None
    images: Annotated[Days | None, _IMAGES] = None
    model_calls: Annotated[Days | None, _CALLS] = None
    audit_entries: Annotated[Days | None, _AUDITS] = None

    def over(self, defaults: RetentionDays) -> RetentionDays:
        """What holds: these days, or else the defaults."""
        return RetentionDays(
            **{
                kind: getattr(defaults, kind) if getattr(self, kind) is None else getattr(self, kind)
                for kind in RETENTION_KINDS
            }
        )

    def limited(self) -> dict[RetentionKind, int]:
        """The kinds that are deleted by age, with their days."""
        found: dict[RetentionKind, int] = {}
        for kind in RETENTION_KINDS:
            days: int | None = getattr(self, kind)
            if days:
                found[kind] = days
        return found


class UpdateRetention(Struct, frozen=True):
    """Days by kind. 0 keeps it for ever; `null` restores the server's setting."""

    idle_sessions: Annotated[Days | None | UnsetType, _IDLE] = UNSET
    chat_sessions: Annotated[Days | None | UnsetType, _CHAT] = UNSET
    api_sessions: Annotated[Days | None | UnsetType, _API] = UNSET
    archived_sessions: Annotated[Days | None | UnsetType, _ARCHIVED] = UNSET
    waiting_sessions: Annotated[Days | None | UnsetType, _WAITING] = UNSET
    subagent_sessions: Annotated[Days | None | UnsetType, _SUBAGENT] = UNSET
    images: Annotated[Days | None | UnsetType, _IMAGES] = UNSET
    model_calls: Annotated[Days | None | UnsetType, _CALLS] = UNSET
    audit_entries: Annotated[Days | None | UnsetType, _AUDITS] = UNSET

    def changes(self) -> dict[RetentionKind, int | None]:
        """The kinds that the body names, with their days; None for the server's."""
        given = {kind: getattr(self, kind) for kind in RETENTION_KINDS}
        return {kind: days for kind, days in given.items() if days is not UNSET}

    def applied(self, days: RetentionDays) -> RetentionDays:
        """Return the days after this change."""
        changes = self.changes()
        return RetentionDays(
            **{kind: changes[kind] if kind in changes else getattr(days, kind) for kind in RETENTION_KINDS}
        )


class KeptFor(Struct, frozen=True):
    """Something that the server keeps for a fixed time."""

    kind: Annotated[str, Meta(description="What it is.", examples=["idempotency_answers"])]
    hours: Annotated[int, Meta(description="For how many hours it is kept.", examples=[24])]
    since: Annotated[str, Meta(description="Since when they count.", examples=["the request"])]


class DeletedCount(Struct, frozen=True):
    """How much retention has deleted on a day."""

    day: Annotated[str, Meta(description="The day, in UTC.", examples=["2026-03-14"])]
    kind: Annotated[str, Meta(description="The kind.", examples=["idle_sessions"])]
    deleted: Annotated[int, Meta(description="How many.", examples=[12])]


class Retention(Struct, frozen=True):
    """How long an organization keeps what it has, and what was deleted."""

    set: Annotated[
        RetentionDays, Meta(description="The days that were set for the organization; null: the server's.")
    ]
    holds: Annotated[RetentionDays, Meta(description="The days that hold; null and 0: for ever.")]
    fixed: Annotated[
        tuple[KeptFor, ...], Meta(description="What the server keeps for a fixed time, whatever is set.")
    ]
    deleted: Annotated[
        tuple[DeletedCount, ...],
        Meta(description="What retention has deleted in the last 90 days, the newest day first."),
    ]


class PreviewedKind(Struct, frozen=True):
    """What retention would delete of a kind now."""

    kind: Annotated[RetentionKind, Meta(description="The kind.")]
    days: Annotated[int, Meta(description="The days that hold, or would hold.", examples=[30])]
    items: Annotated[int, Meta(description="How many would be deleted.", examples=[42])]
    oldest_at: Annotated[
        Timestamp | None, Meta(description="The time of the oldest of them; null without any.")
    ]


class RetentionPreview(Struct, frozen=True):
    """What retention would delete now. Nothing is deleted or stored."""

    kinds: Annotated[
        tuple[PreviewedKind, ...],
        Meta(description="By kind, without those that are kept for ever. A session counts for each kind."),
    ]


def read_days(text: str) -> RetentionDays:
    """Read a setting such as `idle_sessions=365,model_calls=730`. Raises InvalidInput."""
    days: dict[str, int] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        kind, _, number = part.partition("=")
        if kind not in RETENTION_KINDS or not number.isdecimal() or int(number) > MOST_DAYS:
            raise InvalidInput(
                f"{part[:60]!r} is not KIND=DAYS, with one of {', '.join(RETENTION_KINDS)} and at most"
                f" {MOST_DAYS} days",
                code="invalid_setting",
            )
        days[kind] = int(number)
    return RetentionDays(**days)
