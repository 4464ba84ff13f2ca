"""Routes of sessions."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from perdure.api.kernel.http import Call, Reply, Route
from perdure.app import context_reports, forks, session_exports, session_lists
from perdure.app import sessions as use
from perdure.domain.context_reports import SessionContextReport
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import AgentIdText, Prefix, check_id
from perdure.domain.paging import Page
from perdure.domain.sessions import (
    CancelledTurn,
    CreateSession,
    ForkSession,
    Session,
    SessionStats,
    Status,
    UpdateSession,
)
from perdure.domain.times import Micros, Timestamp, from_rfc3339
from perdure.store.session_lists import SessionFilter

Offset = Annotated[int, Meta(description="The number of items to skip.", ge=0, le=10_000_000)]
Limit = Annotated[int, Meta(description="The maximum number of items to return.", ge=1, le=100)]
IDS: dict[str, Prefix] = {"session_id": "session"}


class ListSessions(Struct, frozen=True):
    """Query of the list of sessions."""

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
    status: Annotated[Status | None, Meta(description="Return only sessions in this status.")] = None
    pinned: Annotated[
        bool | None,
        Meta(description="`true`: return only sessions that the caller has pinned. `false`: no filter."),
    ] = None
    created_after: Annotated[
        Timestamp | None, Meta(description="Return only sessions created after this time.")
    ] = None
    created_before: Annotated[
        Timestamp | None, Meta(description="Return only sessions created before this time.")
    ] = None
    offset: Offset = 0
    limit: Limit = 20


def moment(text: str | None, field: str) -> Micros | None:
    """A time of the query. Raises InvalidInput."""
    if text is None:
        return None
    try:
        # A plus sign in a query string is read as a space.
        return from_rfc3339(text.replace(" ", "+"))
    except ValueError:
        raise InvalidInput(f"`{field}` must be an RFC 3339 time with an offset", field=field) from None


async def create_session(call: Call) -> Session:
    return await use.create_session(call.app, call.caller, call.body)


async def list_sessions(call: Call) -> Page[Session]:
    query: ListSessions = call.query
    if query.agent_id is not None:
        check_id(query.agent_id, "agent", "agent_id")
    want = SessionFilter(
        agent_id=query.agent_id,
        search=query.search or None,
        tags=query.tags,
        status=query.status,
        pinned_by=call.caller.user_id if query.pinned else None,
        created_after=moment(query.created_after, "created_after"),
        created_before=moment(query.created_before, "created_before"),
    )
    return await session_lists.page_of_sessions(call.app, call.caller, want, query.offset, query.limit)


async def get_session(call: Call) -> Session:
    return await use.read_session(call.app, call.caller, call.params["session_id"])


async def update_session(call: Call) -> Session:
    return await use.change_session(
        call.app, call.caller, call.params["session_id"], call.body, call.if_match
    )


async def delete_session(call: Call) -> None:
    await use.delete_session(call.app, call.caller, call.params["session_id"])


async def cancel_turn(call: Call) -> CancelledTurn:
    return await use.cancel_turn(call.app, call.caller, call.params["session_id"])


async def pin_session(call: Call) -> None:
    await use.pin_session(call.app, call.caller, call.params["session_id"], pinned=True)


async def unpin_session(call: Call) -> None:
    await use.pin_session(call.app, call.caller, call.params["session_id"], pinned=False)


async def fork_session(call: Call) -> Session:
    return await forks.fork_session(call.app, call.caller, call.params["session_id"], call.body)


async def export_session_jsonl(call: Call) -> Reply:
    body = await session_exports.export_session(call.app, call.caller, call.params["session_id"])
    return Reply(body, content_type=b"application/x-ndjson")


async def get_session_context_report(call: Call) -> SessionContextReport:
    return await context_reports.context_report(call.app, call.caller, call.params["session_id"])


async def get_session_stats(call: Call) -> SessionStats:
    return await session_lists.session_stats(call.app, call.caller)


_EXAMPLE: Any = {"title": "Refund of order 4711", "tags": ["support"], "agent_name": "support-desk"}
_LINES = (
    '{"id":"message_01920000000070008000000000000001","role":"user","content":[{"type":"text","text":"What is the capital of France?"}],'
    '"created_at":"2026-01-05T09:30:00.000000Z","sequence":2}\n'
    '{"id":"message_01920000000070008000000000000002","role":"agent","content":[{"type":"text","text":"Paris."}],'
    '"created_at":"2026-01-05T09:30:01.000000Z","phase":"final_answer","sequence":7}\n'
)
_ONE = "/v1/sessions/{session_id}"

ROUTES = (
    Route("POST", "/v1/sessions", "create_session", "Create a session", "sessions", create_session, body=CreateSession,
          body_example=_EXAMPLE, returns=Session, status=201, errors=(404,)),
    Route("GET", "/v1/sessions", "list_sessions", "List sessions, newest first", "sessions", list_sessions, query=ListSessions,
          returns=Page[Session]),
    Route("GET", "/v1/sessions/stats", "get_session_stats", "Count sessions by status", "sessions", get_session_stats,
          returns=SessionStats),
    Route("POST", _ONE + "/fork", "fork_session", "Copy a session up to a point of its log", "sessions", fork_session, ids=IDS,
          body=ForkSession, body_example={"title": "Another way", "from_sequence": 12}, returns=Session, status=201, errors=(404,)),
    Route("GET", _ONE + "/export", "export_session_jsonl", "Export a session's messages as JSON lines", "sessions",
          export_session_jsonl, ids=IDS, content="application/x-ndjson", example=_LINES, errors=(404,)),
    Route("GET", _ONE + "/context-report", "get_session_context_report", "See what fills a session's context", "sessions",
          get_session_context_report, ids=IDS, returns=SessionContextReport, errors=(404,)),
    Route("GET", _ONE, "get_session", "Get a session", "sessions", get_session, ids=IDS, returns=Session, errors=(404,), etag=True),
    Route("PATCH", _ONE, "update_session", "Change a session; fields that are left out stay", "sessions", update_session, ids=IDS,
          body=UpdateSession, body_example={"title": "Refund done", "tags": ["support", "done"]}, returns=Session,
          errors=(404, 412), etag=True),
    Route("DELETE", _ONE, "delete_session", "Delete a session, also in the middle of a turn", "sessions", delete_session, ids=IDS,
          status=204, errors=(404,)),
    Route("POST", _ONE + "/cancel", "cancel_turn", "Cancel the running turn", "sessions", cancel_turn, ids=IDS,
          returns=CancelledTurn, errors=(404,)),
    Route("PUT", _ONE + "/pin", "pin_session", "Pin a session for the caller", "sessions", pin_session, ids=IDS, status=204,
          errors=(404,)),
    Route("DELETE", _ONE + "/pin", "unpin_session", "Unpin a session for the caller", "sessions", unpin_session, ids=IDS,
          status=204, errors=(404,)),
)  # fmt: skip
