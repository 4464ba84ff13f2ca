"""Which agent speaks in the next model call, and which names it sees in the history."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from perdure.capabilities.layers import Layer
from perdure.domain.ids import AgentId
from perdure.domain.speakers import Reader, Speaker
from perdure.domain.turn import Idle, TurnState
from perdure.store.sessions import SessionRow

NO_NAME = "the one before"
"""Stands for the name of the agent before, in a session that was created without one."""


class Voice(Struct, frozen=True):
    """The agent of the next model call.

    Attributes:
        author: what its messages say of their author. None for the agent that the session was created with,
            which most sessions never leave.
        reader: for whom the history is written; None as for `author`.
    """

    agent_id: AgentId | None
    author: Speaker | None = None
    reader: Reader | None = None


def voice_of(session: SessionRow, acting: SessionRow, layers: Sequence[Layer], state: TurnState) -> Voice:
    """Find the voice of the next model call.

    Args:
        acting: the session as if the agent of its next action were its own; `layers` are its layers.
    """
    agent_id = acting.agent_id
    if agent_id is None or agent_id == session.first_agent().agent_id:
        return Voice(agent_id)
    names = {each.policy_only: each.name or "" for each in layers if each.kind == "agent"}
    speaker = None if isinstance(state, Idle) else state.turn.speaker
    participant = None if speaker is None or speaker.agent_id != agent_id else speaker.participant_id
    author = Speaker(agent_id, names.get(False, ""), acting.agent_version_id, participant)
    return Voice(agent_id, author, Reader(agent_id, names.get(True) or NO_NAME))
