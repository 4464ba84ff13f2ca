"""The audit log: who changed what, when, from where, and what was there before and after."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.ids import AuditEntryId, OrgId, SessionId, TokenId
from perdure.domain.messages import JsonObject
from perdure.domain.times import Micros, Timestamp

ActorType = Literal["user", "token", "link", "server"]
"""Who changed something: a user of a server without a login, an access token, somebody with a link, or the
server, also by a command on its machine."""
Outcome = Literal["done", "denied"]
Verb = Literal["created", "updated", "deleted"]
"""What a transaction did to a row."""

ACTIONS: dict[str, tuple[str, ...]] = {
    "agent": ("archived", "created", "forked", "restored", "rolled_back", "updated"),
    "agent_version": ("created",),
    "budget": ("created", "deleted", "topped_up", "updated"),
    "connection": ("deleted", "signed_in"),
    "database": ("created", "deleted"),
    "erasure": ("begun",),
    "file": ("copied", "created", "deleted", "moved", "updated"),
    "harness": ("archived", "created", "restored", "updated"),
    "image": ("deleted", "uploaded"),
    "inbox_link": ("created",),
    "invitation": ("created", "withdrawn"),
    "limits": ("updated",),
    "mcp_server": ("archived", "created", "deleted", "updated"),
    "mcp_tool": ("accepted",),
    "member": ("added", "joined", "removed", "updated"),
    "memory": ("created", "deleted", "updated"),
    "memory_version": ("redacted",),
    "model": ("created", "deleted", "updated"),
    "organization": ("created", "updated"),
    "provider": ("created", "deleted", "synced", "updated"),
    "retention": ("updated",),
    "schedule": ("created", "deleted", "updated"),
    "secret": ("created", "deleted", "updated"),
    "session": (
        "archived", "created", "deleted", "forked", "held", "released", "unarchived", "updated",
    ),
    "skill": ("archived", "created", "deleted", "updated"),
    "token": ("created", "revoked"),
    "turn": ("retried",),
    "user": ("updated",),
    "webhook": ("created", "deleted", "updated"),
    "worker": ("drained", "resumed"),
    "workspace": ("archived", "created", "updated"),
}  # fmt: skip
"""Kind of entity -> what can happen to it. An action is both, with a dot."""

REASON_HEADER = "Perdure-Reason"
MAX_REASON = 1000
"""Characters of a reason."""
MAX_AGENT = 300
"""Characters of a user agent, and of what a proxy says, that are kept."""
MAX_ROWS = 100
"""Entries that one request makes at most; the last one says how many rows changed."""


class Origin(Struct, frozen=True):
    """Where a change comes from.

    Attributes:
        org_id: the organization of changes that belong to no other; empty if there is none.
        user_id: the user; None if nobody is signed in.
        token_id: the access token; None without one.
        operation: the id of the operation.
        address: the network address that the request came from, a proxy's if there is one.
        forwarded_for: the header `X-Forwarded-For`, which nothing vouches for.
        reason: why, as the client says it.
        by_server: whether somebody at the server's own command line makes the change.
    """

    org_id: OrgId
    user_id: str | None
    token_id: TokenId | None
    operation: str
    request_id: str | None = None
    address: str | None = None
    forwarded_for: str | None = None
    user_agent: str | None = None
    reason: str | None = None
    by_server: bool = False

    @property
    def actor_type(self) -> ActorType:
        """Who it is that makes the change."""
        if self.by_server:
            return "server"
        if self.token_id is not None:
            return "token"
        return "link" if self.user_id is None else "user"


class AuditActor(Struct, frozen=True, omit_defaults=True):
    """Who made a change."""

    type: Annotated[
        ActorType,
        Meta(
            description=(
                "`token`: somebody with an access token; `user`: the user of a server without a login;"
                " `link`: somebody with a link that needs no login; `server`: the server itself, or a command"
                " on its machine."
            ),
            examples=["token"],
        ),
    ]
    id: Annotated[
        str | None,
        Meta(
            description="The user that the token belongs to.",
            examples=["user_00000000000000000000000000000001"],
        ),
    ] = None
    name: Annotated[str | None, Meta(description="The user's name then.", examples=["Ada"])] = None
    token_id: Annotated[
        TokenId | None,
        Meta(description="The access token.", examples=["token_00000000000000000000000000000001"]),
    ] = None
    token_name: Annotated[
        str | None, Meta(description="The access token's name then.", examples=["build server"])
    ] = None


class AuditEntity(Struct, frozen=True, omit_defaults=True):
    """What was changed."""

    type: Annotated[str, Meta(description="Its kind, such as `agent`.", examples=["agent"])]
    id: Annotated[
        str,
        Meta(
            description="Its id. Of what has none, what identifies it, such as a secret's session and name.",
            examples=["agent_00000000000000000000000000000001"],
        ),
    ]
    name: Annotated[str | None, Meta(description="Its name then.", examples=["support-desk"])] = None


_FIELDS = (
    "Secrets, headers and tokens are digests, which are equal for equal values and tell nothing else; long "
    "values are cut."
)


class AuditEntry(Struct, frozen=True, omit_defaults=True):
    """One change."""

    id: Annotated[AuditEntryId, Meta(description="The entry's id.")]
    organization_id: Annotated[OrgId, Meta(description="The organization.")]
    created_at: Annotated[
        Timestamp, Meta(description="When it happened.", examples=["2026-03-14T09:26:53.589793Z"])
    ]
    action: Annotated[
        str,
        Meta(description="What happened: the kind of entity, a dot and a verb.", examples=["agent.updated"]),
    ]
    outcome: Annotated[
        Outcome,
        Meta(
            description="`done`, or `denied`: the caller's role did not allow it, and nothing changed.",
            examples=["done"],
        ),
    ]
    entity: Annotated[AuditEntity, Meta(description="What was changed.")]
    actor: Annotated[AuditActor, Meta(description="Who changed it.")]
    operation: Annotated[
        str, Meta(description="The operation, by its `operationId`.", examples=["update_agent"])
    ]
    before: Annotated[
        JsonObject | None,
        Meta(
            description=f"The changed fields before; all of them if the entity was deleted. {_FIELDS}",
            examples=[{"description": "Knows all"}],
        ),
    ] = None
    after: Annotated[
        JsonObject | None,
        Meta(
            description=f"The changed fields after; all of them if the entity is new. {_FIELDS}",
            examples=[{"description": "Knows about refunds"}],
        ),
    ] = None
    reason: Annotated[
        str | None,
        Meta(
            description=f"Why, as the request's header `{REASON_HEADER}` says.", examples=["Refunds are new"]
        ),
    ] = None
    session_id: Annotated[SessionId | None, Meta(description="The session that the entity is in.")] = None
    request_id: Annotated[
        str | None,
        Meta(
            description="The request's id, which the server's log has as well.",
            examples=["req_00000000000000000000000000000001"],
        ),
    ] = None
    address: Annotated[
        str | None,
        Meta(
            description="The network address that the connection came from: a proxy's, if there is one.",
            examples=["192.0.2.7"],
        ),
    ] = None
    forwarded_for: Annotated[
        str | None,
        Meta(
            description=(
                "The request's `X-Forwarded-For`. Anybody can send one: trust it only if your proxy sets it."
            )
        ),
    ] = None
    user_agent: Annotated[
        str | None, Meta(description="The client's `User-Agent`.", examples=["perdure/0.1.0"])
    ] = None
    rows_changed: Annotated[
        int,
        Meta(
            description="How many things of this kind the request changed, if the entry stands for several."
        ),
    ] = 1


class AuditLog(Struct, frozen=True, omit_defaults=True):
    """A page of the audit log, newest first."""

    data: Annotated[tuple[AuditEntry, ...], Meta(description="The entries.")]
    has_more: Annotated[bool, Meta(description="Whether there are older ones.", examples=[False])]
    next_before: Annotated[
        AuditEntryId | None,
        Meta(description="What to pass as `before` to get the next page. Absent on the last one."),
    ] = None


class AuditFilter(Struct, frozen=True):
    """Which entries are meant.

    Attributes:
        action: the whole action; with a `*` at its end, all that begin like it.
        domain: the kind of entity in the action, before the dot.
        before: only entries older than this one.
        after: only entries newer than this one.
        since: an instant in microseconds: only entries of then or later.
        until: an instant in microseconds: only entries from before.
    """

    action: str | None = None
    domain: str | None = None
    actor_id: str | None = None
    entity_type: str | None = None
    entity_id: str | None = None
    session_id: str | None = None
    outcome: Outcome | None = None
    before: str | None = None
    after: str | None = None
    since: Micros | None = None
    until: Micros | None = None
