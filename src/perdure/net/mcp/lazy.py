"""The process's client of MCP, which is imported when the first server is asked: most processes need none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.domain.mcp import McpOffer
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

    async def close(self) -> None:
        """Close the connections, and end local commands."""
        if self._hosts is not None:
            await self._hosts.close()
