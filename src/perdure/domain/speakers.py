"""Which agent speaks in a session with several agents: who wrote a message, and who reads it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.domain.ids import AgentId, AgentVersionId, ParticipantId


class AgentAt(Struct, frozen=True, omit_defaults=True):
    """An agent at the version that runs; without a version, as it is configured now. Both None: no agent."""

    agent_id: AgentId | None = None
    agent_version_id: AgentVersionId | None = None


class Speaker(Struct, frozen=True, omit_defaults=True):
    """An agent of a session, for a turn that is its own or a message that it wrote."""

    agent_id: Annotated[AgentId, Meta(description="The agent.")]
    agent_name: Annotated[str, Meta(description="The agent's name.", examples=["billing"])]
    agent_version_id: Annotated[
        AgentVersionId | None,
        Meta(description="The version that runs. Without one, it is the agent's current configuration."),
    ] = None
    participant_id: Annotated[
        ParticipantId | None,
        Meta(description="The participant that was addressed. Absent for the session's own agent."),
    ] = None

    def at(self) -> AgentAt:
        """The agent and its version."""
        return AgentAt(self.agent_id, self.agent_version_id)


class Reader(Struct, frozen=True):
    """An agent that a model call is for, and that is not the one that the session was created with."""

    agent_id: Annotated[AgentId, Meta(description="The agent.")]
    first: Annotated[
        str,
        Meta(description="The name of the agent that the session was created with: its messages name none."),
    ]


def label_of(name: str) -> str:
    """What precedes another agent's message. It never changes: old events are read with it."""
    return f"[Written by another agent, {name}:]"
