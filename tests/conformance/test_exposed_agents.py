"""Agents that are tools of the MCP endpoint, on both databases."""

from __future__ import annotations

from perdure.domain.agents import AgentConfig
from perdure.domain.tools import CapabilityRef
from perdure.store.agents import add_agent, exposed_agent, exposed_agents
from perdure.store.database import Database, Tx
from perdure.store.rows import to_json
from tests.conformance.test_agents_store import ORG, OTHER, agent


async def test_exposed_agents_are_the_active_ones_whose_own_configuration_says_so(database: Database) -> None:
    shown = to_json(AgentConfig(True, (CapabilityRef("current_time"),)))
    # The same words elsewhere in a configuration mean nothing.
    quoted = to_json(AgentConfig(False, (CapabilityRef("web_fetch", {"expose_mcp": True}),)))
    rows = [
        agent("second", config=shown, description="Helps."),
        agent("first", config=shown),
        agent("plain"),
        agent("quoted", config=quoted),
        agent("archived", config=shown, status="archived"),
        agent("elsewhere", config=shown, org_id=OTHER),
    ]

    async def body(tx: Tx) -> None:
        for row in rows:
            await add_agent(tx, row)

    await database.write(body)
    found = await database.read(lambda tx: exposed_agents(tx, ORG, 10))
    assert [(each.name, each.description) for each in found] == [("first", None), ("second", "Helps.")]
    assert [each.name for each in await database.read(lambda tx: exposed_agents(tx, ORG, 1))] == ["first"]
    for name in ("first", "quoted", "archived", "elsewhere"):
        one = await database.read(lambda tx, name=name: exposed_agent(tx, ORG, name))
        assert (one is not None) is (name == "first")
