"""Decides the next action: a pure function of the turn's state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from msgspec import Struct

from perdure.domain.calls import Allowed, Announced, CallState, Done, Parked
from perdure.domain.data_flow import NO_OUTLETS, AskReason, External, Outlet, exfiltration
from perdure.domain.guards import Guard, GuardedFiles, why_guarded
from perdure.domain.ids import MessageId, ToolCallId, TurnId
from perdure.domain.outputs import MAX_CORRECTIONS
from perdure.domain.parked import ASKED, ASKED_LIMITS
from perdure.domain.pending import first_of, steering
from perdure.domain.steps import Started
from perdure.domain.times import Micros
from perdure.domain.turn import (
    Answered,
    Calling,
    Failed,
    Idle,
    Reasoning,
    RunningTurn,
    TurnState,
    Waiting,
    interruptions_of,
    parked_calls,
)

MAX_TRUNCATED = 3
"""How many answers in a row may end in the middle of a tool call before the turn fails."""
MAX_INTERRUPTIONS = 5
"""Answers in a row whose tool calls may be interrupted. Then one of the tools is probably what kills the
server, and the turn fails."""


class TurnRules(Struct, frozen=True):
    """The agent's rules for a turn.

    Attributes:
        max_iterations: the maximum number of model calls in a turn; the turn fails beyond it.
        client_tools: the names of the tools that the client runs.
        gated: the names of the tools whose calls require approval.
        guarded: by the tool's name, which calls require approval because they change certain files.
        guarded_files: those files, which no other call may change.
        persistent: the names of the tools that change what later turns do, and require approval for that.
        outlets: by the tool's name, where calls can send data, which requires approval once there is text
            from outside in the context.
        sources: where text from outside in the context came from. The agent's rules have none: what the
            context has is known when an action is decided.
        cleared: the calls that send nothing to anybody whom a person has not named.
        rejected: the names of the client's tools that a person has rejected for the whole session.
        loop_limit: how often the model may repeat the same calls before it gets an error instead of results;
            after twice as many, the turn fails. 0: no limit.
    """

    max_iterations: int = 200
    client_tools: frozenset[str] = frozenset()
    gated: frozenset[str] = frozenset()
    guarded: Mapping[str, Guard] = MappingProxyType({})
    guarded_files: GuardedFiles | None = None
    persistent: frozenset[str] = frozenset()
    outlets: Mapping[str, Outlet] = NO_OUTLETS
    sources: tuple[External, ...] = ()
    cleared: frozenset[ToolCallId] = frozenset()
    rejected: frozenset[str] = frozenset()
    loop_limit: int = 0

    def asks(self, call: CallState) -> bool:
        """Whether the call requires approval."""
        return call.asks or call.name in self.gated or next(self.reasons(call), None) is not None

    def reasons(self, call: CallState) -> Iterator[AskReason]:
        """Yield why the call requires approval, beyond that its tool does."""
        if call.name in self.persistent:
            yield AskReason("persistent_change", "It changes what later turns of this session do.")
        guard = self.guarded.get(call.name)
        if guard is not None and guard.covers(call.arguments):
            path = str(guard.path_of(call.arguments))
            yield AskReason("persistent_change", f"It changes {path[:200]!r}, which {why_guarded(path)}.")
        outlet = self.outlets.get(call.name) if self.sources and call.id not in self.cleared else None
        if outlet is not None:
            yield exfiltration(self.sources, outlet.receiver(call.arguments))


class Nothing(Struct, frozen=True):
    """Do nothing: the session is idle or parked, and holds no job, coroutine or timer."""


class StartTurn(Struct, frozen=True):
    """Begin the turn of a pending message, and call the model. Without `turn_id`, the turn gets a new id.

    `queued_at`: the sequence of the message if it waited for its own turn.
    """

    turn_id: TurnId | None
    message_id: MessageId
    input_content: str
    queued_at: int | None = None


class CallModel(Struct, frozen=True):
    """Call the model. `resumed`: the call's start is in the log already, by a runner that died."""

    state: RunningTurn
    resumed: bool


class Resume(Struct, frozen=True):
    """Go on with a turn that was parked."""

    state: Waiting


class RunTools(Struct, frozen=True):
    """Run these calls concurrently. Those that are `Started` were started by a runner that died."""

    state: Calling
    calls: tuple[CallState, ...]


class EndBatch(Struct, frozen=True):
    """End the batch, in which nothing runs any more: results came from outside, or the last runner died."""

    state: Calling


class AwaitClient(Struct, frozen=True):
    """Ask the client to run these calls, and park."""

    state: Calling
    calls: tuple[CallState, ...]


class AskApproval(Struct, frozen=True):
    """Ask for approval of these calls, and park."""

    state: Calling
    calls: tuple[CallState, ...]


class ExpireCalls(Struct, frozen=True):
    """Give these calls results without their answers, so that the turn continues.

    `withdrawn`: a new message withdraws what a client or a person was asked, and has callbacks continue in
    the background. Otherwise the calls timed out.
    """

    state: Calling
    calls: tuple[CallState, ...]
    withdrawn: bool


class Finish(Struct, frozen=True):
    """Complete the turn."""

    state: Answered


class Fail(Struct, frozen=True):
    """Fail the turn, which cannot continue."""

    state: RunningTurn
    code: str
    message: str


Action = (
    Nothing
    | StartTurn
    | CallModel
    | Resume
    | RunTools
    | EndBatch
    | AskApproval
    | AwaitClient
    | ExpireCalls
    | Finish
    | Fail
)


def next_action(state: TurnState, rules: TurnRules, now: Micros) -> Action:
    """Decide what a runner of this session does next.

    Args:
        now: only decides whether parked calls have timed out, and whether a parked turn goes on.
    """
    match state:
        case Idle():
            if not state.pending:
                return Nothing()
            first = first_of(state.pending)
            return StartTurn(first.turn_id, first.message_id, first.preview, first.queued_at)
        case Reasoning():
            return CallModel(state, resumed=True)
        case Failed():
            return Fail(state, state.code, state.message)
        case Waiting():
            # A person who writes may know that the wait for a model or for money is over.
            newer = steering(state.pending)[state.known :]
            asked = state.kind in ASKED_LIMITS and any(not (each.scheduled or each.late) for each in newer)
            return Resume(state) if asked or state.is_over(now) else Nothing()
        case Answered() if not steering(state.pending):
            return Finish(state)
        case Calling():
            undone = tuple(call for call in state.calls if not isinstance(call.status, Done))
            if undone:
                return _with_calls(state, undone, rules, now)
            if state.batch is not None:
                return EndBatch(state)
    return _next_model_call(state, rules)


def _next_model_call(state: RunningTurn, rules: TurnRules) -> Action:
    turn = state.turn
    if turn.rejected > MAX_CORRECTIONS and not steering(state.pending):
        message = f"{turn.rejected} answers did not match the schema. " + "; ".join(turn.problems)
        return Fail(state, "output_invalid", message)
    if turn.truncated >= MAX_TRUNCATED:
        message = (
            f"{turn.truncated} answers in a row reached the model's output limit in the middle of a tool "
            "call."
        )
        return Fail(state, "answer_truncated", message)
    if (times := interruptions_of(state)) >= MAX_INTERRUPTIONS:
        message = f"Tools of {times} answers in a row were interrupted: the server died while they ran."
        return Fail(state, "no_progress", message)
    if rules.loop_limit and turn.repeats >= 2 * rules.loop_limit:
        message = f"The same tool calls were made {turn.repeats + 1} times in a row."
        return Fail(state, "loop_detected", message)
    if turn.iterations >= rules.max_iterations:
        message = f"The turn reached its limit of {rules.max_iterations} model calls."
        return Fail(state, "max_iterations", message)
    return CallModel(state, resumed=False)


def _with_calls(state: Calling, undone: tuple[CallState, ...], rules: TurnRules, now: Micros) -> Action:
    runnable = tuple(call for call in undone if _may_run(call, rules))
    if runnable:
        return RunTools(state, runnable)
    if state.batch is not None:
        return EndBatch(state)
    asked = parked_calls(state, *ASKED)
    # A late result is no answer to what a client or a person was asked, nor a reason not to wait for a task
    # any more: it waits.
    steers, awaited = steering(state.pending), asked or parked_calls(state, "child")
    if steers and not (awaited and all(message.late for message in steers)):
        return ExpireCalls(state, undone, withdrawn=True)
    overdue = tuple(call for call in undone if isinstance(call.status, Parked) and now >= call.status.until)
    if overdue:
        return ExpireCalls(state, overdue, withdrawn=False)
    unasked = tuple(call for call in undone if not isinstance(call.status, Parked))
    if asked or not unasked:
        return Nothing()
    gated = tuple(call for call in unasked if isinstance(call.status, Announced) and rules.asks(call))
    return AskApproval(state, gated) if gated else AwaitClient(state, unasked)


def _may_run(call: CallState, rules: TurnRules) -> bool:
    """Whether the server runs this call now: it is not the client's, and needs no approval or has it."""
    match call.status:
        case Parked() | Done():
            return False
        case Started() | Allowed():
            return call.name not in rules.client_tools
        case Announced():
            return call.name not in rules.client_tools and not rules.asks(call)
