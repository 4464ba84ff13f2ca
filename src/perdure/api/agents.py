"""Routes of agents, harnesses and capabilities."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.http import Call, Reply, Route
from perdure.api.problems import encode
from perdure.api.sessions import Limit, Offset
from perdure.app import agents as use
from perdure.app import capabilities as use_capabilities
from perdure.app import harnesses as use_harnesses
from perdure.domain.agents import Agent, CreateAgent, UpdateAgent
from perdure.domain.capabilities import CapabilityInfo
from perdure.domain.harnesses import CreateHarness, Harness
from perdure.domain.errors import InvalidId
from perdure.domain.ids import Prefix, check_id, is_id
from perdure.domain.links import Listing, Page

Search = Annotated[str, Meta(max_length=200)]


class ListAgents(Struct, frozen=True):
    """Query of the list of agents."""

    search: Search | None = None
    include_archived: bool = False
    offset: Offset = 0
    limit: Limit = 20


class ListHarnesses(Struct, frozen=True):
    """Query of the list of harnesses."""

    search: Search | None = None
    include_archived: bool = False


class ListCapabilities(Struct, frozen=True):
    """Query of the list of capabilities."""

    search: Search | None = None
    offset: Offset = 0
    limit: Annotated[int, Meta(ge=1, le=100)] = 100


def reference(call: Call, name: str, prefix: Prefix) -> str:
    """An id or a name in the path. A text with an underscore can only be a broken id."""
    text = call.params[name]
    if is_id(text, prefix) or (text.replace("-", "").isalnum() and text.islower() and text.isascii() and len(text) <= 64):
        return text
    if text.replace("-", "").isdigit() and len(text) <= 64:
        return text
    raise InvalidId(prefix, name)


async def create_agent(call: Call) -> Reply:
    agent, is_new = await use.create_agent(call.app, call.caller, call.body)
    return Reply(encode(agent), 201 if is_new else 200)


async def upsert_agent(call: Call) -> Reply:
    agent_id = check_id(call.params["agent_id"], "agent", "agent_id")
    agent, is_new = await use.create_agent(call.app, call.caller, call.body, agent_id)
    return Reply(encode(agent), 201 if is_new else 200)


async def list_agents(call: Call) -> Page[Agent]:
    query: ListAgents = call.query
    return await use.page_of_agents(call.app, call.caller, query.search or None, query.include_archived, query.offset, query.limit)


async def get_agent(call: Call) -> Agent:
    return await use.read_agent(call.app, call.caller, reference(call, "agent_id", "agent"))


async def update_agent(call: Call) -> Agent:
    return await use.change_agent(call.app, call.caller, reference(call, "agent_id", "agent"), call.body)


async def delete_agent(call: Call) -> None:
    await use.archive_agent(call.app, call.caller, reference(call, "agent_id", "agent"))


async def create_harness(call: Call) -> Harness:
    return await use_harnesses.create_harness(call.app, call.caller, call.body)


async def list_harnesses(call: Call) -> Listing[Harness]:
    query: ListHarnesses = call.query
    return Listing(tuple(await use_harnesses.all_harnesses(call.app, call.caller, query.search or None, query.include_archived)))


async def get_harness(call: Call) -> Harness:
    return await use_harnesses.read_harness(call.app, call.caller, reference(call, "harness_id", "harness"))


async def list_capabilities(call: Call) -> Page[CapabilityInfo]:
    query: ListCapabilities = call.query
    return use_capabilities.page_of_capabilities(call.app, query.search, query.offset, query.limit)


async def get_capability(call: Call) -> CapabilityInfo:
    return use_capabilities.read_capability(call.app, call.params["capability_id"])


_AGENT = {"name": "support-desk", "system_prompt": "You answer questions about orders.", "capabilities": [{"ref": "current_time"}]}
_HARNESS = {"name": "support", "system_prompt": "Answer briefly.", "capabilities": [{"ref": "session_file_system"}]}

ROUTES = (
    Route("POST", "/v1/agents", "create_agent", "Create an agent, or update the one with this id or name", "agents", create_agent,
          body=CreateAgent, body_example=_AGENT, returns=Agent, status=201, other=(200,), errors=(404, 409)),
    Route("GET", "/v1/agents", "list_agents", "List agents, newest first", "agents", list_agents, query=ListAgents,
          returns=Page[Agent]),
    Route("GET", "/v1/agents/{agent_id}", "get_agent", "Get an agent by id or name", "agents", get_agent, returns=Agent,
          errors=(404,)),
    Route("PUT", "/v1/agents/{agent_id}", "upsert_agent", "Create or replace the agent with this id", "agents", upsert_agent,
          ids={"agent_id": "agent"}, body=CreateAgent, body_example=_AGENT, returns=Agent, status=201, other=(200,), errors=(404, 409)),
    Route("PATCH", "/v1/agents/{agent_id}", "update_agent", "Change an agent; fields that are left out stay", "agents", update_agent,
          body=UpdateAgent, body_example={"description": "First level support"}, returns=Agent, errors=(404, 409)),
    Route("DELETE", "/v1/agents/{agent_id}", "delete_agent", "Archive an agent", "agents", delete_agent, status=204, errors=(404,)),
    Route("POST", "/v1/harnesses", "create_harness", "Create a harness", "harnesses", create_harness, body=CreateHarness,
          body_example=_HARNESS, returns=Harness, status=201, errors=(404, 409)),
    Route("GET", "/v1/harnesses", "list_harnesses", "List harnesses", "harnesses", list_harnesses, query=ListHarnesses,
          returns=Listing[Harness]),
    Route("GET", "/v1/harnesses/{harness_id}", "get_harness", "Get a harness by id or name", "harnesses", get_harness,
          returns=Harness, errors=(404,)),
    Route("GET", "/v1/capabilities", "list_capabilities", "List capabilities", "capabilities", list_capabilities,
          query=ListCapabilities, returns=Page[CapabilityInfo]),
    Route("GET", "/v1/capabilities/{capability_id}", "get_capability", "Get a capability by id or alias", "capabilities",
          get_capability, returns=CapabilityInfo, errors=(404,)),
)  # fmt: skip
