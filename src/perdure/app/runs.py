"""Runs: send a message, wait for the turn that handles it, and return the turn's result."""

from __future__ import annotations

import time
from collections.abc import Iterable

from perdure.app.context import App
from perdure.app.idempotency import Once, first_answer, write_once
from perdure.app.login import may_continue
from perdure.app.messages import message_of, post_message, posting
from perdure.app.session_answers import end_of_turn, waits_for_people
from perdure.app.sessions import creating
from perdure.app.waiters import Waiter
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput, NotFound, Unauthenticated
from perdure.domain.events import (
    ENDED_TURN,
    ActCompletedData,
    Event,
    InputMessageData,
    OutputMessageCompletedData,
    ToolCallRequestedData,
    ToolParkedData,
    TurnCancelledData,
    TurnCompletedData,
    TurnFailedData,
    TurnParkedData,
    TurnSealedData,
    is_cancel_notice,
)
from perdure.domain.ids import SessionId, is_id
from perdure.domain.messages import CreateMessage, InputMessage, Message, TextPart
from perdure.domain.runs import (
    LINKED_WAIT,
    CreateRun,
    RunLinks,
    RunResult,
    RunStatus,
    RunTurn,
    StartedRun,
)
from perdure.domain.sessions import CreateSession
from perdure.domain.turn_watch import WATCHED, TurnWatch
from perdure.store.bus import Appended, Live
from perdure.store.database import Tx
from perdure.store.events import events_after, events_of_kinds, events_within
from perdure.store.sessions import SessionRow, get_session

_ENDS: dict[str, RunStatus] = {
    TurnCompletedData.kind: "completed",
    TurnFailedData.kind: "failed",
    TurnSealedData.kind: "failed",
    TurnCancelledData.kind: "cancelled",
}
_DECIDES = ENDED_TURN | {ToolCallRequestedData.kind, TurnParkedData.kind}
"""Events after which the run may have ended, or may wait for somebody."""


async def send(
    app: App, caller: Caller, session_id: SessionId, body: CreateMessage, once: Once | None
) -> StartedRun:
    """Send a message to a session, of whose turn the result is wanted. A repetition sends nothing.

    Raises as `post_message`.
    """
    message = await first_answer(once, post_message(app, caller, session_id, body, once), Message)
    return StartedRun(session_id, message.sequence or 0)


async def start(app: App, caller: Caller, body: CreateRun, once: Once | None) -> StartedRun:
    """Create a session with its first message, in one transaction. A repetition starts nothing.

    Raises as `create_session` and `post_message`.
    """
    try:
        return await first_answer(once, _start(app, caller, body, once), StartedRun)
    except InvalidInput as error:
        raise _in_run(error, body) from None


async def _start(app: App, caller: Caller, body: CreateRun, once: Once | None) -> StartedRun:
    create = await creating(app, caller, _session_of(body))
    text = body.message
    message = InputMessage((TextPart(text),)) if isinstance(text, str) else text
    post = await posting(app, caller, CreateMessage(message))

    async def work(tx: Tx) -> StartedRun:
        row, _ = await create(tx)
        sent = await post(tx, row)
        return StartedRun(row.id, sent.sequence or 0)

    return await write_once(app, once, work)


_FIELDS = {"initial_files": "files", "agent_id": "agent", "harness_id": "harness"}
"""The fields of a run that have other names in a session."""
_OF_TEXT = {"message.content[0].text": "message", "message.content": "message"}


def _in_run(error: InvalidInput, body: CreateRun) -> InvalidInput:
    """Return the error with the name that the field has in a run."""
    names = _FIELDS | (_OF_TEXT if isinstance(body.message, str) else {})
    for name, own in names.items():
        if error.field is not None and error.field.startswith(name):
            message = error.message.replace(f"`{name}", f"`{own}")
            return InvalidInput(message, code=error.code, field=own + error.field.removeprefix(name))
    return error


def _session_of(body: CreateRun) -> CreateSession:
    by_id = body.agent is not None and is_id(body.agent, "agent")
    harness_by_id = body.harness is not None and is_id(body.harness, "harness")
    return CreateSession(
        harness_id=body.harness if harness_by_id else None,
        harness_name=None if harness_by_id else body.harness,
        agent_id=body.agent if by_id else None,
        agent_name=None if by_id else body.agent,
        title=body.title,
        tags=body.tags,
        model_id=body.model_id,
        initial_files=body.files,
        metadata=body.metadata,
        output_schema=body.output_schema,
        response_format=body.response_format,
        variables=body.variables,
    )


async def wait_for_result(
    app: App, caller: Caller, session_id: SessionId, sequence: int | None, seconds: float
) -> RunResult:
    """Wait until the turn of a message has ended or somebody must answer, and return what there is then.

    The turn goes on whatever becomes of this.

    Args:
        sequence: the message's; None for the session's newest message.
        seconds: how long to wait at most.

    Raises:
        NotFound: there is no such message, or the session does not exist or was deleted meanwhile.
        Unauthenticated: the caller's access ended meanwhile.
    """
    run = await app.database.read(lambda tx: _find(tx, caller, session_id, sequence))
    if seconds > 0 and await _wait(app, run, seconds) and not await may_continue(app, caller):
        raise Unauthenticated("the access token was revoked or has expired: send a valid one")
    return await app.database.read(run.result, long=True)


async def _find(tx: Tx, caller: Caller, session_id: SessionId, sequence: int | None) -> _Run:
    row = await get_session(tx, caller.organization_id, session_id)
    sent = await (_newest_message(tx, row) if sequence is None else _message_at(tx, row, sequence))
    if sent is None:
        where = "in this session" if sequence is None else f"with the sequence {sequence} in this session"
        raise NotFound(f"message {where}", code="message_not_found")
    return _Run(row, sent)


async def _message_at(tx: Tx, row: SessionRow, sequence: int) -> Event | None:
    """The user's message with this sequence; None if that event is another one."""
    found = await events_after(tx, row.id, sequence - 1, limit=1)
    return found[0] if found and found[0].sequence == sequence and _is_message(found[0]) else None


async def _newest_message(tx: Tx, row: SessionRow) -> Event | None:
    before, more = row.head, True
    while more:
        found, more = await events_of_kinds(tx, row.id, (InputMessageData.kind,), before=before, limit=10)
        for event in found:
            if _is_message(event):
                return event
            before = event.sequence - 1
    return None


def _is_message(event: Event) -> bool:
    """Whether this is a message, and not the server's note about a cancel, which no turn handles."""
    data = event.get(InputMessageData)
    return data is not None and not is_cancel_notice(data.message, event)


class _Run:
    """What the log says about a message's turn.

    Attributes:
        head: the sequence up to which the log is known.
    """

    def __init__(self, row: SessionRow, sent: Event) -> None:
        self.session_id = row.id
        self.head = row.head
        self._org_id = row.org_id
        self._message = _message_in(sent)
        self._sequence = self._read = sent.sequence
        self._watch = TurnWatch(self._message.id)
        self._watch.take(sent)
        self._end: Event | None = None
        self._parked = False

    async def look(self, tx: Tx) -> SessionRow:
        """Read on in the log; returns the session as it is at its end. Raises NotFound."""
        row = await get_session(tx, self._org_id, self.session_id)
        more = self._end is None
        while more:
            events, more = await events_within(tx, row.id, self._read, until=row.head, kinds=WATCHED)
            for event in events:
                self._read = event.sequence
                self._watch.take(event)
                if self._watch.is_last(event):
                    self._end, more = event, False
                    break
        self._read = max(self._read, row.head)
        self.head, self._parked = row.head, row.parked is not None
        return row

    def is_over(self, row: SessionRow) -> bool:
        """Whether waiting is of no use now: the turn has ended, or somebody must answer first."""
        return self._end is not None or waits_for_people(row)

    def concerns(self, signals: Iterable[Appended | Live]) -> bool:
        """Take what the bus says; returns whether the log must be read."""
        must = False
        for signal in signals:
            if isinstance(signal, Appended):
                self.head = max(self.head, signal.head)
                # Those of other processes, and of a deleted session, come without events.
                must = must or not signal.events or any(map(self._decides, signal.events))
        return must

    def _decides(self, event: Event) -> bool:
        """Whether after this event the turn may have ended, or may wait for somebody."""
        self._parked = self._parked or event.type == ToolParkedData.kind
        return event.type in _DECIDES or (self._parked and event.type == ActCompletedData.kind)

    async def result(self, tx: Tx) -> RunResult:
        """Read what there is now. Raises NotFound."""
        row = await self.look(tx)
        waits = self._end is None and waits_for_people(row)
        status: RunStatus = "waiting" if waits else "running"
        turn, answer, output = None, None, None
        if self._watch.turn_id is not None:
            turn = RunTurn(self._watch.turn_id, status)
        if self._end is not None:
            turn, completed = _ended(self._end)
            status = turn.status
            if completed is not None:
                answer, output = await _answer(tx, self._end, completed), completed.output
        return RunResult(
            row.id,
            status,
            self._message,
            _links(row.id, self._sequence),
            answer,
            output,
            turn,
            tuple(call.on_wire() for call in row.parked_calls()) if self._end is None else (),
        )


def _message_in(event: Event) -> Message:
    message = message_of(event)
    if message is None:
        raise TypeError(f"a {event.type} event contains no message")
    return message


def _ended(event: Event) -> tuple[RunTurn, TurnCompletedData | None]:
    """Return the turn that an event ended, and the event's data if it is completed."""
    _, problem = end_of_turn(event)
    status = _ENDS[event.type]
    match data := event.decoded():
        case TurnCompletedData():
            turn = RunTurn(
                data.turn_id,
                status,
                None,
                data.usage,
                data.duration_ms,
                data.iterations,
                data.tool_call_count,
            )
            return turn, data
        case TurnFailedData(usage=usage) | TurnCancelledData(usage=usage) | TurnSealedData(usage=usage):
            pass
        case _:
            raise TypeError(f"a {event.type} event ends no turn")
    return RunTurn(data.turn_id, status, problem, usage), None


async def _answer(tx: Tx, end: Event, completed: TurnCompletedData) -> Message | None:
    """The message with which a turn ended."""
    kinds = (OutputMessageCompletedData.kind,)
    newest, _ = await events_of_kinds(tx, end.session_id, kinds, before=end.sequence, limit=1)
    message = _message_in(newest[0]) if newest else None
    return message if message is not None and message.id == completed.final_message_id else None


def _links(session_id: SessionId, sequence: int) -> RunLinks:
    session = f"/v1/sessions/{session_id}"
    return RunLinks(
        session,
        f"{session}/events?after_sequence={sequence}",
        f"{session}/sse?after_sequence={sequence}",
        f"{session}/result?sequence={sequence}&wait={LINKED_WAIT}",
        f"/v1/inbox?session_id={session_id}",
    )


async def _wait(app: App, run: _Run, seconds: float) -> bool:
    """Wait until a run is over, its session is deleted, the time is up or the server shuts down.

    Returns whether it has waited at all.
    """
    subscription = app.bus.subscribe(run.session_id, live=False)
    waiter = Waiter(subscription, run.head)
    app.waiters.add(waiter, app.database)
    until = time.monotonic() + seconds
    waited = False
    try:
        while not run.is_over(await app.database.read(run.look)):
            waited, concerned = True, False
            while not concerned:
                waiter.head = run.head
                left = until - time.monotonic()
                if app.waiters.ended or left <= 0:
                    return True
                await subscription.wait(left)
                signals, lost = subscription.drain()
                concerned = run.concerns(signals) or lost
        return waited
    finally:
        app.waiters.remove(waiter)
        app.bus.unsubscribe(subscription)
