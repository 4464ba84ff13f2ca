"""The data of events about the agents and people of a session."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from perdure.domain.event_data import EventData
from perdure.domain.ids import AgentId, AgentVersionId, ParticipantId, ToolCallId, UserId
from perdure.domain.speakers import AgentAt

ParticipantKind = Literal["agent", "user"]
History = Literal["full", "summary"]


class SessionHandedOffData(EventData, frozen=True, omit_defaults=True):
    """The agent has handed the session off: from its next model call on, another agent works in it."""

    kind = "session.handed_off"
    tool_call_id: Annotated[ToolCallId, Meta(description="The tool call that handed it off.")]
    to_agent_id: Annotated[AgentId, Meta(description="The agent that works in the session from now on.")]
    to_agent_name: Annotated[str, Meta(description="The name of that agent.")]
    history: Annotated[
        History,
        Meta(
            description="`full`: it sees the whole conversation; `summary`: a summary, which the event after "
            "this one contains."
        ),
    ]
    to_agent_version_id: Annotated[
        AgentVersionId | None, Meta(description="The version of it that runs, if one was chosen.")
    ] = None
    from_agent_id: Annotated[
        AgentId | None, Meta(description="The agent before. Absent if the session had none.")
    ] = None
    from_agent_version_id: Annotated[
        AgentVersionId | None, Meta(description="The version of the agent before.")
    ] = None
    reason: Annotated[str | None, Meta(description="Why, as the agent says.")] = None

    def before(self) -> AgentAt:
        """The agent that handed off."""
        return AgentAt(self.from_agent_id, self.from_agent_version_id)

    def after(self) -> AgentAt:
        """The agent that works from now on."""
        return AgentAt(self.to_agent_id, self.to_agent_version_id)


_PARTICIPANT_ID = Meta(description="The participant.")
_KIND = Meta(description="`agent` or `user`.")


class ParticipantJoinedData(EventData, frozen=True, omit_defaults=True):
    """An agent or a user takes part in the session from now on."""

    kind = "session.participant_joined"
    participant_id: Annotated[ParticipantId, _PARTICIPANT_ID]
    participant_kind: Annotated[ParticipantKind, _KIND]
    agent_id: Annotated[AgentId | None, Meta(description="The agent, if it is one.")] = None
    user_id: Annotated[UserId | None, Meta(description="The user, if it is one.")] = None


class ParticipantLeftData(EventData, frozen=True):
    """A participant has left the session."""

    kind = "session.participant_left"
    participant_id: Annotated[ParticipantId, _PARTICIPANT_ID]
    participant_kind: Annotated[ParticipantKind, _KIND]
