"""The capability of an MCP server."""

from __future__ import annotations

from functools import partial
from typing import Any

from perdure.app.context import Services
from perdure.app.session_skills import KnownSkills
from perdure.capabilities.port import Capability, Discovered, DiscoveryContext, Tool
from perdure.domain.mcp_servers import INLINE, MCP_REF
from perdure.domain.messages import JsonObject
from perdure.net.mcp.lazy import LazyHosts
from perdure.tools.mcp.calls import Reach
from perdure.tools.mcp.discovery import find_tools, restored_tool
from perdure.tools.mcp.seen import Seen
from perdure.tools.skills import skill_tools

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


class Servers:
    """Makes the capabilities of servers. Create one per process.

    Args:
        hosts: reaches the servers.
    """

    def __init__(self, services: Services, hosts: LazyHosts) -> None:
        self._seen = Seen(hosts)
        skills = skill_tools(services, KnownSkills(), {})
        self._reach = Reach(services, hosts, self._seen.changed, skills)

    def registered(self, server_id: str) -> Capability:
        """The capability of a registered server."""
        return _capability(self._reach, self._seen, f"{MCP_REF}{server_id}", server_id, CONFIG)

    def inline(self, name: str) -> Capability:
        """The capability of an inline server, by its name."""
        return _capability(self._reach, self._seen, f"{INLINE}{name}", name, None)


def _capability(
    reach: Reach, seen: Seen, identifier: str, name: str, config_schema: JsonObject | None
) -> Capability:
    async def discover(config: Any, context: DiscoveryContext) -> Discovered:
        return await find_tools(reach, seen, identifier, config, context)

    def restore(config: Any, tool: Tool) -> Tool:
        return restored_tool(reach, identifier, config, tool)

    return Capability(
        id=identifier,
        name=name,
        description="The tools of an MCP server.",
        category="mcp",
        config_schema=config_schema,
        discover=discover,
        needs_database=True,
        discovery_key=partial(seen.key, identifier),
        restore=restore,
    )
