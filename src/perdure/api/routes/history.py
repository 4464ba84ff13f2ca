"""Routes of the history of agents and harnesses."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.api.routes.audits import instant
from perdure.app import revisions as use
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import EntityRef, check_id, id_schema
from perdure.domain.revisions import (
    Number,
    RestoreRevision,
    Revision,
    RevisionDiff,
    RevisionFilter,
    RevisionKind,
    RevisionList,
)
from perdure.domain.times import Timestamp

_Word = Annotated[str, Meta(min_length=1, max_length=100)]
_Limit = Annotated[int, Meta(description="The maximum number of revisions to return.", ge=1, le=1000)]
_Action = Annotated[_Word | None, Meta(description="Return only revisions that this action led to.")]
_Before = Annotated[
    Annotated[str, id_schema("revision")] | None,
    Meta(description="Return only revisions older than the one with this id."),
]
_Kind = Annotated[
    RevisionKind | None,
    Meta(description="Whether a name means an agent (the default) or a harness."),
]


class ListOrgHistory(Struct, frozen=True):
    """Query parameters of the history of an organization."""

    action: _Action = None
    actor_user_id: Annotated[
        Annotated[str, id_schema("user")] | None, Meta(description="Return only what this user did.")
    ] = None
    kind: Annotated[RevisionKind | None, Meta(description="Return only revisions of this kind.")] = None
    since: Annotated[Timestamp | None, Meta(description="Return only revisions of then or later.")] = None
    before: _Before = None
    limit: _Limit = 100


class ListEntityHistory(Struct, frozen=True):
    """Query parameters of the history of one agent or harness."""

    kind: _Kind = None
    action: _Action = None
    before: _Before = None
    limit: _Limit = 100


class ShowRevision(Struct, frozen=True):
    """Query parameters of one revision."""

    kind: _Kind = None


class DiffRevisions(Struct, frozen=True, rename={"from_": "from"}):
    """Query parameters of the difference between two revisions."""

    from_: Annotated[Number, Meta(description="The revision that the diff starts from.")]
    to: Annotated[Number | None, Meta(description="The revision that it leads to. Default: the newest.")] = (
        None
    )
    kind: _Kind = None


@route("GET", "/v1/history", "history")
async def list_org_history(call: Call, query: ListOrgHistory) -> RevisionList:
    """List the revisions of all agents and harnesses.

    Every state that one of them has had since it was created, newest first.
    """
    filters = RevisionFilter(
        kind=query.kind,
        action=query.action,
        actor_user_id=None
        if query.actor_user_id is None
        else check_id(query.actor_user_id, "user", "actor_user_id"),
        before=_cursor(query.before),
        since=instant(query.since, "since"),
    )
    return await use.history_of_organization(call.app, call.caller, filters, query.limit)


def _cursor(before: str | None) -> str | None:
    return None if before is None else check_id(before, "revision", "before")


@route("GET", "/v1/history/{entity_ref}", "history", errors=(404,))
async def list_entity_history(call: Call, entity_ref: EntityRef, query: ListEntityHistory) -> RevisionList:
    """List the revisions of an agent or a harness.

    `entity_ref` is its id or its name. Newest first. One that is older than the history gets its first
    revision with its next change.
    """
    filters = RevisionFilter(action=query.action, before=_cursor(query.before))
    return await use.history_of(call.app, call.caller, entity_ref, query.kind, filters, query.limit)


@route("GET", "/v1/history/{entity_ref}/revisions/{revision}", "history", errors=(404,))
async def show_entity_revision(
    call: Call, entity_ref: EntityRef, revision: str, query: ShowRevision
) -> Revision:
    """Get a revision.

    With all its fields; secrets are digests.
    """
    if not revision.isascii() or not revision.isdecimal() or not 0 < len(revision) < 11:
        raise InvalidInput(f"`revision` must be a number, such as 3, not {revision[:40]!r}", field="revision")
    return await use.read_revision(call.app, call.caller, entity_ref, query.kind, int(revision))


@route("GET", "/v1/history/{entity_ref}/diff", "history", errors=(404,))
async def diff_entity_revisions(call: Call, entity_ref: EntityRef, query: DiffRevisions) -> RevisionDiff:
    """Compare two revisions.

    The result is a JSON Patch with the previous values; secrets are digests.
    """
    return await use.diff_revisions(call.app, call.caller, entity_ref, query.kind, query.from_, query.to)


@route(
    "POST",
    "/v1/history/{entity_ref}/restore",
    "history",
    errors=(403, 404, 409),
    replayable=True,
    body_example={"revision": 1},
)
async def restore_entity_revision(call: Call, entity_ref: EntityRef, body: RestoreRevision) -> Revision:
    """Restore a revision.

    Gives the agent or harness the fields of the revision, which makes another one; of an agent also a
    version. What they refer to, such as the harness and the model, must still exist. If it has that state
    already, nothing changes. Returns the newest revision. An agent needs the role `member`, a harness the
    role `admin`.
    """
    return await use.restore_revision(call.app, call.caller, entity_ref, body, call.once)


ROUTES = (
    list_org_history,
    list_entity_history,
    show_entity_revision,
    diff_entity_revisions,
    restore_entity_revision,
)
