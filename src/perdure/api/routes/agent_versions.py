"""Routes of agents' versions."""

from __future__ import annotations

from msgspec import Struct

from perdure.api.kernel.http import Call, Route
from perdure.api.routes.agents import agent_reference
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
from perdure.domain.ids import Prefix

_IDS: dict[str, Prefix] = {"version_id": "agentver"}
_PAIR: dict[str, Prefix] = {"from_version_id": "agentver", "to_version_id": "agentver"}


class ListAgentVersions(Struct, frozen=True):
    """Query of the list of versions."""

    offset: Offset = 0
    limit: Limit = 50


async def list_agent_versions(call: Call) -> tuple[AgentVersion, ...]:
    query: ListAgentVersions = call.query
    return await use.all_versions(call.app, call.caller, agent_reference(call), query.offset, query.limit)


async def create_agent_version(call: Call) -> AgentVersion:
    return await use.create_version(call.app, call.caller, agent_reference(call), call.body)


async def set_default_agent_version(call: Call) -> Agent:
    return await use.set_default_version(call.app, call.caller, agent_reference(call), call.body)


async def diff_agent_versions(call: Call) -> AgentVersionDiff:
    pair = call.params["from_version_id"], call.params["to_version_id"]
    return await use.diff_versions(call.app, call.caller, agent_reference(call), *pair)


async def fork_agent_version(call: Call) -> Agent:
    return await use.fork_version(
        call.app, call.caller, agent_reference(call), call.params["version_id"], call.body
    )


async def rollback_agent_version(call: Call) -> Agent:
    return await use.roll_back(
        call.app, call.caller, agent_reference(call), call.params["version_id"], call.body
    )


_ALL = "/v1/agents/{agent_id}/versions"
_ONE = _ALL + "/{version_id}"
_VERSION = "agentver_0192f0c1b2a37b5c8d4e5f60718293a4"

ROUTES = (
    Route("GET", _ALL, "list_agent_versions", "List an agent's versions, newest first", "agents", list_agent_versions,
          query=ListAgentVersions, returns=tuple[AgentVersion, ...], errors=(404,)),
    Route("POST", _ALL, "create_agent_version", "Keep the agent as it is now as a version", "agents", create_agent_version,
          body=CreateAgentVersion, body_example={"change_kind": "minor", "summary": "Knows about refunds"}, returns=AgentVersion,
          errors=(404,)),
    Route("POST", _ALL + "/default", "set_default_agent_version", "Choose the version that new sessions run", "agents",
          set_default_agent_version, body=SetDefaultAgentVersion, body_example={"version_id": _VERSION}, returns=Agent,
          errors=(404,)),
    Route("GET", _ALL + "/{from_version_id}/diff/{to_version_id}", "diff_agent_versions", "Compare two versions", "agents",
          diff_agent_versions, ids=_PAIR, returns=AgentVersionDiff, errors=(404,)),
    Route("POST", _ONE + "/fork", "fork_agent_version", "Make a new agent that begins as this version", "agents",
          fork_agent_version, ids=_IDS, body=ForkAgentVersion, body_example={"name": "support-desk-uk"}, returns=Agent,
          errors=(404, 409)),
    Route("POST", _ONE + "/rollback", "rollback_agent_version", "Set the agent back to this version", "agents",
          rollback_agent_version, ids=_IDS, body=RollbackAgentVersion, body_example={"summary": "The new prompt was worse"},
          returns=Agent, errors=(404,)),
)  # fmt: skip
