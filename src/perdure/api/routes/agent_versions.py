"""Routes of the versions of agents."""

from __future__ import annotations

from msgspec import Struct

from perdure.api.kernel.call import Call, Chunked, json_array
from perdure.api.kernel.route import route
from perdure.api.routes.sessions import Limit, Offset
from perdure.app import agent_versions as use
from perdure.domain.agent_versions import (
    AgentVersion,
    AgentVersionDiff,
    CreateAgentVersion,
    ForkAgentVersion,
    RollbackAgentVersion,
    SetDefaultAgentVersion,
)
from perdure.domain.agents import Agent
from perdure.domain.ids import AgentRef, AgentVersionId


class ListAgentVersions(Struct, frozen=True):
    """Query parameters of the list of versions."""

    offset: Offset = 0
    limit: Limit = 50


_VERSION = "agentver_0192f0c1b2a37b5c8d4e5f60718293a4"


@route("GET", "/v1/agents/{agent_id}/versions", "agents", errors=(404,))
async def list_agent_versions(
    call: Call, agent_id: AgentRef, query: ListAgentVersions
) -> Chunked[tuple[AgentVersion, ...]]:
    """List an agent's versions, newest first.

    Every change to an agent's configuration creates a version. The list leaves out `initial_files`: compare
    two versions, or fork one, to see them.
    """
    return Chunked(json_array(use.all_versions(call.app, call.caller, agent_id, query.offset, query.limit)))


@route(
    "POST",
    "/v1/agents/{agent_id}/versions",
    "agents",
    errors=(404,),
    body_example={"change_kind": "minor", "summary": "Knows about refunds"},
)
async def create_agent_version(call: Call, agent_id: AgentRef, body: CreateAgentVersion) -> AgentVersion:
    """Save the agent's current configuration as a version.

    The version gets your summary and the next version number. `change_kind` sets which part of the number
    increases: `major`, `minor`, or the last part for all other kinds.
    """
    return await use.create_version(call.app, call.caller, agent_id, body)


@route(
    "POST",
    "/v1/agents/{agent_id}/versions/default",
    "agents",
    errors=(404,),
    body_example={"version_id": _VERSION},
)
async def set_default_agent_version(call: Call, agent_id: AgentRef, body: SetDefaultAgentVersion) -> Agent:
    """Set the version that new sessions use.

    New sessions use this version even if the agent changes later. `null` makes new sessions follow the agent
    again. Existing sessions do not change.
    """
    return await use.set_default_version(call.app, call.caller, agent_id, body)


@route(
    "GET", "/v1/agents/{agent_id}/versions/{from_version_id}/diff/{to_version_id}", "agents", errors=(404,)
)
async def diff_agent_versions(
    call: Call, agent_id: AgentRef, from_version_id: AgentVersionId, to_version_id: AgentVersionId
) -> AgentVersionDiff:
    """Compare two versions of an agent.

    Returns JSON Patches (RFC 6902) that convert the first version into the second.
    """
    return await use.diff_versions(call.app, call.caller, agent_id, from_version_id, to_version_id)


@route(
    "POST",
    "/v1/agents/{agent_id}/versions/{version_id}/fork",
    "agents",
    errors=(404, 409),
    body_example={"name": "support-desk-uk"},
)
async def fork_agent_version(
    call: Call, agent_id: AgentRef, version_id: AgentVersionId, body: ForkAgentVersion
) -> Agent:
    """Create an agent from a version of another agent.

    The new agent starts with the version's configuration and records its origin.
    """
    return await use.fork_version(call.app, call.caller, agent_id, version_id, body)


@route(
    "POST",
    "/v1/agents/{agent_id}/versions/{version_id}/rollback",
    "agents",
    errors=(404,),
    body_example={"summary": "The new prompt was worse"},
)
async def rollback_agent_version(
    call: Call, agent_id: AgentRef, version_id: AgentVersionId, body: RollbackAgentVersion
) -> Agent:
    """Restore a version of an agent.

    Restores the configuration, but not the name or the status. Creates a new version, unless `save_version`
    is false.
    """
    return await use.roll_back(call.app, call.caller, agent_id, version_id, body)


ROUTES = (
    list_agent_versions,
    create_agent_version,
    set_default_agent_version,
    diff_agent_versions,
    fork_agent_version,
    rollback_agent_version,
)
