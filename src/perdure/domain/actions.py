"""What to do next: a pure function of the turn's state."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.ids import MessageId, TurnId
from perdure.domain.times import Micros
from perdure.domain.turn import (
    Allowed,
    Announced,
    Answered,
    ApprovalAsked,
    Calling,
    CallState,
    Done,
    Failed,
    Idle,
    Reasoning,
    Requested,
    RunningTurn,
    Started,
    TurnState,
    open_approvals,
    open_client_calls,
)


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
    """Begin the turn of a message that waits, then call the model. Without a `turn_id` it gets a new one."""

    turn_id: TurnId | None
    message_id: MessageId
    input_content: str


class CallModel(Struct, frozen=True):
    """Call the model.

    `resumed`: the call was begun before (its start is in the log), a new attempt takes its place.
    """

    state: RunningTurn
    resumed: bool


class RunTools(Struct, frozen=True):
    """Run these calls, side by side. `Started` ones were begun by a runner that died."""

    state: Calling
    calls: tuple[CallState, ...]


class AwaitClient(Struct, frozen=True):
    """Hand these calls to the caller and park."""

    state: Calling
    calls: tuple[CallState, ...]


class AskApproval(Struct, frozen=True):
    """Ask whether these calls may run, and park."""

    state: Calling
    calls: tuple[CallState, ...]


class ExpireCalls(Struct, frozen=True):
    """Nobody answered in time, or a new message came instead.

    Each of these calls gets an error result and the turn goes on.
    """

    state: Calling
    calls: tuple[CallState, ...]


class Finish(Struct, frozen=True):
    """The turn is complete."""

    state: Answered


class Fail(Struct, frozen=True):
    """The turn cannot go on."""

    state: RunningTurn
    code: str
    message: str


Action = Nothing | StartTurn | CallModel | RunTools | AskApproval | AwaitClient | ExpireCalls | Finish | Fail


def next_action(state: TurnState, rules: TurnRules, now: Micros) -> Action:
    """What a runner of this session has to do next.

    Pure; `now` decides only whether a client's time is up.
    """
    match state:
        case Idle():
            if not state.pending:
                return Nothing()
            first = state.pending[0]
            return StartTurn(first.turn_id, first.message_id, first.preview)
        case Reasoning():
            return CallModel(state, resumed=True)
        case Failed():
            return Fail(state, state.code, state.message)
        case Answered() if not state.pending:
            return Finish(state)
        case Calling():
            undone = tuple(call for call in state.calls if not isinstance(call.status, Done))
            if undone:
                return _with_calls(state, undone, rules, now)
    return _next_model_call(state, rules)


def _next_model_call(state: RunningTurn, rules: TurnRules) -> Action:
    turn = state.turn
    if rules.loop_limit and turn.repeats >= 2 * rules.loop_limit:
        message = f"The same tool calls were made {turn.repeats + 1} times in a row."
        return Fail(state, "loop_detected", message)
    if turn.iterations >= rules.max_iterations:
        message = f"The turn reached its limit of {rules.max_iterations} model calls."
        return Fail(state, "max_iterations", message)
    return CallModel(state, resumed=False)


def _with_calls(state: Calling, undone: tuple[CallState, ...], rules: TurnRules, now: Micros) -> Action:
    own = tuple(call for call in undone if _may_run(call, rules))
    if own:
        return RunTools(state, own)
    asked = open_approvals(state) or open_client_calls(state)
    if asked:
        return ExpireCalls(state, asked) if state.pending or _is_late(asked, now) else Nothing()
    if state.pending:
        return ExpireCalls(state, undone)  # a message has come before anybody was asked: nobody has to be
    gated = tuple(call for call in undone if call.name in rules.gated)
    return AskApproval(state, gated) if gated else AwaitClient(state, undone)


def _is_late(calls: tuple[CallState, ...], now: Micros) -> bool:
    return any(
        isinstance(call.status, ApprovalAsked | Requested) and now >= call.status.until for call in calls
    )


def _may_run(call: CallState, rules: TurnRules) -> bool:
    """Whether the server runs this call now.

    It is not the caller's, and nobody has to be asked (any more).
    """
    match call.status:
        case ApprovalAsked() | Requested() | Done():
            return False
        case Started() | Allowed():
            return call.name not in rules.client_tools
        case Announced():
            return call.name not in rules.client_tools and call.name not in rules.gated
