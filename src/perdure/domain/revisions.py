"""The history of agents and harnesses: every state, who made it, and why."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.agent_versions import PatchStep
from perdure.domain.audits import REASON_HEADER, AuditActor
from perdure.domain.ids import AuditEntryId, RevisionId
from perdure.domain.messages import JsonObject
from perdure.domain.times import Micros, Timestamp

RevisionKind = Literal["agent", "harness"]
Number = Annotated[int, Meta(ge=1, le=2_147_483_647)]

_NUMBER = Meta(description="The number of the revision: 1, 2, 3 and so on.", examples=[3])
_ENTITY_ID = Meta(
    description="The id of the agent or harness.", examples=["agent_00000000000000000000000000000001"]
)


class Revision(Struct, frozen=True, omit_defaults=True):
    """One state of an agent or a harness."""

    id: Annotated[RevisionId, Meta(description="The revision's id.")]
    kind: Annotated[RevisionKind, Meta(description="What it is a revision of.", examples=["agent"])]
    entity_id: Annotated[str, _ENTITY_ID]
    revision: Annotated[int, _NUMBER]
    action: Annotated[
        str,
        Meta(
            description=(
                "What led to this state. `agent.found`, `harness.found`: nobody was seen to; it was there"
                " before the next change."
            ),
            examples=["agent.updated"],
        ),
    ]
    actor: Annotated[AuditActor, Meta(description="Who made the change.")]
    created_at: Annotated[
        Timestamp, Meta(description="When the state was stored.", examples=["2026-03-14T09:26:53.589793Z"])
    ]
    entity_name: Annotated[str | None, Meta(description="The name then.", examples=["support-desk"])] = None
    reason: Annotated[
        str | None,
        Meta(
            description=f"Why, as the request's header `{REASON_HEADER}` says.", examples=["Refunds are new"]
        ),
    ] = None
    audit_entry_id: Annotated[
        AuditEntryId | None, Meta(description="The entry of the change in the audit log.")
    ] = None
    content: Annotated[
        JsonObject | None,
        Meta(
            description="All fields, secrets as digests. Lists of revisions leave it out.",
            examples=[{"name": "support-desk"}],
        ),
    ] = None


class RevisionList(Struct, frozen=True, omit_defaults=True):
    """A page of revisions, newest first."""

    data: Annotated[tuple[Revision, ...], Meta(description="The revisions, without their content.")]
    has_more: Annotated[bool, Meta(description="Whether there are older ones.", examples=[False])]
    next_before: Annotated[
        RevisionId | None,
        Meta(description="What to pass as `before` to get the next page. Absent on the last one."),
    ] = None


class RevisionDiff(Struct, frozen=True):
    """The difference between two revisions."""

    kind: Annotated[RevisionKind, Meta(description="What they are revisions of.", examples=["agent"])]
    entity_id: Annotated[str, _ENTITY_ID]
    from_revision: Annotated[int, Meta(description="The revision that the diff starts from.", examples=[1])]
    to_revision: Annotated[int, Meta(description="The revision that the diff leads to.", examples=[3])]
    changes: Annotated[
        tuple[PatchStep, ...],
        Meta(description="A JSON Patch that turns the first into the second. Secrets are digests."),
    ]


class RestoreRevision(Struct, frozen=True):
    """The body of `POST /v1/history/{entity_ref}/restore`."""

    revision: Annotated[Number, Meta(description="The revision to restore.", examples=[1])]
    expected_revision: Annotated[
        Number | None,
        Meta(description="The newest revision that you know: if there is a newer one, nothing is restored."),
    ] = None
    fields: Annotated[
        Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=50)] | None,
        Meta(description="Restore only these fields.", examples=[["system_prompt"]]),
    ] = None
    kind: Annotated[
        RevisionKind | None, Meta(description="Whether a name means an agent (the default) or a harness.")
    ] = None


class RevisionFilter(Struct, frozen=True):
    """Which revisions are meant.

    Attributes:
        before: only revisions older than this one.
        since: an instant in microseconds: only revisions of then or later.
    """

    entity_id: str | None = None
    kind: RevisionKind | None = None
    action: str | None = None
    actor_user_id: str | None = None
    before: str | None = None
    since: Micros | None = None
