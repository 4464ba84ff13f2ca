"""How MCP servers are reached."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from perdure.app.context import RemoteMcp
from perdure.app.mcp_attached import Attached, target_of
from perdure.domain.local_mcp import LocalMcpServer
from perdure.domain.mcp import McpOffer, McpPrompt, McpPromptMessage
from perdure.domain.network import NetworkRules
from perdure.net.mcp.endpoints import McpEndpoint, McpStdioEndpoint
from perdure.net.mcp.hosts import McpHosts
from perdure.tools.mcp.consent import Authorization


class McpDoor:
    """Asks MCP servers for use cases (`McpSource`)."""

    def __init__(self, hosts: McpHosts) -> None:
        self._hosts = hosts

    async def offer(self, server: RemoteMcp | LocalMcpServer, *, timeout: float) -> McpOffer:
        """List what a server offers, within so many seconds. Raises as `McpHosts.offer` does."""
        return await self._hosts.offer(_endpoint(server), timeout=timeout)

    async def prompts(self, server: RemoteMcp | LocalMcpServer, *, timeout: float) -> tuple[McpPrompt, ...]:
        """List a server's prompts. Raises as `McpHosts.offer` does."""
        return await self._hosts.list_prompts(_endpoint(server), scope="", timeout=timeout)

    async def prompt(
        self,
        server: RemoteMcp | LocalMcpServer,
        *,
        scope: str,
        name: str,
        arguments: Mapping[str, str],
        timeout: float,
    ) -> tuple[McpPromptMessage, ...]:
        """Get the messages of a prompt. Raises as `McpHosts.offer` does."""
        return await self._hosts.get_prompt(
            _endpoint(server), scope=scope, name=name, arguments=arguments, timeout=timeout
        )


def endpoint_of(
    server: Attached,
    secrets: Mapping[str, str],
    network: NetworkRules,
    authorization: Authorization | None = None,
) -> McpEndpoint | McpStdioEndpoint:
    """Where the server is reached.

    Args:
        authorization: whose sign-in is used; nobody's by default.

    Raises:
        ToolError: a secret is missing, or cannot be in a header.
    """
    endpoint = _endpoint(target_of(server, secrets, network))
    endpoint = replace(endpoint, elicitation=server.rules.elicitation_policy)
    if not isinstance(endpoint, McpEndpoint) or authorization is None or not authorization.token:
        return endpoint
    kept = tuple(each for each in endpoint.headers if each[0].lower() != "authorization")
    return replace(endpoint, headers=(*kept, *authorization.headers), identity=authorization.identity)


def _endpoint(server: RemoteMcp | LocalMcpServer) -> McpEndpoint | McpStdioEndpoint:
    if isinstance(server, RemoteMcp):
        return McpEndpoint(server.url, server.headers, server.protocol, server.rules)
    if server.command is not None:
        return McpStdioEndpoint(
            server.name, server.command, server.args, tuple(server.env.items()), server.cwd
        )
    headers = tuple(server.headers.items())
    return McpEndpoint(server.url or "", headers, rules=NetworkRules(private=True))
