"""Agents that are tools for MCP clients."""

from __future__ import annotations

from perdure.app.context import App
from perdure.domain.accounts import Caller
from perdure.store.agents import ExposedAgent, exposed_agent, exposed_agents

MAX_EXPOSED = 100
"""Agents that are tools at a time: the first ones by name."""


async def list_exposed(app: App, caller: Caller) -> list[ExposedAgent]:
    """List the organization's active agents with `expose_mcp`, by name."""
    return await app.database.read(
        lambda tx: exposed_agents(tx, caller.organization_id, MAX_EXPOSED), long=True
    )


async def find_exposed(app: App, caller: Caller, name: str) -> ExposedAgent | None:
    """Return the organization's active agent of this name if it has `expose_mcp`."""
    return await app.database.read(lambda tx: exposed_agent(tx, caller.organization_id, name))
