"""The process's client of MCP, which is imported when the first server is asked: most processes need none."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
