"""The turn: its state is a fold over the events since the turn's first message.

    fold(events) -> TurnState            next_action(TurnState, TurnRules) -> Action      (`actions.py`)

`phases.py` has the states.

Recovery is not a special path: a new runner folds the same events and takes the same next action. The state
itself is never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from msgspec.structs import replace

from perdure.domain.calls import ALLOWED, ANNOUNCED, Batch, CallState, CallStatus, Done, Parked
from perdure.domain.decisions import ANYBODY
from perdure.domain.events import (
    ActCompletedData,
    ActStartedData,
    AnyEvent,
    BudgetResumedData,
    GuardrailHitData,
    HookDecidedData,
    InputMessageData,
    LlmGenerationData,
    OutputAcceptedData,
    OutputMessageCompletedData,
    OutputMessageStartedData,
    OutputRejectedData,
    ReasonCompletedData,
    ReasonFallbackData,
    ReasonStartedData,
    SessionHandedOffData,
    SessionIdledData,
    ToolCallRequestedData,
    ToolCallSummary,
    ToolCompletedData,
    ToolParkedData,
    ToolResumedData,
    ToolStartedData,
    ToolStepData,
    ToolVerifiedData,
    TurnCancelledData,
    TurnCompletedData,
    TurnFailedData,
    TurnParkedData,
    TurnResumedData,
    TurnSealedData,
    TurnStartedData,
    is_cancel_notice,
)
from perdure.domain.fallbacks import fallen_back
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonObject, joined_controls, preview_of, text_of, tool_calls_of
from perdure.domain.parked import CONSENT, deadline_of
from perdure.domain.pending import after_cancel, after_end, pending_message, queued, schema_of, steering
from perdure.domain.phases import (
    IDLE,
    Answer,
    Answered,
    Calling,
    Failed,
    Idle,
    Ready,
    Reasoning,
    RunningTurn,
    TurnState,
    Waiting,
    interruptions_of,
    parked_calls,
    requested_model,
    uncounted,
    waiting_after,
)
from perdure.domain.steps import Started, started_after
from perdure.domain.times import from_rfc3339
from perdure.domain.tools import APPROVE, call_of_question
from perdure.domain.turn_totals import Turn

__all__ = [
    "IDLE",
    "Answer",
    "Answered",
    "Calling",
    "Failed",
    "Idle",
    "Ready",
    "Reasoning",
    "RunningTurn",
    "Turn",
    "TurnState",
    "Waiting",
    "fold",
    "interruptions_of",
    "parked_calls",
    "requested_model",
]


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
    controls = state.controls
    if not waiting.late and not data.queued:
        joins = not isinstance(state, Idle) or bool(state.pending)
        controls = joined_controls(controls if joins else None, data.message.controls)
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
        turn=Turn(
            data.turn_id,
            data.input_message_id,
            content,
            event.ts,
            output_schema=None if first is None else first.output_schema,
            speaker=data.speaker,
            trace=None if first is None else first.trace,
        ),
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
    turn = replace(
        state.turn,
        iterations=state.turn.iterations + 1,
        interruptions=interruptions_of(state),
        requested=requested_model(state),
    )
    if state.pending and (steers := steering(state.pending)):
        schema = schema_of(steers)
        schema = turn.output_schema if schema is None else schema
        turn = replace(turn, output_schema=schema, rejected=0, problems=())
    data = event.read(ReasonStartedData)
    return Reasoning(
        pending=queued(state.pending),
        controls=state.controls,
        turn=turn,
        exec_id=exec_id,
        started_at=event.ts,
        prompt_through=head,
        discovered_tools=data.discovered_tools,
        model=data.metadata,
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
    if (
        first is None
        and metadata.time_to_first_token_ms is not None
        and isinstance(state, Reasoning)
        and (metadata.success or state.answer is not None)  # the text of a failed call may be withdrawn
    ):
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
    if turn.parked_since is not None:
        turn = replace(turn, parked_since=None)
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


def _output_accepted(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if not isinstance(state, Answered):
        return state
    return replace(state, output=event.read(OutputAcceptedData).output)


def _output_rejected(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if not isinstance(state, Answered):
        return state
    data = event.read(OutputRejectedData)
    turn = replace(state.turn, rejected=data.attempt, problems=data.errors)
    return Ready(pending=state.pending, controls=state.controls, turn=turn)


def _fallback(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if isinstance(state, Idle):
        return state
    data, turn = event.read(ReasonFallbackData), state.turn
    if not isinstance(state, Failed):  # the model was not called
        return replace(
            state, turn=replace(turn, fallback=fallen_back(turn.fallback, requested_model(state), data))
        )
    turn = replace(uncounted(turn), fallback=fallen_back(turn.fallback, turn.requested, data))
    return Ready(pending=state.pending, controls=state.controls, turn=turn)


def _parked(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if isinstance(state, Idle | Reasoning | Waiting):
        return state
    data = event.read(TurnParkedData)
    if data.parked_kind == "rate_limit" and not isinstance(state, Failed):
        return state
    return waiting_after(state, data.parked_kind, from_rfc3339(data.until), event.ts)


def _resumed(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    if not isinstance(state, Waiting):
        return state
    return Ready(pending=state.pending, controls=state.controls, turn=state.turn)


def _budget_resumed(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    # By no clock: the one that goes on may be behind the one that has seen the money.
    return replace(state, until=0) if isinstance(state, Waiting) else state


def _guardrail_hit(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    """A check may want a person to approve a call that has not begun."""
    data = event.read(GuardrailHitData)
    if not isinstance(state, Calling) or data.action != "ask":
        return state
    calls = (replace(call, asks=True) if call.id == data.tool_call_id else call for call in state.calls)
    return replace(state, calls=tuple(calls))


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
    status = Started(data.replayable, data.resumable, event.ts)
    return _with_status(state, data.tool_call.id, status, vetted=True)


def _hook_decided(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    """A hook has replaced a call's arguments: a person who approved others is asked again."""
    data = event.read(HookDecidedData)
    if not isinstance(state, Calling) or data.tool_call_id is None or data.arguments is None:
        return state
    state = _with_status(state, data.tool_call_id, ANNOUNCED, vetted=True)
    calls = (
        replace(call, arguments=data.arguments) if call.id == data.tool_call_id else call
        for call in state.calls
    )
    return replace(state, calls=tuple(calls))


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
    summaries = data.tool_summaries or ()
    for index, call in enumerate(data.tool_calls):
        about = summaries[index] if index < len(summaries) else ToolCallSummary(call.id, call.name)
        if call.name == APPROVE:
            reasons = tuple(each.code for each in about.reasons)
            asks = Parked("approval", until, head, index, data.approvers or ANYBODY, reasons)
            state = _with_status(state, call_of_question(call.id), asks)
        else:
            waits = Parked("client", until, head, index, external=about.external)
            state = _with_status(state, call.id, waits)
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


def _handed_off(state: TurnState, event: AnyEvent, head: int) -> TurnState:
    """The next model call is another agent's, with its own model; the calls of this answer are not."""
    if isinstance(state, Idle):
        return state
    state = replace(state, turn=replace(state.turn, speaker=None, fallback=None))
    if not isinstance(state, Calling) or state.made_by is not None:
        return state
    return replace(state, made_by=event.read(SessionHandedOffData).before())


def _with_status(
    state: Calling,
    call_id: ToolCallId,
    status: CallStatus,
    edited: JsonObject | None = None,
    *,
    vetted: bool = False,
) -> Calling:
    more = {} if edited is None else {"arguments": edited, "edited": True, "vetted": False}
    more |= {"vetted": True} if vetted else {}
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
    OutputAcceptedData.kind: _output_accepted,
    OutputRejectedData.kind: _output_rejected,
    ReasonFallbackData.kind: _fallback,
    TurnParkedData.kind: _parked,
    TurnResumedData.kind: _resumed,
    BudgetResumedData.kind: _budget_resumed,
    GuardrailHitData.kind: _guardrail_hit,
    ActStartedData.kind: _act_started,
    ActCompletedData.kind: _act_completed,
    ToolStartedData.kind: _tool_started,
    ToolStepData.kind: _call_went_on,
    ToolVerifiedData.kind: _call_went_on,
    ToolCompletedData.kind: _tool_completed,
    ToolCallRequestedData.kind: _call_requested,
    ToolParkedData.kind: _tool_parked,
    ToolResumedData.kind: _tool_resumed,
    SessionHandedOffData.kind: _handed_off,
    HookDecidedData.kind: _hook_decided,
}
"""By kind: computes the state after the event with sequence `head`. `fold` sets the state's own `head`.

This is a table because each class pattern that does not match would cost 0.07 us. The data of kinds that are
not in it is not decoded.
"""
