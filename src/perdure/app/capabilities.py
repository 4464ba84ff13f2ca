"""The capabilities of this server."""

from __future__ import annotations

from perdure.app.context import App
from perdure.app.mcp_servers import all_servers, read_server
from perdure.app.skills import all_skills, read_one
from perdure.capabilities.port import Capability
from perdure.domain.accounts import Caller
from perdure.domain.capabilities import CapabilityInfo
from perdure.domain.errors import NotFound
from perdure.domain.ids import McpServerId, SkillId, is_id
from perdure.domain.mcp_servers import MCP_REF, McpServer
from perdure.domain.paging import AllowedAction, Page
from perdure.domain.skills import CONFIG_SCHEMA, SKILL_REF, SKILLS, Skill


async def page_of_capabilities(
    app: App, caller: Caller, search: str | None, offset: int, limit: int
) -> Page[CapabilityInfo]:
    """List a page of capabilities, sorted by id; then MCP servers, and then skills.

    Args:
        search: a text that the id, the name or the description contains.
    """
    text = (search or "").lower()
    matches = [
        each for each in app.registry.all() if text in f"{each.id}\n{each.name}\n{each.description}".lower()
    ]
    servers = await all_servers(app, caller, search, archived=False)
    skills = await all_skills(app, caller, search, archived=False)
    found: list[Capability | McpServer | Skill] = [
        *matches,
        *(each for each in servers if each.status == "active"),
        *(each for each in skills if each.status == "active"),
    ]
    page = tuple(_described(app, each) for each in found[offset : offset + limit])
    return Page(page, len(found), offset, limit)


def _described(app: App, found: Capability | McpServer | Skill) -> CapabilityInfo:
    match found:
        case Capability():
            return to_capability(found)
        case McpServer():
            return _of_server(app, found)
        case Skill():
            return _of_skill(found)


async def read_capability(app: App, caller: Caller, ref: str) -> CapabilityInfo:
    """Read a capability, by id or alias. Raises NotFound."""
    if ref.startswith(SKILL_REF):
        skill_id = ref.removeprefix(SKILL_REF)
        if not is_id(skill_id, "skill"):
            raise NotFound("capability")
        return _of_skill(await read_one(app, caller, SkillId(skill_id)))
    if ref.startswith(MCP_REF):
        server_id = ref.removeprefix(MCP_REF)
        if not is_id(server_id, "mcp"):
            raise NotFound("capability")
        return _of_server(app, await read_server(app, caller, McpServerId(server_id)))
    capability = app.registry.get(ref)
    if capability is None:
        raise NotFound("capability")
    return to_capability(capability)


def _of_server(app: App, server: McpServer) -> CapabilityInfo:
    """Describe an MCP server as a capability. Its tools are found out when a session needs them."""
    identifier = f"{MCP_REF}{server.id}"
    url = f"/v1/capabilities/{identifier}"
    capability = app.registry.get(identifier)
    return CapabilityInfo(
        id=identifier,
        name=server.name,
        description=server.description or f"The tools of the MCP server {server.name}.",
        status="available",
        self_url=url,
        view_url=url,
        ui_link=url,
        features=(),
        dependencies=(),
        category="mcp",
        config_schema=None if capability is None else capability.config_schema,
        is_mcp=True,
        allowed_actions=(
            AllowedAction("self", "GET", url, "get_capability"),
            AllowedAction("server", "GET", server.self_url, "get_mcp_server"),
        ),
    )


def _of_skill(skill: Skill) -> CapabilityInfo:
    """Describe a registered skill as a capability."""
    identifier = f"{SKILL_REF}{skill.id}"
    url = f"/v1/capabilities/{identifier}"
    return CapabilityInfo(
        id=identifier,
        name=skill.name,
        description=skill.description,
        status="available",
        self_url=url,
        view_url=url,
        ui_link=url,
        features=(),
        dependencies=(SKILLS,),
        category="skill",
        config_schema=CONFIG_SCHEMA,
        is_skill=True,
        allowed_actions=(
            AllowedAction("self", "GET", url, "get_capability"),
            AllowedAction("skill", "GET", skill.self_url, "get_skill"),
        ),
    )


def to_capability(capability: Capability) -> CapabilityInfo:
    """Convert a capability to the resource that clients see, with the tools of its default configuration."""
    url = f"/v1/capabilities/{capability.id}"
    tools = tuple(
        {
            "name": tool.name,
            "display_name": tool.display_name,
            "description": tool.description,
            "parameters": tool.parameters,
        }
        for tool in capability.tools(None)
    )
    return CapabilityInfo(
        id=capability.id,
        name=capability.name,
        description=capability.description,
        status="available",
        self_url=url,
        view_url=url,
        ui_link=url,
        features=capability.features,
        dependencies=capability.dependencies,
        category=capability.category,
        aliases=capability.aliases,
        config_schema=capability.config_schema,
        system_prompt=capability.prompt(None),
        tool_definitions=tools,
        is_guardrail=capability.is_guardrail,
        allowed_actions=(AllowedAction("self", "GET", url, "get_capability"),),
    )
