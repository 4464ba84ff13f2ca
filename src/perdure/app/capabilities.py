"""The capabilities of this server."""

from __future__ import annotations

from perdure.app.context import App
from perdure.app.mcp_servers import all_servers, read_server
from perdure.capabilities.port import Capability
from perdure.domain.accounts import Caller
from perdure.domain.capabilities import CapabilityInfo
from perdure.domain.errors import NotFound
from perdure.domain.ids import McpServerId, is_id
from perdure.domain.mcp_servers import MCP_REF, McpServer
from perdure.domain.paging import AllowedAction, Page


async def page_of_capabilities(
    app: App, caller: Caller, search: str | None, offset: int, limit: int
) -> Page[CapabilityInfo]:
    """List a page of capabilities, sorted by id; MCP servers come last.

    Args:
        search: a text that the id, the name or the description contains.
    """
    text = (search or "").lower()
    matches = [
        each for each in app.registry.all() if text in f"{each.id}\n{each.name}\n{each.description}".lower()
    ]
    servers = await all_servers(app, caller, search, archived=False)
    offered = [each for each in servers if each.status == "active"]
    total, first = len(matches) + len(offered), max(0, offset - len(matches))
    page = [to_capability(each) for each in matches[offset : offset + limit]]
    page += [_of_server(app, each) for each in offered[first : first + limit - len(page)]]
    return Page(tuple(page), total, offset, limit)


async def read_capability(app: App, caller: Caller, ref: str) -> CapabilityInfo:
    """Read a capability, by id or alias. Raises NotFound."""
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
