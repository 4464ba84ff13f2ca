"""Limits of an organization and of each of its users, and how much of them is used."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.errors import RateLimited
from perdure.domain.parked import LimitScope
from perdure.domain.times import Micros

LimitName = Literal["active_turns", "open_sessions", "requests_per_minute", "tokens_per_minute"]
LIMIT_NAMES: tuple[LimitName, ...] = (
    "active_turns",
    "open_sessions",
    "requests_per_minute",
    "tokens_per_minute",
)
Counted = Literal["requests", "tokens"]
"""What is counted by the minute."""

_IN_WORDS: dict[LimitName, str] = {
    "active_turns": "active turns",
    "open_sessions": "open sessions",
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
}
_ACTIVE_TURNS = Meta(
    description="Turns that run at a time, without those that rest because somebody else has to answer."
)
_OPEN_SESSIONS = Meta(description="Sessions that are neither archived nor deleted.")
_REQUESTS = Meta(description="HTTP requests in the last minute.")
_TOKENS = Meta(description="Input and output tokens of model calls in the last minute.")
_MOST = Meta(ge=1, le=1_000_000_000_000)
Most = Annotated[int, _MOST]


class LimitValues(Struct, frozen=True):
    """The values of the limits; None for no limit of its own."""

    active_turns: Annotated[int | None, _ACTIVE_TURNS] = None
    open_sessions: Annotated[int | None, _OPEN_SESSIONS] = None
    requests_per_minute: Annotated[int | None, _REQUESTS] = None
    tokens_per_minute: Annotated[int | None, _TOKENS] = None

    def within(self, most: LimitValues) -> LimitValues:
        """The values that hold: these, and none above those of the server."""
        values = {
            name: min(
                (each for each in (getattr(self, name), getattr(most, name)) if each is not None),
                default=None,
            )
            for name in LIMIT_NAMES
        }
        return LimitValues(**values)


NO_LIMITS = LimitValues()


class LimitsPair(Struct, frozen=True):
    """The limits of an organization as a whole, and of each of its users."""

    organization: LimitValues = NO_LIMITS
    user: LimitValues = NO_LIMITS

    def within(self, most: LimitsPair) -> LimitsPair:
        """The limits that hold: these, and none above those of the server."""
        return LimitsPair(self.organization.within(most.organization), self.user.within(most.user))


class ChangeLimits(Struct, frozen=True):
    """New values; `null` restores the server's."""

    active_turns: Annotated[Most | None | UnsetType, _ACTIVE_TURNS] = UNSET
    open_sessions: Annotated[Most | None | UnsetType, _OPEN_SESSIONS] = UNSET
    requests_per_minute: Annotated[Most | None | UnsetType, _REQUESTS] = UNSET
    tokens_per_minute: Annotated[Most | None | UnsetType, _TOKENS] = UNSET


class UpdateLimits(Struct, frozen=True):
    """The body of `PATCH /v1/orgs/{org}/limits`."""

    organization: Annotated[
        ChangeLimits | UnsetType, Meta(description="New limits of the organization as a whole.")
    ] = UNSET
    user: Annotated[ChangeLimits | UnsetType, Meta(description="New limits of each of its users.")] = UNSET


class LimitUse(Struct, frozen=True):
    """A limit, and how much of it is used."""

    limit: Annotated[int | None, Meta(description="The limit that holds; null for none.", examples=[1000])]
    used: Annotated[int, Meta(description="How much of it is used now.", examples=[12])]


class LimitUses(Struct, frozen=True):
    """Limits, and how much of them is used."""

    active_turns: Annotated[LimitUse, _ACTIVE_TURNS]
    open_sessions: Annotated[LimitUse, _OPEN_SESSIONS]
    requests_per_minute: Annotated[LimitUse, _REQUESTS]
    tokens_per_minute: Annotated[LimitUse, _TOKENS]


class Limits(Struct, frozen=True):
    """The limits of an organization and its users, and how much of them is used."""

    organization: Annotated[LimitUses, Meta(description="The limits of the organization as a whole.")]
    user: Annotated[LimitUses, Meta(description="The limits of each user, and what the caller uses of them.")]
    waiting_turns: Annotated[int, Meta(description="How many turns wait for others to end.", examples=[0])]
    set_organization: Annotated[
        LimitValues, Meta(description="The values that were set for the organization; null: the server's.")
    ]
    set_user: Annotated[
        LimitValues, Meta(description="The values that were set for its users; null: the server's.")
    ]


class Reached(Struct, frozen=True):
    """A limit that is reached.

    Attributes:
        used: how much of it is used.
        wait: microseconds until there may be room; None if nobody knows.
    """

    name: LimitName
    scope: LimitScope
    limit: int
    used: int
    wait: Micros | None = None

    def message(self) -> str:
        """Say which limit is reached, and how much of it is used."""
        whose = "the organization" if self.scope == "organization" else "the user"
        return f"{whose} has reached its limit of {self.limit} {_IN_WORDS[self.name]} (now: {self.used})"

    def refusal(self, advice: str) -> RateLimited:
        """The error for what would pass the limit. `advice`: what to do."""
        seconds = None if self.wait is None else self.wait / 1_000_000
        return RateLimited(f"{self.message()}: {advice}", code=f"{self.name}_limit", retry_after=seconds)
