"""Routes of agents."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from perdure.api.kernel.call import Answer, Call, Reply
from perdure.api.kernel.route import route
from perdure.api.routes.sessions import Limit, Offset
from perdure.app import agent_files as use_files
from perdure.app import agents as use
from perdure.app import previews as use_previews
from perdure.domain.agent_files import MAX_FILE
from perdure.domain.agents import Agent, CreateAgent, UpdateAgent
from perdure.domain.ids import AgentId, AgentRef, check_id
from perdure.domain.paging import Page
from perdure.domain.previews import AgentPreview, Analysis, PreviewAgent
from perdure.domain.resources import Name, NameCheck, ResourceConfig, ResourceStats, policies_of

Search = Annotated[str, Meta(max_length=200)]


class ListAgents(Struct, frozen=True):
    """Query parameters of the list of agents."""

    search: Annotated[
        Search | None,
        Meta(description="Text to find in the name, the display name or the description, case-insensitive."),
    ] = None
    include_archived: Annotated[bool, Meta(description="Whether to include archived agents.")] = False
    offset: Offset = 0
    limit: Limit = 20


class CheckName(Struct, frozen=True):
    """Query parameters of the check of a name."""

    name: Annotated[Name, Meta(description="The name to check: lower-case letters, digits and hyphens.")]
    exclude_id: Annotated[
        str | None, Meta(description="The id of an agent or a harness that may already have the name.")
    ] = None


class FromExample(Struct, frozen=True):
    """Query parameters of the import of an agent."""

    example: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="The name of a built-in example to import. The body is then ignored."),
    ] = field(name="from-example", default=None)


def created(result: tuple[Agent, bool]) -> Answer[Agent]:
    """Build the response for an agent that was created (201) or replaced (200)."""
    agent, is_new = result
    return Answer(agent, 201 if is_new else 200)


_AGENT = {
    "name": "support-desk",
    "system_prompt": "You answer questions about orders.",
    "capabilities": [{"ref": "current_time"}],
}
_FILE = (
    "---\nname: support-desk\ncapabilities:\n- ref: current_time\n---\n\nYou answer questions about orders.\n"
)
_SHAPE = {"system_prompt": "You answer questions about orders.", "capabilities": [{"ref": "current_time"}]}


@route("POST", "/v1/agents", "agents", status=201, other=(200,), errors=(404, 409), body_example=_AGENT)
async def create_agent(call: Call, body: CreateAgent) -> Answer[Agent]:
    """Create or replace an agent.

    If an agent with this `id` or `name` exists, it is replaced (200). Otherwise, a new agent is created
    (201).
    """
    return created(await use.create_agent(call.app, call.caller, body, once=call.once))


@route(
    "PUT", "/v1/agents/{agent_id}", "agents", status=201, other=(200,), errors=(404, 409), body_example=_AGENT
)
async def upsert_agent(call: Call, agent_id: AgentId, body: CreateAgent) -> Answer[Agent]:
    """Create or replace the agent with this id.

    If the agent exists, it is replaced (200). Otherwise, it is created with this id (201).
    """
    return created(await use.create_agent(call.app, call.caller, body, agent_id))


@route("GET", "/v1/agents", "agents")
async def list_agents(call: Call, query: ListAgents) -> Page[Agent]:
    """List agents, newest first.

    Archived agents are included only with `include_archived`.
    """
    return await use.page_of_agents(
        call.app, call.caller, query.search or None, query.include_archived, query.offset, query.limit
    )


@route("GET", "/v1/agents/{agent_id}", "agents", errors=(404,), etag=True)
async def get_agent(call: Call, agent_id: AgentRef) -> Agent:
    """Get an agent.

    `agent_id` may be the agent's id or its name.
    """
    return await use.read_agent(call.app, call.caller, agent_id)


@route(
    "PATCH",
    "/v1/agents/{agent_id}",
    "agents",
    errors=(404, 409, 412),
    body_example={"description": "First level support"},
    etag=True,
)
async def update_agent(call: Call, agent_id: AgentRef, body: UpdateAgent) -> Agent:
    """Update an agent.

    Omitted fields keep their values; `null` clears an optional field.
    """
    return await use.change_agent(call.app, call.caller, agent_id, body, call.if_match)


@route("DELETE", "/v1/agents/{agent_id}", "agents", errors=(404,))
async def delete_agent(call: Call, agent_id: AgentRef) -> None:
    """Archive an agent.

    The agent disappears from lists, and no sessions can be created with it. Its existing sessions fail at
    their next step with an error that names the reason. To restore the agent, `PATCH` it with the status
    `active`.
    """
    await use.archive_agent(call.app, call.caller, agent_id)


@route("POST", "/v1/agents/{agent_id}/copy", "agents", status=201, errors=(404, 409))
async def copy_agent(call: Call, agent_id: AgentRef) -> Agent:
    """Copy an agent.

    The copy gets the next free name that ends in `-copy`, and its own versions.
    """
    return await use.copy_agent(call.app, call.caller, agent_id, call.once)


@route("GET", "/v1/agents/{agent_id}/export", "agents", errors=(404,), content="text/markdown", example=_FILE)
async def export_agent(call: Call, agent_id: AgentRef) -> Reply:
    """Export an agent as a Markdown file.

    The prompt is the body, and the other fields are YAML front matter. `import_agent` accepts the file.
    """
    name, text = await use_files.export_agent(call.app, call.caller, agent_id)
    disposition = (b"content-disposition", f'attachment; filename="{name}.md"'.encode())
    return Reply(text.encode(), content_type=b"text/markdown; charset=utf-8", headers=(disposition,))


@route(
    "POST",
    "/v1/agents/import",
    "agents",
    status=201,
    other=(200,),
    errors=(404, 409),
    body_example=_FILE,
    body_limit=MAX_FILE,
)
async def import_agent(call: Call, query: FromExample, body: str) -> Answer[Agent]:
    """Import an agent from a file or an example.

    The body is Markdown with YAML front matter, a YAML or JSON document, or just a prompt. Its content type
    is always `text/markdown`; with an access token, it may also be `text/plain`. If an agent of that name
    exists, it is replaced (200); otherwise, a new one is created (201). With `from-example` the body is
    ignored.
    """
    if query.example is not None:
        return created(await use_files.import_agent_example(call.app, call.caller, query.example, call.once))
    return created(await use_files.import_agent(call.app, call.caller, body, call.once))


@route("POST", "/v1/agents/preview", "agents", errors=(404,), body_example=_SHAPE)
async def preview_agent(call: Call, body: PreviewAgent) -> AgentPreview:
    """Preview an agent as the model would see it.

    Returns the assembled prompt and the tools. Stores nothing.
    """
    return await use_previews.preview_agent(call.app, call.caller, body)


@route("POST", "/v1/agents/analyze", "agents", errors=(404,), body_example=_SHAPE)
async def analyze_agent(call: Call, body: PreviewAgent) -> Analysis:
    """Check an agent's configuration for problems.

    Applies fixed rules. Calls no model and stores nothing.
    """
    return await use_previews.analyze_agent(call.app, call.caller, body)


@route("GET", "/v1/agents/check-name", "agents")
async def check_agent_name(call: Call, query: CheckName) -> NameCheck:
    """Check whether an agent's name is free.

    400 if the name is malformed. A free name is not reserved: another client can take it at any time.
    """
    exclude_id = None if query.exclude_id is None else check_id(query.exclude_id, "agent", "exclude_id")
    return await use.check_agent_name(call.app, call.caller, query.name, exclude_id)


@route("GET", "/v1/agents/config", "agents")
async def agent_config(call: Call) -> ResourceConfig:
    """Get the caller's permissions on agents.

    This depends on the caller's role in the organization.
    """
    return policies_of(call.caller.role, "agent")


@route("GET", "/v1/agents/{agent_id}/stats", "agents", errors=(404,))
async def get_agent_stats(call: Call, agent_id: AgentRef) -> ResourceStats:
    """Get usage statistics of an agent.

    Covers all its sessions that have not been deleted.
    """
    return await use.agent_stats(call.app, call.caller, agent_id)


ROUTES = (
    create_agent,
    list_agents,
    analyze_agent,
    check_agent_name,
    agent_config,
    import_agent,
    preview_agent,
    get_agent,
    upsert_agent,
    update_agent,
    delete_agent,
    copy_agent,
    export_agent,
    get_agent_stats,
)
