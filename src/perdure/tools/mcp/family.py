"""MCP servers as capabilities: `mcp:{server_id}` for registered ones, `mcp_inline:{name}` for inline ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.app.context import Services
from perdure.capabilities.port import Capability
from perdure.capabilities.registry import Family
from perdure.domain.ids import is_id
from perdure.domain.mcp_servers import INLINE, MCP_REF
from perdure.net.mcp.lazy import LazyHosts

if TYPE_CHECKING:
    from perdure.tools.mcp.servers import Servers


def mcp_families(services: Services, hosts: LazyHosts) -> tuple[Family, ...]:
    """Create the families of MCP servers' capabilities. Most processes need none: they are imported then.

    Args:
        hosts: reaches the servers.
    """
    known: Servers | None = None

    def servers() -> Servers:
        nonlocal known
        if known is None:
            from perdure.tools.mcp.servers import Servers

            known = Servers(services, hosts)
        return known

    def registered(rest: str) -> Capability | None:
        return servers().registered(rest) if is_id(rest, "mcp") else None

    def inline(rest: str) -> Capability | None:
        return servers().inline(rest) if rest else None

    return Family(MCP_REF, registered), Family(INLINE, inline, public=False)
