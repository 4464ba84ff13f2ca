"""Routes of sessions."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call, Chunked
from perdure.api.kernel.route import route
from perdure.app import context_reports, forks, session_exports, session_lists, session_marks, session_trees
from perdure.app import session_ends as ends
from perdure.app import sessions as use
from perdure.domain.accounts import Caller
from perdure.domain.cancels import CancelledTurn
from perdure.domain.context_reports import SessionContextReport
from perdure.domain.errors import InvalidInput
from perdure.domain.feedback import Rating
from perdure.domain.ids import AgentIdText, SessionId, check_id, id_schema
from perdure.domain.paging import Page
from perdure.domain.session_counts import SessionFacets, SessionStats
from perdure.domain.session_trees import SessionTree
from perdure.domain.sessions import CreateSession, ForkSession, ListOrder, Session, Status, UpdateSession
from perdure.domain.times import Micros, Timestamp, from_rfc3339
from perdure.store.session_lists import SessionFilter

Offset = Annotated[int, Meta(description="The number of items to skip.", ge=0, le=10_000_000)]
Choices = Annotated[tuple[Annotated[str, Meta(max_length=200)], ...], Meta(max_length=20)]
STATUSES: tuple[Status, ...] = get_args(Status)
Limit = Annotated[int, Meta(description="The maximum number of items to return.", ge=1, le=100)]


class FilterSessions(Struct, frozen=True):
    """Query parameters that say which sessions are meant."""

    agent_id: Annotated[AgentIdText | None, Meta(description="Return only sessions of this agent.")] = None
    search: Annotated[
        Annotated[str, Meta(max_length=500)] | None,
        Meta(description="Text to find in the title, case-insensitive."),
    ] = None
    tags: Annotated[
        tuple[Annotated[str, Meta(max_length=100)], ...],
        Meta(max_length=20),
        Meta(
            description=(
                "Return only sessions that have this tag. May "
                "be repeated; a session must then have all of them."
            )
        ),
    ] = ()
    metadata: Annotated[
        dict[str, str],
        Meta(
            description=(
                "Return only sessions with this text under this name in their metadata, as in "
                "`metadata[customer]=4711`. Several must all match."
            )
        ),
    ] = {}
    status: Annotated[
        Choices,
        Meta(description="Return only sessions in this status. Several: repeat it, or separate by commas."),
    ] = ()
    source: Annotated[
        Choices,
        Meta(description="Return only sessions from this source. Several: repeat it, or separate by commas."),
    ] = ()
    mine: Annotated[
        bool | None,
        Meta(description="`true`: return only sessions that the caller created. `false`: no filter."),
    ] = None
    pinned: Annotated[
        bool | None,
        Meta(description="`true`: return only sessions that the caller has pinned. `false`: no filter."),
    ] = None
    feedback: Annotated[
        Rating | None,
        Meta(description="Return only sessions with a message that somebody has rated `up` or `down`."),
    ] = None
    parent_session_id: Annotated[
        Annotated[str, id_schema("session")] | None,
        Meta(description="Return only sessions that this session has begun as sub-agents."),
    ] = None
    root_session_id: Annotated[
        Annotated[str, id_schema("session")] | None,
        Meta(
            description=(
                "Return only sessions below this one at any depth. It must be at the top of its tree: other "
                "sessions have one above them, and `tree` shows what is below them."
            )
        ),
    ] = None
    include_archived: Annotated[bool, Meta(description="Whether to return archived sessions as well.")] = (
        False
    )
    archived_only: Annotated[bool, Meta(description="Whether to return archived sessions only.")] = False
    created_after: Annotated[
        Timestamp | None, Meta(description="Return only sessions created after this time.")
    ] = None
    created_before: Annotated[
        Timestamp | None, Meta(description="Return only sessions created before this time.")
    ] = None

    def filters(self, caller: Caller) -> SessionFilter:
        """Check the parameters. Raises InvalidInput."""
        archived: Literal["without", "with", "only"] = "with" if self.include_archived else "without"
        return SessionFilter(
            agent_id=None if self.agent_id is None else check_id(self.agent_id, "agent", "agent_id"),
            search=self.search or None,
            tags=self.tags,
            statuses=tuple(check_status(each) for each in separated(self.status)),
            sources=separated(self.source),
            metadata=tuple(self.metadata.items()),
            owner_id=caller.user_id if self.mine else None,
            pinned_by=caller.user_id if self.pinned else None,
            created_after=parse_time(self.created_after, "created_after"),
            created_before=parse_time(self.created_before, "created_before"),
            archived="only" if self.archived_only else archived,
            feedback=self.feedback,
            parent_id=_session_in(self.parent_session_id, "parent_session_id"),
            root_id=_session_in(self.root_session_id, "root_session_id"),
        )


class ListSessions(FilterSessions, frozen=True):
    """Query parameters of the list of sessions."""

    order: Annotated[
        ListOrder,
        Meta(description="`created_at`: newest first. `last_activity`: the last changed first, slower."),
    ] = "created_at"
    offset: Offset = 0
    limit: Limit = 20


def _session_in(text: str | None, field: str) -> SessionId | None:
    return None if text is None else check_id(text, "session", field)


def separated(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values of a parameter that may be repeated or separated by commas, without duplicates."""
    values = (each.strip() for text in texts for each in text.split(","))
    return tuple(dict.fromkeys(each for each in values if each))


def check_status(text: str) -> Status:
    """Return the status with this name. Raises InvalidInput."""
    for status in STATUSES:
        if text == status:
            return status
    raise InvalidInput(f"`status` must be one of {', '.join(STATUSES)}, not {text[:40]!r}", field="status")


def parse_time(text: str | None, field: str) -> Micros | None:
    """Parse a time in a query parameter. Raises InvalidInput."""
    if text is None:
        return None
    try:
        # Decoding a query string turns the plus sign of an offset into a space.
        return from_rfc3339(text.replace(" ", "+"))
    except ValueError:
        raise InvalidInput(f"`{field}` must be an RFC 3339 time with an offset", field=field) from None


_EXAMPLE = {"title": "Refund of order 4711", "tags": ["support"], "agent_name": "support-desk"}
_LINES = (
    '{"id":"message_01920000000070008000000000000001","role":"user",'
    '"content":[{"type":"text","text":"What is the capital of France?"}],'
    '"created_at":"2026-01-05T09:30:00.000000Z","sequence":2}\n'
    '{"id":"message_01920000000070008000000000000002","role":"agent",'
    '"content":[{"type":"text","text":"Paris."}],'
    '"created_at":"2026-01-05T09:30:01.000000Z","phase":"final_answer","sequence":7}\n'
)


@route("POST", "/v1/sessions", "sessions", status=201, errors=(404,), body_example=_EXAMPLE)
async def create_session(call: Call, body: CreateSession) -> Session:
    """Create a session.

    All fields are optional. Without a harness, the session uses the agent's harness; without an agent as
    well, it uses the built-in harness `generic`. Name the harness and the agent by either id or name,
    not both.
    """
    return await use.create_session(call.app, call.caller, body, call.once)


@route("GET", "/v1/sessions", "sessions")
async def list_sessions(call: Call, query: ListSessions) -> Page[Session]:
    """List sessions, newest first.

    A session must match all filters. Archived sessions are left out, unless a parameter asks for them.
    `total` counts the matching sessions on all pages. It is exact up to 200 with `search` or `tags`, and up
    to 5,000 with other filters. Above that it is a lower bound, and it stays greater than `offset` + `limit`
    while more sessions follow. The list leaves out `initial_files` and `hints`: get a single session for
    them. A page ends after about 4 MB: its `limit` is then its number of sessions.
    """
    return await session_lists.page_of_sessions(
        call.app, call.caller, query.filters(call.caller), query.offset, query.limit, query.order
    )


@route("GET", "/v1/sessions/{session_id}", "sessions", errors=(404,), etag=True)
async def get_session(call: Call, session_id: SessionId) -> Session:
    """Get a session.

    Returns its settings, its status and its usage so far.
    """
    return await use.read_session(call.app, call.caller, session_id)


@route(
    "PATCH",
    "/v1/sessions/{session_id}",
    "sessions",
    errors=(404, 412),
    body_example={"title": "Refund done", "tags": ["support", "done"]},
    etag=True,
)
async def update_session(call: Call, session_id: SessionId, body: UpdateSession) -> Session:
    """Update a session.

    Omitted fields keep their values; `null` clears a field; an empty object changes nothing.
    Allowed at any time. A running turn is not interrupted.
    """
    return await use.change_session(call.app, call.caller, session_id, body, call.if_match)


@route("DELETE", "/v1/sessions/{session_id}", "sessions", errors=(404, 409))
async def delete_session(call: Call, session_id: SessionId) -> None:
    """Delete a session.

    Cancels a running turn first. Afterwards, all routes of the session return 404. Its log is removed an hour
    later; to erase what it has left everywhere, with a receipt, create an erasure. 409 if it is under legal
    hold.
    """
    await ends.delete_session(call.app, call.caller, session_id)


@route("POST", "/v1/sessions/{session_id}/cancel", "sessions", errors=(404,))
async def cancel_turn(call: Call, session_id: SessionId) -> CancelledTurn:
    """Cancel the current turn.

    Ends a running or waiting turn. A model call in progress is aborted within a second. If no turn is
    running, the result is `no_op`.
    """
    return await ends.cancel_turn(call.app, call.caller, session_id)


@route("PUT", "/v1/sessions/{session_id}/pin", "sessions", errors=(404,))
async def pin_session(call: Call, session_id: SessionId) -> None:
    """Pin a session for the caller.

    Other users do not see the pin. Idempotent.
    """
    await session_marks.pin_session(call.app, call.caller, session_id, pinned=True)


@route("DELETE", "/v1/sessions/{session_id}/pin", "sessions", errors=(404,))
async def unpin_session(call: Call, session_id: SessionId) -> None:
    """Remove the caller's pin from a session.

    Idempotent.
    """
    await session_marks.pin_session(call.app, call.caller, session_id, pinned=False)


@route("PUT", "/v1/sessions/{session_id}/archive", "sessions", errors=(404,))
async def archive_session(call: Call, session_id: SessionId) -> Session:
    """Archive a session.

    Lists leave it out for all users, unless they are asked for archived sessions. It can still be read, and
    schedules and running turns go on. A message brings it back. Idempotent: `archived_at` keeps its first
    time.
    """
    return await session_marks.archive_session(call.app, call.caller, session_id, archived=True)


@route("DELETE", "/v1/sessions/{session_id}/archive", "sessions", errors=(404,))
async def unarchive_session(call: Call, session_id: SessionId) -> Session:
    """Bring a session back from the archive.

    Idempotent.
    """
    return await session_marks.archive_session(call.app, call.caller, session_id, archived=False)


@route(
    "POST",
    "/v1/sessions/{session_id}/fork",
    "sessions",
    status=201,
    errors=(403, 404),
    body_example={"title": "Another way", "from_sequence": 12},
)
async def fork_session(call: Call, session_id: SessionId, body: ForkSession) -> Session:
    """Fork a session at a point in its log.

    Copies the log up to `from_sequence` into a new session. The two sessions are independent. Omitted fields
    are copied from the original. At most 100,000 events can be copied. Another agent may have looser policies
    only if the caller owns the session or is an admin.
    """
    return await forks.fork_session(call.app, call.caller, session_id, body, call.once)


@route(
    "GET",
    "/v1/sessions/{session_id}/export",
    "sessions",
    errors=(404,),
    content="application/x-ndjson",
    example=_LINES,
)
async def export_session_jsonl(call: Call, session_id: SessionId) -> Chunked[bytes]:
    """Export a session's messages as JSON Lines.

    One message per line, oldest first.
    """
    return Chunked(
        session_exports.export_session(call.app, call.caller, session_id),
        content_type=b"application/x-ndjson",
    )


@route("GET", "/v1/sessions/{session_id}/context-report", "sessions", errors=(404,))
async def get_session_context_report(call: Call, session_id: SessionId) -> SessionContextReport:
    """Report what fills a session's context.

    Shows what the next model call would send: the prompt, the tools and the messages, by kind and by source.
    Token counts are estimates from the number of characters; the usage of each model call has the provider's
    own counts.
    """
    return await context_reports.context_report(call.app, call.caller, session_id)


@route("GET", "/v1/sessions/{session_id}/tree", "sessions", errors=(404,))
async def get_session_tree(call: Call, session_id: SessionId) -> SessionTree:
    """Get the tree of sessions below a session.

    The session itself comes first, and each session before its sub-agents, the oldest first. At most 1,000
    sessions are returned: those nearest to the session, and of these the newest. `truncated` says if there
    are more. `root_session_id` is the session at the top, whose tree is the whole one.
    """
    return await session_trees.read_tree(call.app, call.caller, session_id)


@route("GET", "/v1/sessions/stats", "sessions")
async def get_session_stats(call: Call) -> SessionStats:
    """Count sessions by status.

    Counts the organization's sessions that have not been deleted. Archived ones are counted apart.
    """
    return await session_lists.session_stats(call.app, call.caller)


@route("GET", "/v1/sessions/facets", "sessions")
async def get_session_facets(call: Call, query: FilterSessions) -> SessionFacets:
    """Count sessions by status, source and agent.

    Counts the sessions that match the filters, for user interfaces that offer further filters.
    """
    return await session_lists.session_facets(call.app, call.caller, query.filters(call.caller))


ROUTES = (
    create_session,
    list_sessions,
    get_session_stats,
    get_session_facets,
    archive_session,
    unarchive_session,
    fork_session,
    export_session_jsonl,
    get_session_context_report,
    get_session_tree,
    get_session,
    update_session,
    delete_session,
    cancel_turn,
    pin_session,
    unpin_session,
)
