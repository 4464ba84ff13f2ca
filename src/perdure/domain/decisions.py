"""Decisions on tool calls that need approval: what was decided, by whom, and who may."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.accounts import RANK, Caller, UserRole
from perdure.domain.data_flow import ReasonCode
from perdure.domain.ids import UserId
from perdure.domain.messages import JsonObject
from perdure.domain.times import Timestamp

Decision = Literal["allow", "allow_always", "reject", "reject_always"]
"""`..._always` also decides every later call of that tool in the session."""

Via = Literal["api", "link", "cli", "chat", "mcp"]

MAX_REASON = 2_000
"""Characters of a reason."""

MAX_APPROVERS = 100
"""Users that a list of approvers may name."""

Reason = Annotated[str, Meta(max_length=MAX_REASON)]

Edited = Meta(
    description=(
        "With `allow`: the arguments to call the tool with, instead of the model's. They replace all of "
        "them, and must fit the tool's schema. The model is told."
    )
)


class Approvers(Struct, frozen=True, omit_defaults=True):
    """Who may decide. Whatever it names must hold; without anything, every member of the organization may."""

    owner: Annotated[bool, Meta(description="Only the session's owner.")] = False
    role: Annotated[UserRole | None, Meta(description="Only members with this role, or a higher one.")] = None
    users: Annotated[tuple[UserId, ...] | None, Meta(description="Only these users.")] = None

    def include(self, caller: Caller, owner_id: UserId) -> bool:
        """Whether the caller may decide in a session of this owner."""
        return (
            (not self.owner or caller.user_id == owner_id)
            and (self.role is None or RANK[caller.role] >= RANK[self.role])
            and (self.users is None or caller.user_id in self.users)
        )

    def both(self, other: Approvers) -> Approvers:
        """Return those whom both include."""
        users = self.users if other.users is None else other.users
        if self.users is not None and other.users is not None:
            users = tuple(user for user in self.users if user in other.users)
        role = other.role if self.role is None or self._outranked_by(other) else self.role
        return Approvers(self.owner or other.owner, role, users)

    def within(self, other: Approvers) -> bool:
        """Whether everybody whom this includes is certain to be included by `other`."""
        roles = other.role is None or (self.role is not None and not self._outranked_by(other))
        users = other.users is None or (self.users is not None and set(self.users) <= set(other.users))
        return (self.owner or not other.owner) and roles and users

    def _outranked_by(self, other: Approvers) -> bool:
        """Whether the other one requires a higher role. This one names a role."""
        return self.role is not None and other.role is not None and RANK[self.role] < RANK[other.role]

    def __str__(self) -> str:
        """Say who may decide, for an error message."""
        parts = ["the session's owner"] if self.owner else []
        if self.role is not None:
            parts.append(f"a member with the role {self.role}{'' if self.role == 'owner' else ' or above'}")
        if self.users is not None:
            parts.append(f"one of the users {', '.join(self.users)[:500]}" if self.users else "nobody")
        return ", who is also ".join(parts) or "any member"


ANYBODY = Approvers()


BEFORE: tuple[ReasonCode, ...] = ("persistent_change",)
"""What a standing decision of an older release covers: every call that needed approval then."""


class StandingDecision(Struct, frozen=True):
    """A decision on every later call of a tool in a session.

    Attributes:
        definition: the digest of the definition that it was given to, where the tool has one.
        covers: the reasons for which calls are allowed, beyond that the tool needs approval. A call that is
            asked about for another reason still is. A rejection covers every call.
    """

    decision: str
    definition: str | None = None
    covers: tuple[ReasonCode, ...] = BEFORE


class LinkUse(Struct, frozen=True):
    """The signed link by which somebody decided without a login."""

    made_by: Annotated[UserId, Meta(description="Who made the link.")]
    made_at: Annotated[Timestamp, Meta(description="When the link was made.")]


class AnsweredBy(Struct, frozen=True, omit_defaults=True):
    """Whose answers to an agent's questions are."""

    via: Annotated[Via, Meta(description="How the answers came.", examples=["api"])]
    by: Annotated[
        UserId | None, Meta(description="On whose authority: who called, or who made the link.")
    ] = None
    address: Annotated[str | None, Meta(description="The network address that they came from.")] = None
    user_agent: Annotated[str | None, Meta(description="The program that sent them, as it says.")] = None
    shown: Annotated[str | None, Meta(description="The SHA-256 of what was shown to the person.")] = None
    link: Annotated[LinkUse | None, Meta(description="The link that was used.")] = None


class Decided(Struct, frozen=True, omit_defaults=True):
    """A decision, and whose it is."""

    decision: Annotated[Decision, Meta(description="The decision.", examples=["allow"])]
    via: Annotated[Via, Meta(description="How the decision came.", examples=["api"])]
    by: Annotated[
        UserId | None, Meta(description="On whose authority: who called, or who made the link.")
    ] = None
    reason: Annotated[str | None, Meta(description="Why, as the model was told.")] = None
    arguments: Annotated[
        JsonObject | None, Meta(description="The edited arguments, which are what runs.")
    ] = None
    address: Annotated[str | None, Meta(description="The network address that it came from.")] = None
    user_agent: Annotated[str | None, Meta(description="The program that sent it, as it says.")] = None
    shown: Annotated[str | None, Meta(description="The SHA-256 of what was shown to the person.")] = None
    link: Annotated[LinkUse | None, Meta(description="The link that was used.")] = None
