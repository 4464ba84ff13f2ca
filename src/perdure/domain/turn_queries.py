"""Questions about the state of a turn, which runners and use cases ask before they act."""

from __future__ import annotations

from perdure.domain.calls import Done, Parked
from perdure.domain.messages import Controls
from perdure.domain.outputs import OutputSchema
from perdure.domain.pending import first_of, schema_of, steering
from perdure.domain.speakers import AgentAt
from perdure.domain.steps import Started
from perdure.domain.turn import Calling, Idle, Reasoning, TurnState, Waiting


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
        case Calling() if _has_open_calls(state):
            return state.discovered_tools
    return None


def next_controls(state: TurnState) -> Controls | None:
    """The options of the next model call: of the message that begins the turn, if it waited for its own."""
    first = first_of(state.pending) if isinstance(state, Idle) and state.pending else None
    return state.controls if first is None or first.queued_at is None else first.controls


def agent_ahead(state: TurnState, own: AgentAt) -> AgentAt:
    """The agent of the next action: whose tool calls these are, or whose turn it is or will be.

    Args:
        own: the session's own agent.
    """
    if isinstance(state, Idle):
        speaker = first_of(state.pending).addressed if state.pending else None
    elif isinstance(state, Calling) and state.made_by is not None and _has_open_calls(state):
        return state.made_by
    else:
        speaker = state.turn.speaker
    return own if speaker is None else speaker.at()


def _has_open_calls(state: Calling) -> bool:
    return any(not isinstance(call.status, Done) for call in state.calls)


def schema_ahead(state: TurnState) -> OutputSchema | None:
    """The schema that messages set for the final answer of the turn that the next model call belongs to."""
    if isinstance(state, Idle):
        first = first_of(state.pending) if state.pending else None
        if first is None or first.queued_at is not None:
            return None if first is None else first.output_schema
        return schema_of(steering(state.pending))
    schema = schema_of(steering(state.pending)) if state.pending else None
    return state.turn.output_schema if schema is None else schema
