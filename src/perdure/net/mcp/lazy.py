"""The process's client of MCP, which is imported when the first server is asked: most processes need none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from perdure.domain.mcp import McpOffer, McpPrompt, McpPromptMessage
from perdure.net.mcp.endpoints import McpEndpoint, McpStdioEndpoint

if TYPE_CHECKING:
    from perdure.net.mcp.hosts import McpHosts


class LazyHosts:
    """Opens `McpHosts` at its first use. Create one per process, and close it at the end."""

    def __init__(self) -> None:
        self._hosts: McpHosts | None = None

    def hosts(self) -> McpHosts:
        """Return the one client of this process."""
        if self._hosts is None:
            from perdure.net.mcp.hosts import McpHosts

            self._hosts = McpHosts()
        return self._hosts

    async def offer(self, endpoint: McpEndpoint | McpStdioEndpoint, *, timeout: float) -> McpOffer:
        """List what a server offers. Raises as `McpHosts.offer` does."""
        return await self.hosts().offer(endpoint, timeout=timeout)

    async def list_prompts(
        self, endpoint: McpEndpoint | McpStdioEndpoint, *, scope: str, timeout: float
    ) -> tuple[McpPrompt, ...]:
        """List a server's prompts. Raises as `McpHosts.offer` does."""
        return await self.hosts().list_prompts(endpoint, scope=scope, timeout=timeout)

    async def get_prompt(
        self,
        endpoint: McpEndpoint | McpStdioEndpoint,
        *,
        scope: str,
        name: str,
        arguments: Mapping[str, str],
        timeout: float,
    ) -> tuple[McpPromptMessage, ...]:
        """Get the messages of a prompt. Raises as `McpHosts.offer` does."""
        return await self.hosts().get_prompt(
            endpoint, scope=scope, name=name, arguments=arguments, timeout=timeout
        )

    @property
    def quiet(self) -> bool:
        """Whether no server's tools have changed: `changes` is 0 for all."""
        return self._hosts is None or self._hosts.quiet

    def changes(self, endpoint: McpEndpoint | McpStdioEndpoint) -> int:
        """How often the server's tools may have changed since this process knows it."""
        return 0 if self._hosts is None else self._hosts.changes(endpoint)

    def forget(self, scope: str) -> None:
        """End the sessions of the protocol that belong to a scope."""
        if self._hosts is not None:
            self._hosts.forget(scope)

    async def close(self) -> None:
        """Close the connections, and end local commands."""
        if self._hosts is not None:
            await self._hosts.close()
