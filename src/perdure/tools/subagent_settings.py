"""The configuration of `subagents`: its schema, and what it tells the model."""

from __future__ import annotations

from typing import Any

from perdure.app.context import Services
from perdure.capabilities.port import Discovered, DiscoveryContext, schema
from perdure.domain.ids import OrgId
from perdure.domain.messages import JsonObject
from perdure.domain.subagents import Subagents, subagents_of
from perdure.domain.tasks import MAX_DEPTH, MAX_OPEN, MAX_TIME_LIMIT, TIME_LIMIT
from perdure.store.agents import agent_by_ref
from perdure.store.database import Tx

MAX_CHOICES = 25
"""The most agents, and blueprints, that a model may choose from."""
MAX_SHOWN = 500
"""Characters of an agent's description that the model is shown."""

_AGENT = {"type": "string", "minLength": 1, "maxLength": 64, "description": "The agent's id or name."}

CONFIG = schema(
    {
        "agents": {
            "type": "array",
            "items": _AGENT,
            "maxItems": MAX_CHOICES,
            "uniqueItems": True,
            "description": (
                "Ids or names of the agents that the model may choose for sub-agents. Without one, a "
                "sub-agent has the agent of the session that begins it. That session's approvals and network "
                "limits bind it in any case."
            ),
        },
        "blueprints": {
            "type": "object",
            "maxProperties": MAX_CHOICES,
            "propertyNames": {"pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"},
            "additionalProperties": {
                **schema(
                    {
                        "description": {
                            "type": "string",
                            "minLength": 1,
                            "maxLength": 1000,
                            "description": "What such a sub-agent is good for; the model reads it.",
                        },
                        "agent": _AGENT,
                        "system_prompt": {
                            "type": "string",
                            "maxLength": 200_000,
                            "description": "In place of the session's own `system_prompt`.",
                        },
                        "model_id": {"type": "string", "description": "Its model."},
                        "capabilities": {
                            "type": "array",
                            "maxItems": 50,
                            "items": {
                                "type": "object",
                                "properties": {
                                    "ref": {"type": "string", "minLength": 1, "maxLength": 100},
                                    "config": {},
                                },
                                "required": ["ref"],
                                "additionalProperties": False,
                            },
                            "description": "Capabilities in addition to those of its agent.",
                        },
                        "max_iterations": {"type": "integer", "minimum": 1, "maximum": 1000},
                        "output_schema": {
                            "type": "object",
                            "description": "A JSON Schema that its answers have to match.",
                        },
                    },
                    "description",
                )
            },
            "description": "Prepared kinds of sub-agents, by name.",
        },
        "max_depth": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_DEPTH,
            "default": MAX_DEPTH,
            "description": "How many levels of sub-agents there may be below the first session.",
        },
        "max_open": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_OPEN,
            "default": MAX_OPEN,
            "description": "How many tasks of a session may be open at once.",
        },
        "time_limit": {
            "type": "number",
            "minimum": 1,
            "maximum": MAX_TIME_LIMIT,
            "description": (
                "The seconds that a sub-agent may take: the limit of those that the model sets none for, and "
                f"the longest one. Without it, {TIME_LIMIT:g} seconds, and up to {MAX_TIME_LIMIT:g}."
            ),
        },
    }
)


def choices(config: Subagents) -> JsonObject:
    """The parameters of `spawn_agent` that choose among the agents and the blueprints. Sorted."""
    found: JsonObject = {}
    if config.agents:
        found["agent"] = {"enum": list(config.agents), "description": "Another agent; yours if left out."}
    if config.blueprints:
        names = sorted(config.blueprints)
        kinds = "\n".join(f"{name}: {config.blueprints[name].description}" for name in names)
        found["blueprint"] = {"enum": names, "description": f"A prepared kind of sub-agent.\n{kinds}"}
    return found


async def describe_agents(services: Services, config: Any, context: DiscoveryContext) -> Discovered:
    """Say what the agents are that the model may choose: nothing if there are none."""
    refs = subagents_of(config).agents
    if not refs:
        return Discovered()

    async def work(tx: Tx) -> list[str]:
        return [await _described(tx, context.org_id, ref) for ref in refs]

    lines = "\n".join(await services.database.read(work))
    return Discovered(f"`spawn_agent` can begin these agents (parameter `agent`):\n{lines}")


async def _described(tx: Tx, org_id: OrgId, ref: str) -> str:
    agent = await agent_by_ref(tx, org_id, ref)
    if agent is None or agent.status != "active":
        return f"- {ref}: is not available any more"
    called = ref if ref == agent.name else f"{ref} ({agent.name})"
    about = " ".join((agent.description or agent.display_name or "").split())[:MAX_SHOWN]
    return f"- {called}: {about}" if about else f"- {called}"
