"""Routes of messages, events and the live stream."""

from __future__ import annotations

import asyncio
from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.http import Call, Reply, Route, Stream
from perdure.api.kernel.sse import EventStream
from perdure.api.routes.sessions import IDS, moment
from perdure.app import approvals as use_approvals
from perdure.app import events as use_events
from perdure.app import messages as use
from perdure.app.events import EventsSummary
from perdure.app.feed import Want, open_follower
from perdure.domain.errors import InvalidInput
from perdure.domain.events import KNOWN_TYPES, Event, WireEvent
from perdure.domain.ids import MAX_SEQUENCE, Prefix, check_id, id_schema, sequence_of
from perdure.domain.messages import CreateMessage, Message
from perdure.domain.paging import Listing
from perdure.domain.tools import SubmitApprovals, SubmittedToolResults, SubmitToolResults
from perdure.store.events import EventFilter

Kinds = Annotated[tuple[Annotated[str, Meta(max_length=100)], ...], Meta(max_length=40)]
Sequence = Annotated[int, Meta(ge=0, le=MAX_SEQUENCE)]
Short = Annotated[str, Meta(max_length=200)]
Cursor = Annotated[str, Meta(extra_json_schema={"pattern": "^(event_[0-9a-f]{32})?$"})]
"""An event's id, or nothing."""


_SINCE_ID = Meta(description="Return only events after the event with this id.")
_AFTER_SEQUENCE = Meta(description="Return only events with a greater sequence number.")
_TYPES = Meta(description="Return only events of this type. May be repeated.")
_EXCLUDE = Meta(description="Leave out events of this type. May be repeated.")


class ListEvents(Struct, frozen=True):
    """Query of the list of events."""

    since_id: Annotated[Cursor | None, _SINCE_ID] = None
    types: Annotated[Kinds, _TYPES] = ()
    exclude: Annotated[Kinds, _EXCLUDE] = ()
    limit: Annotated[int, Meta(description="The maximum number of events to return.", ge=1, le=1000)] = 100
    before_sequence: Annotated[
        Sequence | None, Meta(description="Return only events with a smaller sequence number.")
    ] = None
    after_sequence: Annotated[Sequence | None, _AFTER_SEQUENCE] = None
    around: Annotated[
        Annotated[str, id_schema("event")] | None,
        Meta(description="Return the event with this id and its neighbours on both sides."),
    ] = None
    window: Annotated[
        int, Meta(description="The number of events to return on each side of `around`.", ge=1, le=500)
    ] = 20
    from_ts: Annotated[str | None, Meta(description="Return only events at or after this time.")] = None
    to_ts: Annotated[str | None, Meta(description="Return only events at or before this time.")] = None
    turn_id: Annotated[
        Annotated[Short, id_schema("turn")] | None, Meta(description="Return only events of this turn.")
    ] = None
    exec_id: Annotated[
        Annotated[Short, id_schema("exec")] | None, Meta(description="Return only events of this execution.")
    ] = None
    trace_id: Annotated[
        Annotated[Short, id_schema("turn")] | None, Meta(description="The same as `turn_id`.")
    ] = None
    tags: Annotated[
        tuple[Annotated[str, Meta(max_length=100)], ...],
        Meta(max_length=20),
        Meta(
            description=(
                "Return only events that have this tag. May be repeated; an event must then have all of them."
            )
        ),
    ] = ()
    tool_name: Annotated[Short | None, Meta(description="Return only events about this tool.")] = None
    q: Annotated[
        Annotated[str, Meta(max_length=500)] | None,
        Meta(description="Text to find in the event's data, case-insensitive."),
    ] = None
    order_desc: Annotated[bool, Meta(description="Whether to return the newest events first.")] = False


class FollowEvents(Struct, frozen=True):
    """Query of the live stream."""

    since_id: Annotated[Cursor | None, _SINCE_ID] = None
    after_sequence: Annotated[Sequence | None, _AFTER_SEQUENCE] = None
    types: Annotated[Kinds, _TYPES] = ()
    exclude: Annotated[Kinds, _EXCLUDE] = ()


def check_kinds(kinds: tuple[str, ...], field: str) -> tuple[str, ...]:
    """Accept only kinds of event that exist. Raises InvalidInput."""
    for kind in kinds:
        if kind not in KNOWN_TYPES:
            raise InvalidInput(
                f"`{field}`: there is no event type {kind[:60]!r}", code="unknown_event_type", field=field
            )
    return kinds


def cursor_of(since_id: str | None, field: str = "since_id") -> int:
    """The sequence after which to begin; 0 where there is no id. Raises InvalidId."""
    return sequence_of(check_id(since_id, "event", field)) if since_id else 0


def id_of(text: str | None, prefix: Prefix, field: str) -> str | None:
    """An id of the query, if it is there. Raises InvalidId."""
    return None if text is None else check_id(text, prefix, field)


async def create_message(call: Call) -> Message:
    return await use.post_message(call.app, call.caller, call.params["session_id"], call.body)


async def list_messages(call: Call) -> Listing[Message]:
    return Listing(tuple(await use.list_messages(call.app, call.caller, call.params["session_id"])))


async def submit_tool_results(call: Call) -> SubmittedToolResults:
    return await use.submit_tool_results(call.app, call.caller, call.params["session_id"], call.body)


async def submit_approvals(call: Call) -> SubmittedToolResults:
    return await use_approvals.submit_approvals(call.app, call.caller, call.params["session_id"], call.body)


def _events_reply(events: list[Event]) -> Reply:
    return Reply(b'{"data":[' + b",".join(event.wire() for event in events) + b"]}")


async def list_events(call: Call) -> Reply:
    query: ListEvents = call.query
    bounds = [
        name for name in ("before_sequence", "after_sequence", "around") if getattr(query, name) is not None
    ]
    if len(bounds) > 1:
        raise InvalidInput(f"give only one of {', '.join(f'`{name}`' for name in bounds)}", field=bounds[1])
    after = query.after_sequence
    if query.since_id is not None:
        after = max(cursor_of(query.since_id), after or 0)
    want = EventFilter(
        types=check_kinds(query.types, "types"),
        exclude=check_kinds(query.exclude, "exclude"),
        after=after,
        before=query.before_sequence,
        from_ts=moment(query.from_ts, "from_ts"),
        to_ts=moment(query.to_ts, "to_ts"),
        turn_id=id_of(query.turn_id, "turn", "turn_id"),
        trace_id=id_of(query.trace_id, "turn", "trace_id"),
        exec_id=id_of(query.exec_id, "exec", "exec_id"),
        tool_name=query.tool_name,
        tags=query.tags,
        text=query.q or None,
    )
    session_id = call.params["session_id"]
    if query.around is not None:
        sequence = sequence_of(check_id(query.around, "event", "around"))
        return _events_reply(
            await use_events.events_around(call.app, call.caller, session_id, sequence, query.window, want)
        )
    # Paging back without an anchor gives the events just before it, still oldest first.
    back = query.before_sequence is not None and not query.order_desc
    events = await use_events.page_of_events(
        call.app, call.caller, session_id, want, query.limit, newest_first=query.order_desc or back
    )
    return _events_reply(events[::-1] if back else events)


async def events_summary(call: Call) -> EventsSummary:
    return await use_events.summary_of_events(call.app, call.caller, call.params["session_id"])


class StreamSettings(Struct, frozen=True):
    """What every live stream of this process shares."""

    closing: asyncio.Event
    cycle: float
    heartbeat: float


def stream_route(settings: StreamSettings) -> Route:
    """The route of the live stream."""

    async def stream_sse(call: Call) -> Stream:
        query: FollowEvents = call.query
        want = Want(
            frozenset(check_kinds(query.types, "types")), frozenset(check_kinds(query.exclude, "exclude"))
        )
        # A browser that connects again keeps the address and adds the header: whichever is further is what
        # was seen.
        after = max(
            cursor_of(query.since_id),
            cursor_of(call.header(b"last-event-id"), "Last-Event-ID"),
            query.after_sequence or 0,
        )
        follower = await open_follower(
            call.app, call.caller.organization_id, call.params["session_id"], after, want
        )
        return Stream(
            EventStream(follower, settings.closing, cycle=settings.cycle, heartbeat=settings.heartbeat)
        )

    return Route(
        "GET",
        f"{_ONE}/sse",
        "stream_sse",
        "Follow a session live",
        "events",
        stream_sse,
        ids=IDS,
        query=FollowEvents,
        returns=WireEvent,
        errors=(404,),
        content="text/event-stream",
        description=(
            "Server-sent events: what is in the log after `since_id` (or the `Last-Event-ID` header; with both, whichever is further), "
            "then what happens, without a gap or a repeat. Connections are ended now and then with a `disconnecting` frame: resume by "
            "the last id."
        ),
    )


_ONE = "/v1/sessions/{session_id}"
_MESSAGE = {
    "message": {"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}
}
_RESULTS = {"tool_results": [{"tool_call_id": "call_1", "result": {"status": "shipped"}}]}

ROUTES = (
    Route("POST", _ONE + "/messages", "create_message", "Send a message: it starts a turn, or steers the running one", "messages",
          create_message, ids=IDS, body=CreateMessage, body_example=_MESSAGE, returns=Message, status=201, errors=(404,)),
    Route("GET", _ONE + "/messages", "list_messages", "List a session's messages, oldest first", "messages", list_messages, ids=IDS,
          returns=Listing[Message], errors=(404,)),
    Route("POST", _ONE + "/tool-results", "submit_tool_results", "Answer the open client-side tool calls, all at once", "messages",
          submit_tool_results, ids=IDS, body=SubmitToolResults, body_example=_RESULTS, returns=SubmittedToolResults,
          errors=(404, 409)),
    Route(
        "POST",
        _ONE + "/tool-approvals",
        "submit_tool_approvals",
        "Allow or reject tool calls that are held back",
        "messages",
        submit_approvals,
        ids=IDS,
        body=SubmitApprovals,
        body_example={"decisions": [{"tool_call_id": "call_1", "decision": "allow"}]},
        returns=SubmittedToolResults,
        errors=(404, 409),
    ),
    Route("GET", _ONE + "/events", "list_events", "List a session's events, oldest first", "events", list_events, ids=IDS,
          query=ListEvents, returns=Listing[WireEvent], errors=(404,)),
    Route("GET", _ONE + "/events/summary", "events_summary", "Count a session's events", "events", events_summary, ids=IDS,
          returns=EventsSummary, errors=(404,)),
)  # fmt: skip
