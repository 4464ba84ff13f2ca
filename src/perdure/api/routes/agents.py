"""Routes of agents."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct, field

from perdure.api.kernel.http import Call, Reply, Route
from perdure.api.kernel.problems import encode
from perdure.api.routes.sessions import Limit, Offset
from perdure.app import agent_files as use_files
from perdure.app import agents as use
from perdure.app import previews as use_previews
from perdure.domain.agent_files import MAX_FILE
from perdure.domain.agents import Agent, CreateAgent, UpdateAgent
from perdure.domain.errors import InvalidId
from perdure.domain.ids import Prefix, check_id, is_id
from perdure.domain.paging import Page
from perdure.domain.previews import AgentPreview, Analysis, PreviewAgent
from perdure.domain.resources import Name, NameCheck, ResourceConfig, ResourceStats, policies_of

Search = Annotated[str, Meta(max_length=200)]


class ListAgents(Struct, frozen=True):
    """Query of the list of agents."""

    search: Annotated[
        Search | None,
        Meta(description="Text to find in the name, the display name or the description, case-insensitive."),
    ] = None
    include_archived: Annotated[bool, Meta(description="Whether to include archived agents.")] = False
    offset: Offset = 0
    limit: Limit = 20


class CheckName(Struct, frozen=True):
    """Query of the check of a name."""

    name: Annotated[Name, Meta(description="The name to check: lower-case letters, digits and hyphens.")]
    exclude_id: Annotated[
        str | None, Meta(description="The id of an agent or a harness that may already have the name.")
    ] = None


class FromExample(Struct, frozen=True):
    """Query of the import of an agent."""

    example: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="The name of a built-in example to import. The body is then ignored."),
    ] = field(name="from-example", default=None)


_REFERENCE = re.compile(r"[a-z0-9-]{1,64}")


def reference(call: Call, name: str, prefix: Prefix) -> str:
    """An id or a name in the path.

    A text with anything but small letters, digits and hyphens can only be a broken id.
    """
    text = call.params[name]
    if is_id(text, prefix) or _REFERENCE.fullmatch(text):
        return text
    raise InvalidId(prefix, name)


def agent_reference(call: Call) -> str:
    """The agent's id or name in the path."""
    return reference(call, "agent_id", "agent")


def created(made: tuple[Agent, bool]) -> Reply:
    """An agent that was made (201), or was there (200)."""
    agent, is_new = made
    return Reply(encode(agent), 201 if is_new else 200)


async def create_agent(call: Call) -> Reply:
    return created(await use.create_agent(call.app, call.caller, call.body))


async def upsert_agent(call: Call) -> Reply:
    return created(await use.create_agent(call.app, call.caller, call.body, call.params["agent_id"]))


async def list_agents(call: Call) -> Page[Agent]:
    query: ListAgents = call.query
    return await use.page_of_agents(
        call.app, call.caller, query.search or None, query.include_archived, query.offset, query.limit
    )


async def get_agent(call: Call) -> Agent:
    return await use.read_agent(call.app, call.caller, agent_reference(call))


async def update_agent(call: Call) -> Agent:
    return await use.change_agent(call.app, call.caller, agent_reference(call), call.body, call.if_match)


async def delete_agent(call: Call) -> None:
    await use.archive_agent(call.app, call.caller, agent_reference(call))


async def copy_agent(call: Call) -> Agent:
    return await use.copy_agent(call.app, call.caller, agent_reference(call))


async def export_agent(call: Call) -> Reply:
    name, text = await use_files.export_agent(call.app, call.caller, agent_reference(call))
    disposition = (b"content-disposition", f'attachment; filename="{name}.md"'.encode())
    return Reply(text.encode(), content_type=b"text/markdown; charset=utf-8", headers=(disposition,))


async def import_agent(call: Call) -> Reply:
    query: FromExample = call.query
    if query.example is not None:
        return created(await use_files.import_agent_example(call.app, call.caller, query.example))
    return created(await use_files.import_agent(call.app, call.caller, call.body))


async def preview_agent(call: Call) -> AgentPreview:
    return await use_previews.preview_agent(call.app, call.caller, call.body)


async def analyze_agent(call: Call) -> Analysis:
    return await use_previews.analyze_agent(call.app, call.caller, call.body)


async def check_agent_name(call: Call) -> NameCheck:
    query: CheckName = call.query
    if query.exclude_id is not None:
        check_id(query.exclude_id, "agent", "exclude_id")
    return await use.check_agent_name(call.app, call.caller, query.name, query.exclude_id)


async def agent_config(call: Call) -> ResourceConfig:
    return policies_of(call.caller.role, "agent")


async def get_agent_stats(call: Call) -> ResourceStats:
    return await use.agent_stats(call.app, call.caller, agent_reference(call))


_AGENT = {
    "name": "support-desk",
    "system_prompt": "You answer questions about orders.",
    "capabilities": [{"ref": "current_time"}],
}
_FILE = (
    "---\nname: support-desk\ncapabilities:\n- ref: current_time\n---\n\nYou answer questions about orders.\n"
)
_SHAPE = {"system_prompt": "You answer questions about orders.", "capabilities": [{"ref": "current_time"}]}
_ONE = "/v1/agents/{agent_id}"

ROUTES = (
    Route("POST", "/v1/agents", "create_agent", "Create an agent, or update the one with this id or name", "agents", create_agent,
          body=CreateAgent, body_example=_AGENT, returns=Agent, status=201, other=(200,), errors=(404, 409)),
    Route("GET", "/v1/agents", "list_agents", "List agents, newest first", "agents", list_agents, query=ListAgents,
          returns=Page[Agent]),
    Route("POST", "/v1/agents/analyze", "analyze_agent", "Say what is worth a second look in an agent", "agents", analyze_agent,
          body=PreviewAgent, body_example=_SHAPE, returns=Analysis, errors=(404,)),
    Route("GET", "/v1/agents/check-name", "check_agent_name", "Say whether a name is free", "agents", check_agent_name,
          query=CheckName, returns=NameCheck),
    Route("GET", "/v1/agents/config", "agent_config", "Say what the caller may do with agents", "agents", agent_config,
          returns=ResourceConfig),
    Route("POST", "/v1/agents/import", "import_agent", "Make an agent from a file or an example", "agents", import_agent,
          query=FromExample, text_limit=MAX_FILE, body_example=_FILE, returns=Agent, status=201, other=(200,), errors=(404, 409)),
    Route("POST", "/v1/agents/preview", "preview_agent", "Show what the model would get of an agent", "agents", preview_agent,
          body=PreviewAgent, body_example=_SHAPE, returns=AgentPreview, errors=(404,)),
    Route("GET", _ONE, "get_agent", "Get an agent by id or name", "agents", get_agent, returns=Agent, errors=(404,), etag=True),
    Route("PUT", _ONE, "upsert_agent", "Create or replace the agent with this id", "agents", upsert_agent,
          ids={"agent_id": "agent"}, body=CreateAgent, body_example=_AGENT, returns=Agent, status=201, other=(200,),
          errors=(404, 409)),
    Route("PATCH", _ONE, "update_agent", "Change an agent; fields that are left out stay", "agents", update_agent,
          body=UpdateAgent, body_example={"description": "First level support"}, returns=Agent, errors=(404, 409, 412), etag=True),
    Route("DELETE", _ONE, "delete_agent", "Archive an agent", "agents", delete_agent, status=204, errors=(404,)),
    Route("POST", _ONE + "/copy", "copy_agent", "Copy an agent", "agents", copy_agent, returns=Agent, status=201,
          errors=(404, 409)),
    Route("GET", _ONE + "/export", "export_agent", "Get an agent as Markdown with front matter", "agents", export_agent,
          content="text/markdown", example=_FILE, errors=(404,)),
    Route("GET", _ONE + "/stats", "get_agent_stats", "Count what an agent's sessions come to", "agents", get_agent_stats,
          returns=ResourceStats, errors=(404,)),
)  # fmt: skip
