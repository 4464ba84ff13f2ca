"""The turn: state is a fold over the events since the turn's first message.

What to do next is a pure function of the state.

    fold(events) -> TurnState            next_action(TurnState, TurnRules) ->
                                           StartTurn | CallModel | RunTools | AwaitClient | ExpireCalls |
                                           Finish | Fail | Nothing

Recovery is not a special path: a new runner folds the same events and asks the same question.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from perdure.domain.events import (
    ENDED_TURN,
    ActStartedData,
    Event,
    InputMessageData,
    NewEvent,
    OutputMessageCompletedData,
    ReasonCompletedData,
    ToolCall,
    ToolCallRequestedData,
    ToolCompletedData,
    ToolStartedData,
    is_cancel_notice,
)
from perdure.domain.ids import ExecId, MessageId, ToolCallId, TurnId
from perdure.domain.messages import Usage, preview_of, text_of, tool_calls_of
from perdure.domain.times import Micros
from perdure.domain.tools import APPROVAL_PREFIX, APPROVE

NO_USAGE = Usage(0, 0)


class CallState(Struct, frozen=True):
    """One tool call of the model's last answer."""

    id: ToolCallId
    name: str
    arguments: Any
    started: bool = False
    replayable: bool = False
    requested: bool = False
    done: bool = False
    failed: bool = False
    approval: Literal["", "requested", "allowed"] = ""


class TurnState(Struct, frozen=True):
    """All that the next step depends on.

    Attributes:
        turn_id: the running turn, or None between turns.
        pending: messages that no model call has seen yet, oldest first, as (id, turn id it was given,
            preview); the one that began the turn is not among them. The turn id is empty once that turn is
            over.
        reasoning: a model call was begun and has not ended.
        exec_id: the execution (one model call and its tools) that is going on.
        prompt_through: the sequence up to which the model call going on sees the log.
        calls: the tool calls of the last answer; empty when it had none, or all results have been shown to
            the model.
        expires_at: until when a client's results or approvals are waited for, or None.
        asked: the calls of the last answer as text, to be compared with the next; repeats: how often in a row
            they were the same.
        act_calls: ids of the calls of the batch that runs, or ran last.
        failure: the code and words of a model call that failed for good.
        head: the sequence of the last event folded in; begin with the sequence before the first.
    """

    turn_id: TurnId | None = None
    input_message_id: MessageId | None = None
    input_content: str | None = None
    started: bool = False
    started_at: Micros = 0
    pending: tuple[tuple[str, str, str], ...] = ()
    iteration: int = 0
    reasoning: bool = False
    answered: bool = False
    exec_id: ExecId | None = None
    output_message_id: MessageId | None = None
    reason_started_at: Micros = 0
    prompt_through: int = 0
    calls: tuple[CallState, ...] = ()
    acting: bool = False
    act_calls: frozenset[str] = frozenset()
    act_started_at: Micros = 0
    expires_at: Micros | None = None
    asked: str = ""
    repeats: int = 0
    llm_calls: int = 0
    tool_calls: int = 0
    usage: Usage = NO_USAGE
    time_to_first_token_ms: int | None = None
    final_message_id: MessageId | None = None
    final_preview: str | None = None
    failure: tuple[str, str] | None = None
    head: int = 0


class TurnRules(Struct, frozen=True):
    """What the assembled layers say about the turn.

    Attributes:
        max_iterations: model calls in one turn; the turn fails beyond it.
        client_tools: names of tools that the caller runs.
        loop_limit: how often the same calls may be repeated before the model is told; the turn fails after
            twice as many. 0: no limit.
        gated: names of tools that run only after somebody has allowed the call.
    """

    max_iterations: int = 200
    client_tools: frozenset[str] = frozenset()
    gated: frozenset[str] = frozenset()
    loop_limit: int = 0


class Nothing(Struct, frozen=True):
    """Idle, or parked: no job, no coroutine, no timer."""


class StartTurn(Struct, frozen=True):
    """Begin the turn of a message that waits, then call the model. An empty `turn_id` asks for a new one."""

    turn_id: TurnId
    message_id: MessageId
    input_content: str


class CallModel(Struct, frozen=True):
    """Call the model.

    `resumed`: the call was begun before (its start is in the log), a new attempt takes its place.
    """

    resumed: bool


class RunTools(Struct, frozen=True):
    """Run these calls, side by side. `started` ones were begun by a runner that died."""

    calls: tuple[CallState, ...]


class AwaitClient(Struct, frozen=True):
    """Hand these calls to the caller and park."""

    calls: tuple[CallState, ...]


class AskApproval(Struct, frozen=True):
    """Ask whether these calls may run, and park."""

    calls: tuple[CallState, ...]


class ExpireCalls(Struct, frozen=True):
    """Nobody answered in time, or a new message came instead.

    Each of these calls gets an error result and the turn goes on.
    """

    calls: tuple[CallState, ...]


class Finish(Struct, frozen=True):
    """The turn is complete."""


class Fail(Struct, frozen=True):
    """The turn cannot go on."""

    code: str
    message: str


Action = Nothing | StartTurn | CallModel | RunTools | AskApproval | AwaitClient | ExpireCalls | Finish | Fail


AnyEvent = Event | NewEvent
"""A log without gaps needs no numbers: each event is the one after the state's head."""


def fold(events: Iterable[AnyEvent], state: TurnState | None = None) -> TurnState:
    """The state after these events, beginning with `state`. fold(a + b) == fold(b, fold(a))."""
    current = state or TurnState()
    for event in events:
        current = apply(current, event)
    return current


def apply(state: TurnState, event: AnyEvent) -> TurnState:
    """The state after one more event."""
    handler = _HANDLERS.get(event.type)
    head = state.head + 1
    if handler is not None:
        state = handler(state, event)
    return msgspec.structs.replace(state, head=head)


def _input_message(state: TurnState, event: AnyEvent) -> TurnState:
    data: InputMessageData = event.decoded()
    if is_cancel_notice(data.message, event):
        return state
    turn_id = event.context_struct().turn_id or ""
    entry = (data.message.id, turn_id, preview_of(text_of(data.message.content)))
    return msgspec.structs.replace(state, pending=(*state.pending, entry))


def _turn_started(state: TurnState, event: AnyEvent) -> TurnState:
    context = event.context_struct()
    content = next((text for message, _, text in state.pending if message == context.input_message_id), None)
    return TurnState(
        turn_id=context.turn_id,
        input_message_id=context.input_message_id,
        input_content=content,
        started=True,
        started_at=event.ts,
        pending=tuple(entry for entry in state.pending if entry[0] != context.input_message_id),
    )


def _turn_ended(state: TurnState, event: AnyEvent) -> TurnState:
    # A cancel covers everything that was asked before it; any other end leaves unseen messages to the next
    # turn.
    if event.type == "turn.cancelled":
        return TurnState()
    # What was to steer this turn will begin another one.
    ended = state.turn_id
    return TurnState(
        pending=tuple((message, "" if turn == ended else turn, text) for message, turn, text in state.pending)
    )


def _reason_started(state: TurnState, event: AnyEvent) -> TurnState:
    return msgspec.structs.replace(
        state,
        iteration=state.iteration + 1,
        reasoning=True,
        answered=False,
        exec_id=event.context_struct().exec_id,
        reason_started_at=event.ts,
        prompt_through=state.head + 1,
        pending=(),
        calls=(),
        acting=False,
        output_message_id=None,
    )


def _output_started(state: TurnState, event: AnyEvent) -> TurnState:
    return msgspec.structs.replace(state, output_message_id=event.decoded().message_id)


def _output_completed(state: TurnState, event: AnyEvent) -> TurnState:
    data: OutputMessageCompletedData = event.decoded()
    if not state.reasoning:
        return state
    calls = tuple(CallState(part.id, part.name, part.arguments) for part in tool_calls_of(data.message))
    asked = msgspec.json.encode([(call.name, call.arguments) for call in calls]).decode() if calls else ""
    return msgspec.structs.replace(
        state,
        asked=asked,
        repeats=state.repeats + 1 if asked and asked == state.asked else 0,
        calls=calls,
        tool_calls=state.tool_calls + len(calls),
        answered=not calls,
        final_message_id=data.message.id,
        final_preview=preview_of(text_of(data.message.content)),
    )


def _generation(state: TurnState, event: AnyEvent) -> TurnState:
    metadata = event.decoded().metadata
    first = state.time_to_first_token_ms
    if first is None and metadata.time_to_first_token_ms is not None:
        first = (state.reason_started_at - state.started_at) // 1000 + metadata.time_to_first_token_ms
    return msgspec.structs.replace(
        state,
        llm_calls=state.llm_calls + 1,
        usage=state.usage.plus(metadata.usage),
        time_to_first_token_ms=first,
    )


def _reason_completed(state: TurnState, event: AnyEvent) -> TurnState:
    data: ReasonCompletedData = event.decoded()
    failure = (
        None if data.success else (data.error_code or "model_error", data.error or "the model call failed")
    )
    return msgspec.structs.replace(state, reasoning=False, failure=failure)


def _mark(state: TurnState, call_id: ToolCallId, **marks: bool) -> TurnState:
    calls = tuple(
        msgspec.structs.replace(call, **marks) if call.id == call_id else call for call in state.calls
    )
    return msgspec.structs.replace(state, calls=calls)


def _act_started(state: TurnState, event: AnyEvent) -> TurnState:
    data: ActStartedData = event.decoded()
    calls = frozenset(call.id for call in data.tool_calls)
    return msgspec.structs.replace(state, acting=True, act_calls=calls, act_started_at=event.ts)


def _act_completed(state: TurnState, event: AnyEvent) -> TurnState:
    return msgspec.structs.replace(state, acting=False)


def _tool_started(state: TurnState, event: AnyEvent) -> TurnState:
    data: ToolStartedData = event.decoded()
    return _mark(state, data.tool_call.id, started=True, replayable=data.replayable)


def _tool_completed(state: TurnState, event: AnyEvent) -> TurnState:
    data: ToolCompletedData = event.decoded()
    if data.tool_name == APPROVE:
        call_id = data.tool_call_id.removeprefix(APPROVAL_PREFIX)
        state = _mark_approval(state, call_id, "allowed" if data.success else "")
    else:
        state = _mark(state, data.tool_call_id, done=True, failed=not data.success)
    waiting = any((call.requested or call.approval == "requested") and not call.done for call in state.calls)
    return state if waiting else msgspec.structs.replace(state, expires_at=None)


def _requested(state: TurnState, event: AnyEvent) -> TurnState:
    data: ToolCallRequestedData = event.decoded()
    for call in data.tool_calls:
        if call.name == APPROVE:
            state = _mark_approval(state, call.id.removeprefix(APPROVAL_PREFIX), "requested")
        else:
            state = _mark(state, call.id, requested=True)
    return msgspec.structs.replace(state, expires_at=event.ts + data.timeout_ms * 1000)


def _mark_approval(
    state: TurnState, call_id: ToolCallId, approval: Literal["", "requested", "allowed"]
) -> TurnState:
    calls = tuple(
        msgspec.structs.replace(call, approval=approval) if call.id == call_id else call
        for call in state.calls
    )
    return msgspec.structs.replace(state, calls=calls)


_HANDLERS = {
    "input.message": _input_message,
    "turn.started": _turn_started,
    "reason.started": _reason_started,
    "output.message.started": _output_started,
    "output.message.completed": _output_completed,
    "llm.generation": _generation,
    "reason.completed": _reason_completed,
    "act.started": _act_started,
    "act.completed": _act_completed,
    "tool.started": _tool_started,
    "tool.completed": _tool_completed,
    "tool.call_requested": _requested,
    **dict.fromkeys(ENDED_TURN, _turn_ended),
}


def open_client_calls(state: TurnState) -> tuple[CallState, ...]:
    """The calls that a client was asked to answer and has not."""
    return tuple(call for call in state.calls if call.requested and not call.done)


def next_action(state: TurnState, rules: TurnRules, now: Micros) -> Action:
    """What a runner of this session has to do next.

    Pure; `now` decides only whether a client's time is up.
    """
    if not state.started:
        if not state.pending:
            return Nothing()
        message_id, turn_id, content = state.pending[0]
        return StartTurn(turn_id, message_id, content)
    if state.reasoning:
        return CallModel(resumed=True)
    if state.failure is not None:
        return Fail(*state.failure)
    undone = tuple(call for call in state.calls if not call.done)
    if undone:
        return _with_calls(state, undone, rules, now)
    if state.answered and not state.pending:
        return Finish()
    if rules.loop_limit and state.repeats >= 2 * rules.loop_limit:
        return Fail("loop_detected", f"The same tool calls were made {state.repeats + 1} times in a row.")
    if state.iteration >= rules.max_iterations:
        return Fail("max_iterations", f"The turn reached its limit of {rules.max_iterations} model calls.")
    return CallModel(resumed=False)


def open_approvals(state: TurnState) -> tuple[CallState, ...]:
    """The calls that wait for somebody's leave."""
    return tuple(call for call in state.calls if call.approval == "requested" and not call.done)


def _with_calls(state: TurnState, undone: tuple[CallState, ...], rules: TurnRules, now: Micros) -> Action:
    own = tuple(call for call in undone if _may_run(call, rules))
    if own:
        return RunTools(own)
    asked = open_approvals(state) or open_client_calls(state)
    if asked:
        late = state.expires_at is not None and now >= state.expires_at
        return ExpireCalls(asked) if state.pending or late else Nothing()
    if state.pending:
        return ExpireCalls(undone)  # a message has come before anybody was asked: nobody has to be
    gated = tuple(call for call in undone if call.name in rules.gated)
    return AskApproval(gated) if gated else AwaitClient(undone)


def _may_run(call: CallState, rules: TurnRules) -> bool:
    """Whether the server runs this call now.

    It is not the caller's, and nobody has to be asked (any more).
    """
    if call.requested or call.approval == "requested" or call.name in rules.client_tools:
        return False
    return call.started or call.approval == "allowed" or call.name not in rules.gated


def as_tool_call(call: CallState) -> ToolCall:
    """The call in the shape that events carry."""
    return ToolCall(call.id, call.name, call.arguments)
