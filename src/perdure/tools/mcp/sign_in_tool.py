"""The tool that stands for those of a server which lists them only after a sign-in."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.mcp_attached import Attached, endpoint_of
from perdure.capabilities.port import READ_ONLY, Discovered, Later, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.mcp import McpUnauthorized
from perdure.domain.mcp_servers import tool_name_of
from perdure.domain.messages import JsonObject
from perdure.tools.mcp.calls import Reach
from perdure.tools.mcp.consent import after_challenge, asks_in_chat, authorization_for

_ORIGIN: JsonObject = {"tool": "", "sign_in": True}
LIST_TIMEOUT = 30.0
"""Seconds for finding out whether the server accepts the sign-in."""


class _SignIn(Struct, frozen=True):
    """Waits for a sign-in, and has the server's tools listed then."""

    reach: Reach
    capability_id: str
    config: Any

    async def __call__(self, context: ToolContext, arguments: JsonObject) -> ToolOutcome | Later:
        reach = self.reach
        server, secrets = await reach.read(context, self.capability_id, self.config)
        may_park = asks_in_chat(self.config)
        found = await authorization_for(reach.services, context, server.sign_in, may_park=may_park)
        while not isinstance(found, Later):
            try:
                endpoint = found.on(endpoint_of(server, secrets, context.network))
                await reach.hosts.hosts().offer(endpoint, timeout=LIST_TIMEOUT)
                break
            except McpUnauthorized as error:
                found = await after_challenge(
                    reach.services, context, server.sign_in, error, found, may_park=may_park
                )
        if isinstance(found, Later):
            return found
        reach.changed(context.org_id, self.capability_id)
        return ToolOutcome(f"Signed in at {server.name}. Its tools are available from now on.")


def sign_in_needed(reach: Reach, server: Attached, config: Any) -> Discovered:
    """What is found of a server before somebody has signed in: a tool that waits for it."""
    tool = Tool(
        name=tool_name_of(server.slug, "sign_in"),
        description=(
            f"Ask the user to sign in at the MCP server {server.name!r}. Its tools are available after that. "
            "Call this when the user wants something that needs the server."
        ),
        parameters=schema({}),
        run=_SignIn(reach, server.capability_id, config),
        hints=READ_ONLY,
        display_name=f"Sign in at {server.name}",
        timeout=server.rules.tool_timeout_ms / 1000,
        origin=_ORIGIN,
    )
    return Discovered("", (tool,), server.name)


def is_sign_in(tool: Tool) -> bool:
    """Whether a stored tool is such a tool."""
    return tool.origin is not None and tool.origin.get("sign_in") is True


def restored_sign_in(reach: Reach, capability_id: str, config: Any, tool: Tool) -> Tool:
    """Return such a tool with its function."""
    return replace(tool, run=_SignIn(reach, capability_id, config))
