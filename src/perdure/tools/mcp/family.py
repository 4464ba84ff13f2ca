"""MCP servers as capabilities: `mcp:{server_id}` for registered ones, `mcp_inline:{name}` for inline ones."""

from __future__ import annotations

from typing import Any

from perdure.app.context import Services
from perdure.capabilities.port import Capability, Discovered, DiscoveryContext, Tool
from perdure.capabilities.registry import Family
from perdure.domain.ids import is_id
from perdure.domain.mcp_servers import INLINE, MCP_REF
from perdure.domain.messages import JsonObject
from perdure.net.mcp.lazy import LazyHosts
from perdure.tools.mcp.calls import Reach
from perdure.tools.mcp.discovery import find_tools, restored_tool
from perdure.tools.mcp.seen import Seen

CONFIG: JsonObject = {
    "type": "object",
    "properties": {
        "acts_as": {
            "enum": ["none", "service", "user", "user_or_service"],
            "description": "Under whose identity calls are made.",
        },
        "connect_in_chat": {
            "enum": ["ask", "never"],
            "description": "Whether a missing sign-in is asked for in the session.",
        },
        "deferred": {
            "type": "boolean",
            "description": "Whether the model finds the tools by a search instead of being offered all.",
        },
    },
    "additionalProperties": False,
}
"""The configuration of a registered server's attachment."""


def mcp_families(services: Services, hosts: LazyHosts) -> tuple[Family, ...]:
    """Create the families of MCP servers' capabilities.

    Args:
        hosts: reaches the servers.
    """
    seen = Seen(hosts)
    reach = Reach(services, hosts, seen.changed)

    def registered(rest: str) -> Capability | None:
        return _capability(reach, seen, f"{MCP_REF}{rest}", rest, CONFIG) if is_id(rest, "mcp") else None

    def inline(rest: str) -> Capability | None:
        return _capability(reach, seen, f"{INLINE}{rest}", rest, None) if rest else None

    return Family(MCP_REF, registered), Family(INLINE, inline, public=False)


def _capability(
    reach: Reach, seen: Seen, identifier: str, name: str, config_schema: JsonObject | None
) -> Capability:
    async def discover(config: Any, context: DiscoveryContext) -> Discovered:
        return await find_tools(reach, seen, identifier, config, context)

    def restore(config: Any, tool: Tool) -> Tool:
        return restored_tool(reach, identifier, config, tool)

    def key(config: Any, context: DiscoveryContext) -> str:
        return seen.key(identifier, context, config)

    return Capability(
        id=identifier,
        name=name,
        description="The tools of an MCP server.",
        category="mcp",
        config_schema=config_schema,
        discover=discover,
        needs_database=True,
        discovery_key=key,
        restore=restore,
    )
