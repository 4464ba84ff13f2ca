"""The phases of a turn, with only the fields that exist in each; `turn.py` folds the log into them.

Idle -> Ready -> Reasoning -> Calling -> Reasoning -> ... -> Answered -> Idle
                     |                                           |
                     +-> Failed -> Idle        a message that steers: back to Reasoning
                                               an answer that does not match its schema: back to Ready
                     +-> Failed -> Ready       another model is called
                     +-> Failed -> Waiting -> Ready     the model is called again later
Ready, Calling, Answered -> Waiting -> Ready    no money for the next model call: it is made later

A turn also waits before a model call while a limit of its organization or user is reached.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.calls import Batch, CallState, Done, Parked
from perdure.domain.events.messages import ModelMetadata
from perdure.domain.ids import ExecId, MessageId
from perdure.domain.messages import Controls, JsonValue
from perdure.domain.parked import LimitKind, ParkedKind
from perdure.domain.pending import PendingMessage, steering
from perdure.domain.speakers import AgentAt
from perdure.domain.times import Micros
from perdure.domain.turn_totals import Turn


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
        model: the model that the call's start names.
    """

    exec_id: ExecId
    started_at: Micros
    prompt_through: int
    message_id: MessageId | None = None
    answer: Answer | None = None
    discovered_tools: str | None = None
    model: ModelMetadata | None = None


class Calling(_Running, frozen=True, kw_only=True):
    """The model requested tool calls. Once all are done, it is called with the results.

    Attributes:
        batch: the calls that the server runs now, or None.
        discovered_tools: as for the model call that requested them.
        made_by: the agent whose calls these are, if one of them has handed the session off.
    """

    exec_id: ExecId
    calls: tuple[CallState, ...]
    batch: Batch | None = None
    discovered_tools: str | None = None
    made_by: AgentAt | None = None


class Answered(_Running, frozen=True, kw_only=True):
    """The model answered without tool calls, which ends the turn unless a message is pending.

    `output`: the value of the answer, if a schema was set for it.
    """

    message_id: MessageId
    preview: str
    output: JsonValue = None


class Failed(_Running, frozen=True, kw_only=True):
    """The model call failed, after all retries."""

    code: str
    message: str


class Waiting(_Running, frozen=True, kw_only=True):
    """The turn is parked: its next model call is made later.

    Attributes:
        kind: what it waits for.
        known: how many messages that steer the turn it knew when it was held back. A newer one is a reason
            to try at once.
        since: when it was parked, by the clock that `until` is of.
    """

    until: Micros
    kind: LimitKind = "rate_limit"
    known: int = 0
    since: Micros = 0

    def is_over(self, now: Micros) -> bool:
        """Whether the wait is over; it is if it began in the future, by a clock that was ahead."""
        return now >= self.until or now < self.since


RunningTurn = Ready | Reasoning | Calling | Answered | Failed | Waiting
TurnState = Idle | RunningTurn
"""Everything in the log that the next action depends on."""


def parked_calls(state: TurnState, *kinds: ParkedKind) -> tuple[CallState, ...]:
    """The parked calls of these kinds."""
    calls = state.calls if isinstance(state, Calling) else ()
    return tuple(call for call in calls if isinstance(call.status, Parked) and call.status.kind in kinds)


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


def uncounted(turn: Turn) -> Turn:
    """The turn without its last model call, whose place another one takes."""
    return replace(turn, iterations=turn.iterations - 1)


def waiting_after(
    state: Ready | Calling | Answered | Failed, kind: LimitKind, until: Micros, ts: Micros
) -> Waiting:
    """The turn once it is parked before its next model call, or after one that failed.

    Args:
        ts: when it was parked.
    """
    turn = state.turn
    if isinstance(state, Failed):
        turn = uncounted(turn)
    else:
        turn = replace(turn, interruptions=interruptions_of(state))
    if kind == "rate_limit":
        turn = replace(turn, fallback=None)
    if kind in ("rate_limit", "reservation") and turn.parked_since is None:
        turn = replace(turn, parked_since=ts)
    # The call that failed has seen all messages but those that came meanwhile: they are new.
    known = 0 if kind == "rate_limit" else len(steering(state.pending))
    return Waiting(
        pending=state.pending,
        controls=state.controls,
        turn=turn,
        until=until,
        kind=kind,
        known=known,
        since=ts,
    )
