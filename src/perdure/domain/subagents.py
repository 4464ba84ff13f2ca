"""What an agent may begin: the configuration of the capability `subagents`."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.ids import AgentId, AgentVersionId, HarnessId
from perdure.domain.outputs import OutputSchema
from perdure.domain.tasks import MAX_DEPTH, MAX_OPEN, MAX_TIME_LIMIT, TIME_LIMIT
from perdure.domain.tools import CapabilityRef

SUBAGENTS = "subagents"
"""The id of the capability."""


class Blueprint(Struct, frozen=True):
    """A prepared kind of sub-agent.

    Attributes:
        agent: the id or name of its agent; None for the parent's.
        system_prompt, max_iterations: take the place of those that the parent's session sets.
        capabilities: in addition to the agent's.
    """

    description: str
    agent: str | None = None
    system_prompt: str | None = None
    model_id: str | None = None
    capabilities: tuple[CapabilityRef, ...] = ()
    max_iterations: int | None = None
    output_schema: OutputSchema | None = None


class Subagents(Struct, frozen=True):
    """The configuration.

    Attributes:
        agents: ids or names of the agents that the model may choose.
        time_limit: seconds; the limit of tasks that set none, and the longest one. None: the server's.
    """

    agents: tuple[str, ...] = ()
    blueprints: dict[str, Blueprint] = {}
    max_depth: int = MAX_DEPTH
    max_open: int = MAX_OPEN
    time_limit: float | None = None

    @property
    def usual_time(self) -> float:
        """The seconds of a task that sets no limit."""
        return self.time_limit or TIME_LIMIT

    @property
    def longest(self) -> float:
        """The longest time limit that a task may set, in seconds."""
        return self.time_limit or MAX_TIME_LIMIT


def subagents_of(config: Any) -> Subagents:
    """Read a configuration, which its schema has been checked against. An unreadable one allows nothing."""
    try:
        read = msgspec.convert(config or {}, Subagents)
    except msgspec.ValidationError:
        return Subagents()
    return replace(read, agents=tuple(sorted(set(read.agents))))


class Inheritance(Struct, frozen=True, omit_defaults=True):
    """The policies of a session that bind the sub-agents below it, whatever agents they have.

    Attributes:
        harness_id, agent_id, agent_version_id: of that session. Their policies apply as they are at the time.
        capabilities: of that session's own settings.
        allowed, blocked: the hosts of its own settings.
        gated: the tools for which its own settings require approval.
        max_depth: how deep the tree may be.
    """

    harness_id: HarnessId
    agent_id: AgentId | None = None
    agent_version_id: AgentVersionId | None = None
    capabilities: tuple[CapabilityRef, ...] = ()
    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    gated: tuple[str, ...] = ()
    max_depth: int = MAX_DEPTH
