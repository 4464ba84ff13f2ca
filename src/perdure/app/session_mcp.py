"""The MCP servers that a session uses: those of its harness, its agent and its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from perdure.app.context import App
from perdure.capabilities.layers import rows_below
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict, NotFound
from perdure.domain.ids import McpServerId, SessionId
from perdure.domain.mcp_servers import HIDDEN, MCP_REF, InlineMcpServer
from perdure.domain.mcp_views import SessionMcpServer
from perdure.domain.tools import CapabilityRef
from perdure.store.agents import AgentRow
from perdure.store.database import Tx
from perdure.store.mcp_servers import McpServerRow, some_mcp_servers
from perdure.store.rows import to_json
from perdure.store.session_changes import update_session
from perdure.store.sessions import SessionRow, get_session

Level = Literal["harness", "agent", "session"]


class _LayerServers(Struct, frozen=True):
    """What one layer turns on."""

    level: Level
    servers: dict[str, InlineMcpServer]
    refs: tuple[CapabilityRef, ...]

    def ids(self) -> tuple[str, ...]:
        return tuple(ref.ref.removeprefix(MCP_REF) for ref in self.refs if ref.ref.startswith(MCP_REF))


async def _layers(tx: Tx, row: SessionRow) -> list[_LayerServers]:
    """Return what the layers turn on, lowest first."""
    layers = []
    for each in await rows_below(tx, row):
        if not each.policy_only:
            config = each.row.config_struct()
            level: Level = "agent" if isinstance(each.row, AgentRow) else "harness"
            layers.append(_LayerServers(level, config.mcp_servers, config.capabilities))
    own = row.config_struct()
    return [*layers, _LayerServers("session", own.mcp_servers, own.capabilities)]


async def session_servers(app: App, caller: Caller, session_id: SessionId) -> list[SessionMcpServer]:
    """List the servers that a session uses; a server of a higher layer replaces one of the same name."""

    async def work(tx: Tx) -> tuple[list[_LayerServers], dict[str, McpServerRow]]:
        row = await get_session(tx, caller.organization_id, session_id)
        layers = await _layers(tx, row)
        rows = await some_mcp_servers(tx, row.org_id, [each for layer in layers for each in layer.ids()])
        return layers, {each.id: each for each in rows}

    layers, rows = await app.database.read(work)
    inline = {
        name: _inline(name, server, layer.level) for layer in layers for name, server in layer.servers.items()
    }
    registered = {
        server_id: _registered(app, server_id, rows.get(server_id), layer.level)
        for layer in layers
        for server_id in layer.ids()
    }
    return [*inline.values(), *registered.values()]


def _inline(name: str, server: InlineMcpServer, level: Level) -> SessionMcpServer:
    return SessionMcpServer(
        name,
        level,
        level == "session",
        server.url,
        server.type,
        server.auth_mode,
        server.protocol_mode,
        server.headers,
    )


def _registered(app: App, server_id: str, row: McpServerRow | None, level: Level) -> SessionMcpServer:
    local = app.local_mcp.get(server_id)
    removable, identity = level == "session", McpServerId(server_id)
    if local is not None:
        return SessionMcpServer(
            local.name,
            level,
            removable,
            local.url or "",
            "http" if local.command is None else "stdio",
            headers=dict.fromkeys(local.headers, HIDDEN),
            server_id=identity,
        )
    if row is None:
        return SessionMcpServer(server_id, level, removable, "", server_id=identity, available=False)
    return SessionMcpServer(
        row.name,
        level,
        removable,
        row.url,
        "http",
        row.auth_mode,
        row.protocol_mode,
        row.shown_headers(),
        identity,
        row.status == "active",
    )


async def remove_session_server(app: App, caller: Caller, session_id: SessionId, name: str) -> None:
    """Remove a server from a session, from its next turn on.

    Args:
        name: the name of an inline server, or the id of a registered one.

    Raises:
        NotFound: the session does not use it.
        Conflict: the session inherits it.
    """
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_session(tx, caller.organization_id, session_id, lock=True)
        config = row.config_struct()
        changed = msgspec.structs.replace(
            config,
            mcp_servers={each: server for each, server in config.mcp_servers.items() if each != name},
            capabilities=tuple(ref for ref in config.capabilities if ref.ref != f"{MCP_REF}{name}"),
        )
        if changed == config:
            raise _not_removable(await _layers(tx, row), name)
        await update_session(tx, row, {"config": to_json(changed)}, now)

    await app.database.write(work)


def _not_removable(layers: Sequence[_LayerServers], name: str) -> NotFound | Conflict:
    level = next((each.level for each in layers if name in _names(each)), None)
    if level is None:
        return NotFound("MCP server in this session", code="mcp_server_not_found")
    return Conflict(
        f"the session inherits the MCP server {name[:100]!r} from its {level}: remove it there",
        code="mcp_server_inherited",
    )


def _names(layer: _LayerServers) -> Iterable[str]:
    return (*layer.servers, *layer.ids())
