"""Messages: post one (it starts a turn, or steers the running one), list them, submit tool results."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Protocol

import msgspec

from perdure.app.at_head import tell_followers, write_at_head
from perdure.app.attachments import receive
from perdure.app.content_checks import check_result, checked_content
from perdure.app.context import App, Services
from perdure.app.damaged import damaged_message
from perdure.app.guarded import Checked, checked_results, session_guard
from perdure.app.idempotency import Once, replay
from perdure.app.output_schemas import checked_controls
from perdure.app.participants import addressee
from perdure.app.running_turns import refuse_busy, see_to_runner, stop_turn
from perdure.app.session_room import check_room_for_session
from perdure.app.sessions import check_model
from perdure.app.storage import without_secrets
from perdure.app.task_wishes import cancel_awaited
from perdure.app.variables import check_message_values, with_variables
from perdure.capabilities.guarding import Guard
from perdure.capabilities.layers import acting
from perdure.domain.accounts import Caller
from perdure.domain.calls import CallState, Parked
from perdure.domain.data_flow import External
from perdure.domain.derived_messages import result_message
from perdure.domain.errors import Conflict, Fenced, InvalidInput, StaleHead, UnreadableEvent
from perdure.domain.events import (
    Event,
    InputMessageData,
    MessageOrigin,
    NewEvent,
    OutputMessageCompletedData,
    ToolCompletedData,
)
from perdure.domain.ids import MAX_SEQUENCE, MessageId, SessionId
from perdure.domain.messages import ContentPart, Controls, CreateMessage, Message, TextPart
from perdure.domain.participants import mentioned
from perdure.domain.queued import check_queue
from perdure.domain.spans import act_context, message_context, tool_context
from perdure.domain.speakers import Speaker
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.tool_content import content_of_result
from perdure.domain.tools import APPROVE, SubmittedToolResults, SubmitToolResults, ToolCallResult
from perdure.domain.trace_context import TraceContext, current_trace
from perdure.domain.turn import Calling, parked_calls
from perdure.store.bus import Appended, Stop
from perdure.store.client_messages import Sent, keep_sent_message, sent_message
from perdure.store.database import NotSingle, Tx
from perdure.store.events import events_after, events_within
from perdure.store.parked_turns import read_turn
from perdure.store.queue import Begun, Job
from perdure.store.rows import to_json
from perdure.store.session_archive import set_archived
from perdure.store.sessions import IN_TURN, SessionRow, append, get_session

INTERRUPTED = "[The user interrupted this turn with a new message.]"

MESSAGE_TYPES = ("input.message", "output.message.completed", "tool.completed")


async def post_message(
    app: App, caller: Caller, session_id: SessionId, body: CreateMessage, once: Once | None = None
) -> Message:
    """Append a message to a session, which starts a turn or steers the running one.

    When this returns, the message is durable and the session has a job in the queue (promise P1).
    """
    if any(not isinstance(part, TextPart) for part in body.message.content):
        await replay(app, once)  # a repetition fetches nothing
    body = with_variables(body)
    post = await posting(app, caller, body, session_id)
    if once is None and app.known.is_plain(session_id) and _is_plain(body):
        with contextlib.suppress(NotSingle, StaleHead, Fenced):
            return await _post_at_once(app, caller, session_id, post)

    async def work(tx: Tx) -> Message:
        return await post(tx, await get_session(tx, caller.organization_id, session_id, lock=True))

    return await write_at_head(app, work, once)


class Post(Protocol):
    """The part of a transaction that appends a message to a session."""

    async def __call__(self, tx: Tx, row: SessionRow, *, plain: bool = False) -> Message:
        """Append it.

        Args:
            row: the session, locked.
            plain: the row is not locked, and the append may find out that the session has changed.
        """
        ...


def _is_plain(body: CreateMessage) -> bool:
    """Whether all that the message changes is the log of its session."""
    texts = [part.text for part in body.message.content if isinstance(part, TextPart)]
    return (
        len(texts) == len(body.message.content)
        and body.client_message_id is None
        and not body.addressed_participant_id
        and not (body.controls and body.controls.variables)
        and (not texts or mentioned(texts[0]) is None)
    )


async def _post_at_once(app: App, caller: Caller, session_id: SessionId, post: Post) -> Message:
    """Append a plain message to a session at rest, with one statement, or with two, and without a lock.

    Raises:
        NotSingle: the session is at work or archived, or its turn needs a job in the queue.
        StaleHead, Fenced: it has changed meanwhile, or has secrets or variables.
    """

    async def work(tx: Tx, known: SessionRow | None = None) -> Message:
        row = known or await get_session(tx, caller.organization_id, session_id)
        if row.status in IN_TURN or row.archived_at is not None:
            raise NotSingle
        return await post(tx, row, plain=True)

    if (row := app.known.take(caller.organization_id, session_id)) is not None:
        with contextlib.suppress(StaleHead, Fenced):
            return await app.database.write(partial(work, known=row), single=True)
    return await app.database.write(work, single=True)


async def posting(app: App, caller: Caller, body: CreateMessage, session_id: SessionId | None = None) -> Post:
    """Check a message and get its files, and return the part of a transaction that appends it to a session.

    `session_id` is None if that transaction creates the session. The body has its variables in its controls.
    """
    content = checked_content(body)
    controls = await checked_controls(body.controls)
    attachments = await receive(app, caller, session_id, content)
    now, trace = app.now(), current_trace()
    message_id = app.new_id("message")
    addressed = body.addressed_participant_id or None
    # An image may come first: what counts is how the text begins.
    text = next((part.text for part in content if isinstance(part, TextPart)), "")
    client_id = body.client_message_id
    fingerprint = "" if client_id is None else _fingerprint(body)

    async def post(tx: Tx, row: SessionRow, *, plain: bool = False) -> Message:
        if body.controls is not None and body.controls.model_id is not None:
            await check_model(tx, caller.organization_id, body.controls.model_id, "controls.model_id")
        if client_id is not None and (before := await _sent_before(tx, row, client_id, fingerprint)):
            return before
        speaker = await addressee(tx, row, addressed, text)
        steers = row.status in IN_TURN and (controls is None or controls.when_busy in (None, "steer"))
        # A message that steers joins the turn of whichever agent is at work.
        spoken_to = row if speaker is None or steers else row.under(speaker.at())
        if not plain and await check_message_values(tx, spoken_to, body.controls):
            app.known.needs_lock(row.id)
        if row.archived_at is not None:
            await check_room_for_session(app, tx, row.org_id, row.owner_id)
            row = await set_archived(tx, row, now, archived=False)
        kept = await attachments.keep(app, tx, row, now)
        message = _message(body, controls, kept, message_id, now)
        message = await append_message(
            *(app, tx, row, message, now),
            addressed=speaker,
            external=attachments.external,
            trace=trace,
            plain=plain,
        )
        if client_id is not None and message.sequence is not None:
            await keep_sent_message(tx, row, client_id, Sent(fingerprint, message.sequence))
        return message

    return post


async def _sent_before(tx: Tx, row: SessionRow, client_id: str, fingerprint: str) -> Message | None:
    """Return the session's message with this `client_message_id`; None without one.

    Raises:
        Conflict: it is another message.
    """
    before = await sent_message(tx, row, client_id)
    if before is None:
        return None
    if before.fingerprint != fingerprint:
        raise Conflict(
            f"the session has another message with the `client_message_id` {client_id!r}: use a new id",
            code="client_message_id_reused",
        )
    (event,) = await events_after(tx, row.id, before.sequence - 1, limit=1)
    message = message_of(event)
    if message is None:
        raise AssertionError("the event of a client's message is a message")
    return message


def _fingerprint(body: CreateMessage) -> str:
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).hexdigest()


async def append_message(
    app: Services,
    tx: Tx,
    row: SessionRow,
    message: Message,
    now: Micros,
    *,
    origin: MessageOrigin | None = None,
    addressed: Speaker | None = None,
    external: tuple[External, ...] = (),
    trace: TraceContext | None = None,
    plain: bool = False,
) -> Message:
    """Append a user's message to a session whose row is locked.

    The message starts a turn. If one runs or waits, `message.controls.when_busy` decides. The message, the
    session's new state and its job are part of the caller's transaction (promise P1).

    Args:
        origin: what sends the message; None for a client.
        addressed: the participant that it is for; None for the session's own agent.
        external: where text from outside in it, or in its sender's context, came from.
        trace: the span that sends it.
        plain: the row is not locked (`append`).

    Returns:
        The message as stored: with the session's secrets redacted, if it contains any.

    Raises:
        Conflict: a turn runs or waits, and the message must not arrive then, or too many wait for its end.
        StaleHead, Fenced: `plain` does not hold (`append`).
    """
    busy = row.status in IN_TURN
    policy = message.controls.when_busy if busy and message.controls is not None else None
    _check_busy(row, policy, message)
    ended = await _interrupted(app, tx, row, now) if policy == "interrupt" else []
    running = row.turn_id if busy and policy not in ("queue", "interrupt") else None
    context = message_context(running or app.new_id("turn"), message.id)
    data = InputMessageData(message, policy == "queue", origin, addressed, external, trace)
    logged = NewEvent(data, context, now, message.metadata, message.tags)
    if not plain:
        (logged,) = await without_secrets(app, tx, row, [logged])
    # Before the append, which is the last statement if the row is not locked.
    begun = await _see_to_message(app, tx, row, queued=data.queued, fenced=bool(ended))
    after, stored = await append(
        *(tx, row, [*ended, logged]),
        now=now,
        fence=bool(ended),
        progress=bool(ended),
        rests=data.queued and bool(row.resting),
        plain=plain,
    )
    begun.fill_in(after, stored)
    if ended:
        tx.after_commit(lambda: app.bus.publish(Stop(after.id, after.epoch)))
    tell_followers(app, tx, after, stored)
    redacted = logged.read(InputMessageData).message
    return msgspec.structs.replace(redacted, sequence=after.head, session_id=after.id)


def _check_busy(row: SessionRow, policy: str | None, message: Message) -> None:
    """Check that a message may arrive now. Raises Conflict."""
    if policy == "reject":
        raise refuse_busy(row)
    if policy == "queue":
        check_queue(row.queued_messages(), message)


async def _interrupted(app: Services, tx: Tx, row: SessionRow, now: Micros) -> list[NewEvent]:
    """The events that end the turn for a new message; none if no turn has begun."""
    if row.turn_id is None:
        return []
    wished = await cancel_awaited(tx, row, row.turn_id, now)
    cancelled, _ = await stop_turn(app, tx, row, "interrupted by a new message", now, INTERRUPTED)
    return [*wished, *cancelled]


async def _see_to_message(app: Services, tx: Tx, row: SessionRow, *, queued: bool, fenced: bool) -> Begun:
    """Enqueue a job for a message, unless the turn's runner will see it or it waits for a parked turn.

    Returns:
        What to fill in for the job's runner.
    """
    begun, rests = Begun(), row.status != "active" or bool(row.resting)
    if not (queued and rests):
        await see_to_runner(app, tx, row, is_new=rests or fenced, begun=begun)
    return begun


def _message(
    body: CreateMessage,
    controls: Controls | None,
    content: tuple[ContentPart, ...],
    message_id: MessageId,
    now: Micros,
) -> Message:
    return Message(
        message_id,
        "user",
        content,
        to_rfc3339(now),
        controls=controls,
        external_actor=body.external_actor,
        metadata=body.metadata,
        tags=body.tags,
        client_message_id=body.client_message_id,
    )


async def list_messages(app: App, caller: Caller, session_id: SessionId) -> AsyncIterator[list[Message]]:
    """Rebuild the session's messages from its log, oldest first, batch by batch.

    Messages that arrive while the batches are read are left out. Raises NotFound at the first batch.
    """
    cursor, until = 0, MAX_SEQUENCE
    more = True
    while more:

        async def work(tx: Tx, after: int = cursor, until: int = until) -> tuple[int, list[Event], bool]:
            row = await get_session(tx, caller.organization_id, session_id)
            until = min(until, row.head)
            return until, *await events_within(tx, row.id, after, until=until, kinds=MESSAGE_TYPES)

        until, events, more = await app.database.read(work, long=True)
        if events:
            cursor = events[-1].sequence
            yield _messages_of(events)


def _messages_of(events: list[Event]) -> list[Message]:
    """Take the messages of events, and let go of the events: they may be large, and more are to come."""
    messages = [message for event in events if (message := message_of(event)) is not None]
    events.clear()
    return messages


def message_of(event: Event) -> Message | None:
    """The event's message; None for the decision on an approval, which is no part of the conversation."""
    try:
        data = event.decoded()
    except UnreadableEvent:
        data = None
    match data:
        case None:
            message = damaged_message(event)
        case ToolCompletedData(tool_name=name) if name == APPROVE:
            return None
        case ToolCompletedData():
            message = result_message(data, event.ts, event.id)
        case InputMessageData(message=message) | OutputMessageCompletedData(message=message):
            pass
        case _:
            raise TypeError(f"a {event.type} event contains no message")
    return msgspec.structs.replace(message, sequence=event.sequence, session_id=event.session_id)


async def submit_tool_results(
    app: App, caller: Caller, session_id: SessionId, body: SubmitToolResults
) -> SubmittedToolResults:
    """Append a client's results for all of its open calls at once; the turn then continues."""
    for index, result in enumerate(body.tool_results):
        check_result(result, f"tool_results[{index}]")
    checked = await _checked_results(app, caller, session_id, body)
    now = app.now()

    async def work(tx: Tx) -> tuple[SessionRow, tuple[Event, ...]]:
        row = await get_session(tx, caller.organization_id, session_id, lock=True)
        state = await _waiting(app, tx, row)
        calls = _matched(parked_calls(state, "client"), checked.results)
        results = [result_event(state, call, result, now) for call, result in calls]
        events = [*checked.events(act_context(state), now), *results]
        after, stored = await append(tx, row, await without_secrets(app, tx, row, events), now=now)
        await app.queue.enqueue(tx, Job(row.org_id, row.id))
        return after, stored

    row, stored = await write_at_head(app, work)
    app.bus.publish(Appended(row.id, row.head, stored))
    return SubmittedToolResults(len(body.tool_results), row.status)


async def _waiting(app: App, tx: Tx, row: SessionRow) -> Calling:
    """The turn, which waits for a client. Raises Conflict: it does not."""
    state = await read_turn(tx, row, app.turns) if row.status == "waiting_for_tool_results" else None
    if not isinstance(state, Calling):
        raise Conflict("the session is not waiting for tool results", code="not_waiting_for_tool_results")
    return state


async def _checked_results(
    app: App, caller: Caller, session_id: SessionId, body: SubmitToolResults
) -> Checked:
    """Check a client's results with the session's guardrails, outside of any transaction."""

    async def work(tx: Tx) -> tuple[Guard | None, dict[str, str]]:
        row = await get_session(tx, caller.organization_id, session_id)
        state = await _waiting(app, tx, row)
        _matched(parked_calls(state, "client"), body.tool_results)
        return await session_guard(app, tx, acting(row, state)), {call.id: call.name for call in state.calls}

    guard, names = await app.database.read(work)
    return await checked_results(guard, body.tool_results, names)


def _matched(
    calls: tuple[CallState, ...], results: tuple[ToolCallResult, ...]
) -> list[tuple[CallState, ToolCallResult]]:
    """Pair each open call with its result, in the order of the calls. Raises InvalidInput."""
    by_call: dict[str, ToolCallResult] = {}
    open_ids = {call.id for call in calls}
    for index, result in enumerate(results):
        where = f"tool_results[{index}].tool_call_id"
        if result.tool_call_id not in open_ids:
            raise InvalidInput(f"`{where}`: no open call has this id", code="unknown_tool_call", field=where)
        if result.tool_call_id in by_call:
            raise InvalidInput(
                f"`{where}`: this call has more than one result", code="repeated_tool_call", field=where
            )
        by_call[result.tool_call_id] = result
    missing = [call.id for call in calls if call.id not in by_call]
    if missing:
        raise InvalidInput(
            f"`tool_results`: no result for {', '.join(missing)}",
            code="missing_tool_call",
            field="tool_results",
        )
    return [(call, by_call[call.id]) for call in calls]


def result_event(
    state: Calling,
    call: CallState,
    result: ToolCallResult,
    now: Micros,
    external: External | None = None,
) -> NewEvent:
    """The event that ends a call with what a client or a callback brings.

    Args:
        external: where the text in it came from, if not from the session's client.
    """
    if external is None and isinstance(call.status, Parked):
        external = call.status.external
    succeeded = result.error is None
    text = result.result if isinstance(result.result, str) else to_json(result.result)
    content = content_of_result(result.result) or (TextPart(text),)
    data = ToolCompletedData(
        call.id,
        call.name,
        succeeded,
        "success" if succeeded else "error",
        content if succeeded else None,
        result.error,
        external=external,
    )
    return NewEvent(data, tool_context(state, call.id), now)
