"""The turn: its state is a fold over the events since the turn's first message.

    fold(events) -> TurnState            next_action(TurnState, TurnRules) -> Action      (`actions.py`)

Each phase of a turn is a struct, with only the fields that exist in that phase:

    Idle -> Ready -> Reasoning -> Calling -> Reasoning -> ... -> Answered -> Idle
                         |                                           |
                         +-> Failed -> Idle        a message that steers: back to Reasoning

Recovery is not a special path: a new runner folds the same events and takes the same next action. The state
itself is never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.calls import ALLOWED, ANNOUNCED, Batch, CallState, CallStatus, Done, Parked
from perdure.domain.decisions import ANYBODY
from perdure.domain.events import (
    ActCompletedData,
    ActStartedData,
    AnyEvent,
    InputMessageData,
    LlmGenerationData,
    OutputMessageCompletedData,
    OutputMessageStartedData,
    ReasonCompletedData,
    ReasonStartedData,
    SessionIdledData,
    ToolCallRequestedData,
    ToolCompletedData,
    ToolParkedData,
    ToolResumedData,
    ToolStartedData,
    ToolStepData,
    ToolVerifiedData,
    TurnCancelledData,
    TurnCompletedData,
    TurnFailedData,
    TurnSealedData,
    TurnStartedData,
    is_cancel_notice,
)
from perdure.domain.ids import ExecId, MessageId, ToolCallId, TurnId
from perdure.domain.messages import Controls, JsonObject, Usage, preview_of, text_of, tool_calls_of
from perdure.domain.parked import CONSENT, ParkedKind, deadline_of
from perdure.domain.pending import PendingMessage, after_cancel, after_end, first_of, pending_message, queued
from perdure.domain.steps import Started, started_after
from perdure.domain.times import Micros
from perdure.domain.tools import APPROVE, call_of_question

NO_USAGE = Usage(0, 0)


# --- the phases -------------------------------------------------------------


class Turn(Struct, frozen=True):
    """A running turn, and what it has used so far.

    Attributes:
        message_id: the message that began it; input_content: the start of its text.
        last_calls: the tool calls of the last answer as JSON, to compare with the next ones; repeats: how
            often in a row the calls were the same as before.
        truncated: how many answers in a row reached their limit in the middle of a tool call.
        interruptions: how many answers in a row, before the last one, had a call that was interrupted.
    """

    id: TurnId
    message_id: MessageId
    input_content: str | None
    started_at: Micros
    iterations: int = 0
    llm_calls: int = 0
    tool_calls: int = 0
    usage: Usage = NO_USAGE
    time_to_first_token_ms: int | None = None
    last_calls: str = ""
    repeats: int = 0
    truncated: int = 0
    interruptions: int = 0


class Answer(Struct, frozen=True):
    """The model's answer; `preview` is the start of its text."""

    message_id: MessageId
    preview: str
    calls: tuple[CallState, ...]


class _Phase(Struct, frozen=True, kw_only=True):
    """The fields of every phase.

    Attributes:
        head: the sequence of the last event that was folded; initially the one before the first event.
        pending: messages that no model call has seen yet, oldest first, without the one that began the turn.
        controls: the options of the last message that did not wait for its own turn, such as the model and
            its reasoning effort, or of the one that began this turn.
    """

    head: int = 0
    pending: tuple[PendingMessage, ...] = ()
    controls: Controls | None = None


class Idle(_Phase, frozen=True, kw_only=True):
    """No turn runs."""


IDLE = Idle()


class _Running(_Phase, frozen=True, kw_only=True):
    turn: Turn


class Ready(_Running, frozen=True, kw_only=True):
    """The turn has begun, and the next model call has not."""


class Reasoning(_Running, frozen=True, kw_only=True):
    """A model call runs.

    Attributes:
        exec_id: the execution: this model call and the tool calls that it requests.
        prompt_through: the sequence of the last event that the call sees.
        message_id: the message that the call writes, once its start is in the log.
        answer: the answer, once it is in the log.
        discovered_tools: the digest of the tools that capabilities found for the call; None if they find
            none.
    """

    exec_id: ExecId
    started_at: Micros
    prompt_through: int
    message_id: MessageId | None = None
    answer: Answer | None = None
    discovered_tools: str | None = None


class Calling(_Running, frozen=True, kw_only=True):
    """The model requested tool calls. Once all are done, it is called with the results.

    Attributes:
        batch: the calls that the server runs now, or None.
        discovered_tools: as for the model call that requested them.
    """

    exec_id: ExecId
    calls: tuple[CallState, ...]
    batch: Batch | None = None
    discovered_tools: str | None = None


class Answered(_Running, frozen=True, kw_only=True):
    """The model answered without tool calls, which ends the turn unless a message is pending."""

    message_id: MessageId
    preview: str


class Failed(_Running, frozen=True, kw_only=True):
    """The model call failed, after all retries."""

    code: str
    message: str


RunningTurn = Ready | Reasoning | Calling | Answered | Failed
TurnState = Idle | RunningTurn
"""Everything in the log that the next action depends on."""


def parked_calls(state: TurnState, *kinds: ParkedKind) -> tuple[CallState, ...]:
    """The parked calls of these kinds."""
    calls = state.calls if isinstance(state, Calling) else ()
    return tuple(call for call in calls if isinstance(call.status, Parked) and call.status.kind in kinds)


def only_waits(state: Calling) -> bool:
    """Whether parked calls are all that is left of the answer's calls."""
    left = [call.status for call in state.calls if not isinstance(call.status, Done)]
    return bool(left) and all(isinstance(status, Parked) for status in left)


def begins_with_append(state: TurnState) -> bool:
    """Whether nothing is at work, so that whatever comes next begins with an append to the log."""
    if isinstance(state, Calling):
        return state.batch is None and not any(isinstance(call.status, Started) for call in state.calls)
    return isinstance(state, Idle)


def offered_tools(state: TurnState) -> str | None:
    """The digest of the discovered tools that the next action needs: those that the model was offered.

    None if there are none, or if the next action is a new model call, which is offered the tools of its time.
    """
    match state:
        case Reasoning():
            return state.discovered_tools
        case Calling() if any(not isinstance(call.status, Done) for call in state.calls):
            return state.discovered_tools
    return None


def next_controls(state: TurnState) -> Controls | None:
    """The options of the next model call: of the message that begins the turn, if it waited for its own."""
    first = first_of(state.pending) if isinstance(state, Idle) and state.pending else None
    return state.controls if first is None or first.queued_at is None else first.controls


def interruptions_of(state: RunningTurn) -> int:
    """How many answers in a row, up to the last one, had a tool call that was interrupted."""
    if not isinstance(state, Calling):
        return state.turn.interruptions if isinstance(state, Ready) else 0
    statuses = [call.status for call in state.calls]
    interrupted = any(isinstance(status, Done) and status.interrupted for status in statuses)
    return state.turn.interruptions + 1 if interrupted else 0


# --- the fold ---------------------------------------------------------------


def fold(events: Iterable[AnyEvent], state: TurnState = IDLE) -> TurnState:
    """Compute the state after these events, which follow `state`. `fold(a + b) == fold(b, fold(a))`."""
    head = state.head
    for event in events:
        head += 1
        handler = _HANDLERS.get(event.type)
        if handler is not None:
            state = handler(state, event, head)
    return state if head == state.head else replace(state, head=head)


def _input_message(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    data = event.read(InputMessageData)
    if is_cancel_notice(data.message, event):
        return state
    waiting = pending_message(data, event, head)
    controls = state.controls if waiting.late or data.queued else data.message.controls
    return replace(state, pending=(*state.pending, waiting), controls=controls)


def _turn_started(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    data = event.read(TurnStartedData)
    first = next((m for m in state.pending if m.message_id == data.input_message_id), None)
    # The preview of the message itself: the one in `data` has been redacted once more, and the end of the
    # turn will redact it again. Marks that contain secrets would multiply.
    content = None if first is None else first.preview
    return Ready(
        pending=tuple(m for m in state.pending if m.message_id != data.input_message_id),
        controls=state.controls if first is None or first.queued_at is None else first.controls,
        turn=Turn(data.turn_id, data.input_message_id, content, event.ts),
    )


def _turn_cancelled(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    """A cancel also covers the messages that were pending, but for those that wait for their own turns."""
    if not state.pending:
        return IDLE
    left = after_cancel(state.pending, event.read(TurnCancelledData).turn_id)
    return Idle(pending=left, controls=state.controls) if left else IDLE


def _session_idled(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    """An idle session has no pending messages: a seal covers them all."""
    return IDLE


def _turn_ended(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    """Any other end leaves pending messages to the next turn, also those that were to steer this one."""
    if not state.pending:
        return IDLE
    ended = None if isinstance(state, Idle) else state.turn.id
    return Idle(pending=after_end(state.pending, ended), controls=state.controls)


def _reason_started(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if isinstance(state, Idle):
        return state
    exec_id = event.context_struct().exec_id
    if exec_id is None:
        raise ValueError(f"event {head} (reason.started) has no exec_id in its context")
    return Reasoning(
        pending=queued(state.pending),
        controls=state.controls,
        turn=replace(state.turn, iterations=state.turn.iterations + 1, interruptions=interruptions_of(state)),
        exec_id=exec_id,
        started_at=event.ts,
        prompt_through=head,
        discovered_tools=event.read(ReasonStartedData).discovered_tools,
    )


def _output_started(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if not isinstance(state, Reasoning):
        return state
    return replace(state, message_id=event.read(OutputMessageStartedData).message_id)


def _output_completed(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if not isinstance(state, Reasoning):
        return state  # the message about a failure or a cancel
    message, turn = event.read(OutputMessageCompletedData).message, state.turn
    calls = tuple(
        CallState(part.id, part.name, part.arguments, ANNOUNCED, head, index)
        for index, part in enumerate(tool_calls_of(message))
    )
    as_json = msgspec.json.encode([(call.name, call.arguments) for call in calls]).decode() if calls else ""
    return replace(
        state,
        answer=Answer(message.id, preview_of(text_of(message.content)), calls),
        turn=replace(
            turn,
            last_calls=as_json,
            repeats=turn.repeats + 1 if as_json and as_json == turn.last_calls else 0,
            tool_calls=turn.tool_calls + len(calls),
        ),
    )


def _generation(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if isinstance(state, Idle):
        return state
    metadata, turn = event.read(LlmGenerationData).metadata, state.turn
    first = turn.time_to_first_token_ms
    if first is None and metadata.time_to_first_token_ms is not None and isinstance(state, Reasoning):
        first = max(0, state.started_at - turn.started_at) // 1000 + metadata.time_to_first_token_ms
    return replace(
        state,
        turn=replace(
            turn,
            llm_calls=turn.llm_calls + 1,
            usage=turn.usage.plus(metadata.usage),
            time_to_first_token_ms=first,
            truncated=_truncated(state, metadata.finish_reasons or ()),
        ),
    )


def _truncated(state: RunningTurn, finish_reasons: tuple[str, ...]) -> int:
    """Count the answers in a row that were cut in the middle of a tool call, whose arguments are no JSON."""
    if not isinstance(state, Reasoning) or state.answer is None:
        return state.turn.truncated  # a call that wrote a summary, or failed
    cut = "length" in finish_reasons and any(isinstance(call.arguments, str) for call in state.answer.calls)
    return state.turn.truncated + 1 if cut else 0


def _reason_completed(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if not isinstance(state, Reasoning):
        return state
    data, answer = event.read(ReasonCompletedData), state.answer
    pending, controls, turn = state.pending, state.controls, state.turn
    if not data.success:
        return Failed(
            pending=pending,
            controls=controls,
            turn=turn,
            code=data.error_code or "model_error",
            message=data.error or "the model call failed",
        )
    if answer is None:
        return Ready(pending=pending, controls=controls, turn=turn)
    if answer.calls:
        return Calling(
            pending=pending,
            controls=controls,
            turn=turn,
            exec_id=state.exec_id,
            calls=answer.calls,
            discovered_tools=state.discovered_tools,
        )
    return Answered(
        pending=pending, controls=controls, turn=turn, message_id=answer.message_id, preview=answer.preview
    )


def _act_started(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if not isinstance(state, Calling):
        return state
    calls = frozenset(call.id for call in event.read(ActStartedData).tool_calls)
    return replace(state, batch=Batch(calls, event.ts))


def _act_completed(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    return replace(state, batch=None) if isinstance(state, Calling) else state


def _tool_started(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if not isinstance(state, Calling):
        return state
    data = event.read(ToolStartedData)
    return _with_status(state, data.tool_call.id, Started(data.replayable, data.resumable, event.ts))


def _call_went_on(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    """A started call took a step, or its outcome was looked up."""
    if not isinstance(state, Calling):
        return state
    data = event.get(ToolStepData) or event.read(ToolVerifiedData)
    status = next((call.status for call in state.calls if call.id == data.tool_call_id), None)
    if not isinstance(status, Started):
        return state
    return _with_status(state, data.tool_call_id, started_after(status, data, event.ts))


def _tool_completed(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if not isinstance(state, Calling):
        return state
    data = event.read(ToolCompletedData)
    asked = _asked_about(state, data)
    if asked is not None:
        edited = None if data.decided is None else data.decided.arguments
        return _with_status(state, asked, ALLOWED if data.success else ANNOUNCED, edited)
    return _with_status(state, data.tool_call_id, Done(not data.success, data.status == "interrupted"))


def _asked_about(state: Calling, data: ToolCompletedData) -> ToolCallId | None:
    """The call whose approval this decides on; None for a call of a tool that the model made up."""
    if data.tool_name != APPROVE:
        return None
    asked = call_of_question(data.tool_call_id)
    return asked if any(call.id == asked for call in parked_calls(state, "approval")) else None


def _call_requested(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if not isinstance(state, Calling):
        return state
    data = event.read(ToolCallRequestedData)
    until = deadline_of(event.ts, data.timeout_ms)
    for index, call in enumerate(data.tool_calls):
        if call.name == APPROVE:
            asks = Parked("approval", until, head, index, data.approvers or ANYBODY)
            state = _with_status(state, call_of_question(call.id), asks)
        else:
            state = _with_status(state, call.id, Parked("client", until, head, index))
    return state


def _tool_parked(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if not isinstance(state, Calling):
        return state
    data = event.read(ToolParkedData)
    until = deadline_of(event.ts, data.timeout_ms)
    return _with_status(state, data.tool_call_id, Parked(data.parked_kind, until, head))


def _tool_resumed(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if not isinstance(state, Calling):
        return state
    call_id = event.read(ToolResumedData).tool_call_id
    waits = any(call.id == call_id for call in parked_calls(state, *CONSENT))
    return _with_status(state, call_id, ALLOWED) if waits else state


def _with_status(
    state: Calling, call_id: ToolCallId, status: CallStatus, edited: JsonObject | None = None
) -> Calling:
    more = {} if edited is None else {"arguments": edited, "edited": True}
    calls = (replace(call, status=status, **more) if call.id == call_id else call for call in state.calls)
    return replace(state, calls=tuple(calls))


_HANDLERS: dict[str, Callable[[TurnState, AnyEvent, int], TurnState]] = {
    InputMessageData.kind: _input_message,
    TurnStartedData.kind: _turn_started,
    TurnCompletedData.kind: _turn_ended,
    TurnFailedData.kind: _turn_ended,
    TurnSealedData.kind: _turn_ended,
    TurnCancelledData.kind: _turn_cancelled,
    SessionIdledData.kind: _session_idled,
    ReasonStartedData.kind: _reason_started,
    OutputMessageStartedData.kind: _output_started,
    OutputMessageCompletedData.kind: _output_completed,
    LlmGenerationData.kind: _generation,
    ReasonCompletedData.kind: _reason_completed,
    ActStartedData.kind: _act_started,
    ActCompletedData.kind: _act_completed,
    ToolStartedData.kind: _tool_started,
    ToolStepData.kind: _call_went_on,
    ToolVerifiedData.kind: _call_went_on,
    ToolCompletedData.kind: _tool_completed,
    ToolCallRequestedData.kind: _call_requested,
    ToolParkedData.kind: _tool_parked,
    ToolResumedData.kind: _tool_resumed,
}
"""By kind: computes the state after the event with sequence `head`. `fold` sets the state's own `head`.

This is a table because each class pattern that does not match would cost 0.07 us. The data of kinds that are
not in it is not decoded.
"""
