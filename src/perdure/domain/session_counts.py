"""Numbers of sessions: in total, by status, and by what lists can be narrowed down to."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.domain.ids import AgentId


class SessionStats(Struct, frozen=True):
    """The number of sessions, in total and by status."""

    total: Annotated[int, Meta(description="The number of sessions.", examples=[44])]
    started: Annotated[
        int, Meta(description="The number of sessions that have had no turn yet.", examples=[1])
    ]
    active: Annotated[
        int, Meta(description="The number of sessions in which a turn is running.", examples=[2])
    ]
    idle: Annotated[int, Meta(description="The number of sessions that wait for a message.", examples=[40])]
    waiting_for_tool_results: Annotated[
        int, Meta(description="The number of sessions that wait for a client.", examples=[1])
    ]
    paused: Annotated[
        int, Meta(description="The number of sessions that a budget has stopped.", examples=[0])
    ]
    archived: Annotated[
        int,
        Meta(description="The number of archived sessions, which the other numbers leave out.", examples=[3]),
    ]


class AgentFacet(Struct, frozen=True):
    """The number of an agent's sessions."""

    agent_id: Annotated[AgentId, Meta(description="The agent.")]
    count: Annotated[int, Meta(description="The number of its sessions.", examples=[12])]


class SessionFacets(Struct, frozen=True):
    """What a list of sessions can be narrowed down to, with the number of sessions of each choice."""

    total: Annotated[int, Meta(description="The number of sessions that match the filters.", examples=[44])]
    statuses: Annotated[
        dict[str, int], Meta(description="The number in each status.", examples=[{"idle": 44}])
    ]
    sources: Annotated[
        dict[str, int], Meta(description="The number of each source.", examples=[{"api": 32, "chat": 12}])
    ]
    agents: Annotated[
        tuple[AgentFacet, ...],
        Meta(description="The number of each agent, for the 50 agents with the most sessions."),
    ]
    mine: Annotated[int, Meta(description="The number that the caller created.", examples=[7])]
    archived: Annotated[int, Meta(description="The number that is archived.", examples=[0])]
