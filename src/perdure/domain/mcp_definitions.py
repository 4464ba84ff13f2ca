"""What a person accepts of an MCP server's tool: a later change of it asks again."""

from __future__ import annotations

import hashlib

import msgspec

from perdure.domain.mcp import McpTool


def definition_of(tool: McpTool) -> str:
    """Return the digest of a tool's description, schema and hints."""
    parts = (
        tool.name,
        tool.title,
        tool.description,
        tool.input_schema,
        (tool.readonly, tool.destructive, tool.idempotent, tool.open_world),
    )
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()
