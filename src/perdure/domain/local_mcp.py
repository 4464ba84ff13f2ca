"""MCP servers that the operator configures in a file: local commands, and URLs."""

from __future__ import annotations

import uuid

from msgspec import Struct

from perdure.domain.ids import McpServerId
from perdure.domain.mcp_servers import McpRules

_NAMES = uuid.UUID("6f0a2a52-8c0e-5c5d-9a53-5c1c3d5f0b14")
"""The namespace of the ids: a name always gets the same one, on every server."""


class LocalMcpServer(Struct, frozen=True, kw_only=True):
    """A server from the operator's file, usable in every organization as `mcp:{id}`.

    Attributes:
        slug: how its tools' names begin; unique in the file.
        command: the program to run; None for a server with a URL.
        env: the whole environment of the program.
        url: the URL of the endpoint; None for a command. It may be in a private network.
    """

    id: McpServerId
    name: str
    slug: str
    rules: McpRules = McpRules()
    description: str | None = None
    command: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    url: str | None = None
    headers: dict[str, str] = {}


def local_id(name: str) -> McpServerId:
    """Return the id of the server with this name in the operator's file: always the same."""
    return McpServerId(f"mcp_{uuid.uuid5(_NAMES, name).hex}")
