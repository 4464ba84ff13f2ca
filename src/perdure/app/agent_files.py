"""Exports agents to files and imports them."""

from __future__ import annotations

import asyncio

from perdure.app.agents import create_agent, find_agent
from perdure.app.context import App
from perdure.app.idempotency import Once
from perdure.domain.accounts import Caller
from perdure.domain.agent_files import read_agent_file, write_agent_file
from perdure.domain.agents import Agent, CreateAgent
from perdure.domain.errors import NotFound
from perdure.domain.examples import AGENT_EXAMPLES
from perdure.store.agents import AgentRow
from perdure.store.database import Tx
from perdure.store.harnesses import get_harness


async def export_agent(app: App, caller: Caller, ref: str) -> tuple[str, str]:
    """Export an agent; returns its name and the Markdown file with front matter.

    The file refers to the harness by name, not by id, so that it can be imported elsewhere.
    """

    async def work(tx: Tx) -> tuple[AgentRow, str]:
        row = await find_agent(tx, caller.organization_id, ref)
        return row, (await get_harness(tx, row.org_id, row.harness_id)).name

    row, harness_name = await app.database.read(work)
    # Large files take long to serialize and parse, so that happens in a thread.
    return row.name, await asyncio.to_thread(write_agent_file, as_created(row, harness_name))


def as_created(row: AgentRow, harness_name: str) -> CreateAgent:
    """The request body that would create this agent again."""
    config = row.config_struct()
    return CreateAgent(
        row.name,
        row.system_prompt,
        None,
        row.display_name,
        row.description,
        None,
        harness_name,
        row.default_model_id,
        config.capabilities,
        config.tools,
        row.tag_list(),
        config.initial_files,
        config.max_iterations,
        config.parallel_tool_calls,
        config.network_access,
        config.mcp_servers,
        expose_mcp=config.expose_mcp,
        output_schema=config.output_schema,
        variables=config.variables or {},
        fallback_models=config.fallback_models,
    )


async def import_agent(app: App, caller: Caller, text: str, once: Once | None = None) -> tuple[Agent, bool]:
    """Create the agent that a file describes, or replace the one of that name; returns whether it is new."""
    return await create_agent(
        app, caller, await asyncio.to_thread(read_agent_file, text), kind="import", once=once
    )


async def import_agent_example(
    app: App, caller: Caller, name: str, once: Once | None = None
) -> tuple[Agent, bool]:
    """Import one of the example agents. Raises NotFound."""
    example = next((each for each in AGENT_EXAMPLES if each.name == name), None)
    if example is None:
        raise NotFound("agent example")
    return await create_agent(app, caller, example, kind="import", once=once)
