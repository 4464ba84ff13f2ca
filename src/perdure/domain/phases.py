"""The phases of a turn, with only the fields that exist in each; `turn.py` folds the log into them.

Idle -> Ready -> Reasoning -> Calling -> Reasoning -> ... -> Answered -> Idle
                     |                                           |
                     +-> Failed -> Idle        a message that steers: back to Reasoning
                     +-> Failed -> Ready       another model is called
                     +-> Failed -> Waiting -> Ready     the model is called again later
"""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.calls import Batch, CallState, Done, Parked
from perdure.domain.fallbacks import Fallback
from perdure.domain.ids import ExecId, MessageId, TurnId
from perdure.domain.messages import Controls, Usage
from perdure.domain.parked import ParkedKind
from perdure.domain.pending import PendingMessage, first_of
from perdure.domain.steps import Started
from perdure.domain.times import Micros

NO_USAGE = Usage(0, 0)


class Turn(Struct, frozen=True):
    """A running turn, and what it has used so far.

    Attributes:
        message_id: the message that began it; input_content: the start of its text.
        last_calls: the tool calls of the last answer as JSON, to compare with the next ones; repeats: how
            often in a row the calls were the same as before.
        truncated: how many answers in a row reached their limit in the middle of a tool call.
        interruptions: how many answers in a row, before the last one, had a call that was interrupted.
        requested: the model that the last model call was asked to use, None for the configured one.
        fallback: the model that is used instead, if one did not answer.
        parked_since: when it was parked first, since the last answer.
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
    requested: str | None = None
    fallback: Fallback | None = None
    parked_since: Micros | None = None


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


class Waiting(_Running, frozen=True, kw_only=True):
    """The turn is parked: its model can be called again at a time that is far away."""

    until: Micros


RunningTurn = Ready | Reasoning | Calling | Answered | Failed | Waiting
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
    return isinstance(state, Idle | Waiting)


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


def requested_model(state: TurnState) -> str | None:
    """The model that the last message asked for."""
    return state.controls.model_id if state.controls is not None else None


def interruptions_of(state: RunningTurn) -> int:
    """How many answers in a row, up to the last one, had a tool call that was interrupted."""
    if not isinstance(state, Calling):
        return state.turn.interruptions if isinstance(state, Ready) else 0
    statuses = [call.status for call in state.calls]
    interrupted = any(isinstance(status, Done) and status.interrupted for status in statuses)
    return state.turn.interruptions + 1 if interrupted else 0
