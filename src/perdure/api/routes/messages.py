"""Routes of messages, events and the live stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from msgspec import Meta, Raw, Struct

from perdure.api.kernel.call import Answer, Call, Chunked, Stream, json_list
from perdure.api.kernel.route import Route, route
from perdure.api.kernel.sse import EventStream
from perdure.api.routes.deciders import decider_of
from perdure.api.routes.runs import WaitForResult, wait_for
from perdure.api.routes.sessions import parse_time
from perdure.app import approvals as use_approvals
from perdure.app import events as use_events
from perdure.app import messages as use
from perdure.app.events import Cursor as EventCursor
from perdure.app.feed import Want, open_follower
from perdure.app.login import may_continue
from perdure.app.questions import submit_results
from perdure.app.runs import send
from perdure.domain.errors import InvalidInput
from perdure.domain.event_pages import EventPage, EventsSummary
from perdure.domain.events import KNOWN_TYPES, Event
from perdure.domain.ids import MAX_SEQUENCE, SessionId, check_id, id_schema
from perdure.domain.messages import CreateMessage, Message
from perdure.domain.paging import Listing
from perdure.domain.runs import RunResult
from perdure.domain.tools import SubmitApprovals, SubmittedToolResults, SubmitToolResults
from perdure.store.events import EventFilter

EventTypes = Annotated[tuple[Annotated[str, Meta(max_length=100)], ...], Meta(max_length=40)]
Sequence = Annotated[int, Meta(ge=0, le=MAX_SEQUENCE)]
ShortText = Annotated[str, Meta(max_length=200)]
Cursor = Annotated[str, Meta(extra_json_schema={"pattern": "^(event_[0-9a-f]{32})?$"})]
"""An event's id, or an empty string."""


_SINCE_ID = Meta(description="Return only events after the event with this id.")
_AFTER_SEQUENCE = Meta(description="Return only events with a greater sequence number.")
_TYPES = Meta(description="Return only events of this type. May be repeated.")
_EXCLUDE = Meta(description="Leave out events of this type. May be repeated.")


class ListEvents(Struct, frozen=True):
    """Query parameters of the list of events."""

    since_id: Annotated[Cursor | None, _SINCE_ID] = None
    types: Annotated[EventTypes, _TYPES] = ()
    exclude: Annotated[EventTypes, _EXCLUDE] = ()
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
        Annotated[ShortText, id_schema("turn")] | None, Meta(description="Return only events of this turn.")
    ] = None
    exec_id: Annotated[
        Annotated[ShortText, id_schema("exec")] | None,
        Meta(description="Return only events of this execution."),
    ] = None
    trace_id: Annotated[
        Annotated[ShortText, id_schema("turn")] | None, Meta(description="The same as `turn_id`.")
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
    tool_name: Annotated[ShortText | None, Meta(description="Return only events about this tool.")] = None
    q: Annotated[
        Annotated[str, Meta(max_length=500)] | None,
        Meta(description="Text to find in the event's data, case-insensitive."),
    ] = None
    order_desc: Annotated[bool, Meta(description="Whether to return the newest events first.")] = False


class FollowEvents(Struct, frozen=True):
    """Query parameters of the live stream."""

    since_id: Annotated[Cursor | None, _SINCE_ID] = None
    after_sequence: Annotated[Sequence | None, _AFTER_SEQUENCE] = None
    types: Annotated[EventTypes, _TYPES] = ()
    exclude: Annotated[EventTypes, _EXCLUDE] = ()


def check_types(types: tuple[str, ...], field: str) -> tuple[str, ...]:
    """Return the event types unchanged if all of them exist. Raises InvalidInput."""
    for name in types:
        if name not in KNOWN_TYPES:
            raise InvalidInput(
                f"`{field}`: unknown event type {name[:60]!r}; see the event reference",
                code="unknown_event_type",
                field=field,
            )
    return types


def cursor_of(event_id: str | None, field: str = "since_id") -> EventCursor | None:
    """Return the cursor at the event with this id; None without an id.

    Raises:
        InvalidId: the text is not an event's id.
    """
    return EventCursor(check_id(event_id, "event", field), field) if event_id else None


_MESSAGE = {
    "message": {"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}
}
_RESULTS = {"tool_results": [{"tool_call_id": "call_1", "result": {"status": "shipped"}}]}


@route(
    "POST",
    "/v1/sessions/{session_id}/messages",
    "messages",
    status=201,
    other=(200, 202),
    errors=(404, 409),
    body_example=_MESSAGE,
)
async def create_message(
    call: Call, session_id: SessionId, query: WaitForResult, body: CreateMessage
) -> Message | Answer[RunResult]:
    """Send a message to a session.

    Once the server has responded, the message is stored durably and will be processed, even after a crash. If
    no turn is running, the message starts one. If a turn is running, the message steers it: the next model
    call sees it. If the session is waiting for tool results or approvals, the open calls are cancelled and
    the turn continues with the message. `controls.when_busy` has the message wait for its own turn, be
    refused, or replace the running turn instead.

    With `wait`, the response is the result of the message's turn: 200 if the turn has ended, also if it has
    failed; 202 with links if the time is up or somebody must answer first. The turn goes on whatever becomes
    of the request. A repetition with the same Idempotency-Key or `client_message_id` waits again.
    """
    if query.wait is not None:
        return await wait_for(
            call, await send(call.app, call.caller, session_id, body, call.once), query.wait
        )
    return await use.post_message(call.app, call.caller, session_id, body, call.once)


@route("GET", "/v1/sessions/{session_id}/messages", "messages", errors=(404,))
async def list_messages(call: Call, session_id: SessionId) -> Chunked[Listing[Message]]:
    """List a session's messages, oldest first.

    Rebuilt from the log: messages of users and of the agent, and the results of tools.
    """
    return Chunked(json_list(use.list_messages(call.app, call.caller, session_id)))


@route(
    "POST",
    "/v1/sessions/{session_id}/tool-results",
    "messages",
    errors=(404, 409, 410),
    body_example=_RESULTS,
)
async def submit_tool_results(
    call: Call, session_id: SessionId, body: SubmitToolResults
) -> SubmittedToolResults:
    """Submit the results of the open client-side tool calls, or answers to the agent's questions.

    The request must answer every open call of the latest `tool.call_requested` event exactly once. Calls
    that have no result by the deadline in the event fail; the model sees the error. Calls whose arguments do
    not match the tool's schema are not requested: they fail at once. 409 if the session is not
    waiting for tool results.

    A call that asks questions (`tool.parked` of the kind `question`) takes the result
    `{"answers": {"<the question's id>": <a text or null>}}`: the label of an option, a text, or the value
    of a secret; `null` declines. 410 if somebody was faster, or the time is over.
    """
    return await submit_results(call.app, decider_of(call), session_id, body)


@route(
    "POST",
    "/v1/sessions/{session_id}/tool-approvals",
    "messages",
    errors=(403, 404, 409),
    body_example={"decisions": [{"tool_call_id": "call_1", "decision": "allow"}]},
)
async def submit_tool_approvals(
    call: Call, session_id: SessionId, body: SubmitApprovals
) -> SubmittedToolResults:
    """Approve or reject tool calls that require approval.

    Decides some or all of the open approvals of the latest `tool.call_requested` event. The turn continues
    after the last decision. `allow` approves one call with exactly these arguments; `allow_always` and
    `reject_always` also decide later calls of the tool in this session. `arguments` replace those of the
    model: they must fit the tool's schema, and the model is told. The model gets the `reason`, too. 403 if
    the session's policies let others decide. 409 if the session is not waiting for an approval.
    """
    return await use_approvals.submit_approvals(call.app, decider_of(call), session_id, body)


def _taken(batch: list[Event]) -> list[Raw]:
    """Encode the events of a batch, and let go of them: they may be large, and the next are about to come."""
    encoded = [Raw(event.wire()) for event in batch]
    batch.clear()
    return encoded


def _page(reader: use_events.EventReader | None, batches: AsyncIterator[list[Event]]) -> Chunked[EventPage]:
    """Build a page of the batches that `reader` yields."""

    async def wire() -> AsyncIterator[list[Raw]]:
        async for batch in batches:
            yield _taken(batch)

    return Chunked(
        json_list(wire(), lambda: b',"has_more":true' if reader is not None and reader.more else b"")
    )


@route("GET", "/v1/sessions/{session_id}/events", "events", errors=(404,))
async def list_events(call: Call, session_id: SessionId, query: ListEvents) -> Chunked[EventPage]:
    """List a session's events.

    Oldest first, unless `order_desc` is true. Use only one of `before_sequence`, `after_sequence` and
    `around`. `before_sequence` returns the events closest before that sequence number. A page ends after
    16 MB with `has_more`.
    """
    bounds = [
        name for name in ("before_sequence", "after_sequence", "around") if getattr(query, name) is not None
    ]
    if len(bounds) > 1:
        raise InvalidInput(f"send only one of {', '.join(f'`{name}`' for name in bounds)}", field=bounds[1])
    filters = EventFilter(
        types=check_types(query.types, "types"),
        exclude=check_types(query.exclude, "exclude"),
        after=query.after_sequence,
        before=query.before_sequence,
        from_ts=parse_time(query.from_ts, "from_ts"),
        to_ts=parse_time(query.to_ts, "to_ts"),
        turn_id=None if query.turn_id is None else check_id(query.turn_id, "turn", "turn_id"),
        trace_id=None if query.trace_id is None else check_id(query.trace_id, "turn", "trace_id"),
        exec_id=None if query.exec_id is None else check_id(query.exec_id, "exec", "exec_id"),
        tool_name=query.tool_name,
        tags=query.tags,
        text=query.q or None,
    )
    if query.around is not None:
        around = EventCursor(check_id(query.around, "event", "around"), "around")
        found = use_events.events_around(call.app, call.caller, session_id, around, query.window, filters)
        return _page(None, found)
    # The events closest before `before_sequence` are read newest first and returned oldest first.
    backwards = query.before_sequence is not None and not query.order_desc
    reader = use_events.EventReader(
        call.app,
        call.caller,
        session_id,
        filters,
        query.limit,
        since=cursor_of(query.since_id),
        newest_first=query.order_desc or backwards,
    )
    return _page(reader, reader.oldest_first() if backwards else reader.batches())


@route("GET", "/v1/sessions/{session_id}/events/summary", "events", errors=(404,))
async def events_summary(call: Call, session_id: SessionId) -> EventsSummary:
    """Count a session's events by type.

    Also returns the times of the first and the last event.
    """
    return await use_events.summary_of_events(call.app, call.caller, session_id)


class StreamSettings(Struct, frozen=True):
    """Settings of all live streams of this process.

    Attributes:
        closing: set when the server shuts down; streams then end.
        cycle: the time after which a connection is ended, in seconds, with jitter.
        heartbeat: the time without frames after which a heartbeat is sent, in seconds.
    """

    closing: asyncio.Event
    cycle: float
    heartbeat: float


def stream_route(settings: StreamSettings) -> Route:
    """Build the route of the live stream."""

    @route("GET", "/v1/sessions/{session_id}/sse", "events", errors=(404,), content="text/event-stream")
    async def stream_sse(call: Call, session_id: SessionId, query: FollowEvents) -> Stream:
        """Follow a session's events live.

        A stream of server-sent events. It sends the events in the log after `since_id` or the `Last-Event-ID`
        header (the later of the two if both are sent), then new events as they happen, without gaps or
        repeats. The server ends connections from time to time with a `disconnecting` frame: reconnect with
        the last id to resume. An id that is not of this session's log, or a sequence beyond its end, is a 400
        with the code `unknown_cursor`; the last event itself is a valid cursor.
        """
        want = Want(
            frozenset(check_types(query.types, "types")), frozenset(check_types(query.exclude, "exclude"))
        )
        # A browser that reconnects keeps the URL, with its old `since_id`, and adds the header. The later of
        # the two is what it has received.
        given = (cursor_of(query.since_id), cursor_of(call.header(b"last-event-id"), "Last-Event-ID"))
        cursors = [cursor for cursor in given if cursor is not None]
        after = query.after_sequence or 0
        follower = await open_follower(call.app, call.caller, session_id, after, want, cursors)
        return Stream(
            EventStream(
                follower,
                settings.closing,
                cycle=settings.cycle,
                heartbeat=settings.heartbeat,
                allowed=lambda: may_continue(call.app, call.caller),
                metrics=call.app.metrics,
            )
        )

    return stream_sse


ROUTES = (
    create_message,
    list_messages,
    submit_tool_results,
    submit_tool_approvals,
    list_events,
    events_summary,
)
