"""`handoff`: lets the agent pass its session on to another agent."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from perdure.app.context import Services
from perdure.app.handoffs import MAX_HANDOFFS, HandOff, hand_off, listed_agents
from perdure.capabilities.port import (
    REPEATABLE,
    Capability,
    Discovered,
    DiscoveryContext,
    Tool,
    ToolContext,
    ToolOutcome,
    schema,
)
from perdure.domain.compaction import MAX_SUMMARY
from perdure.domain.errors import ToolError, Undiscovered
from perdure.domain.events.agents import History
from perdure.domain.messages import JsonObject
from perdure.store.agents import ListedAgent

NAME = "handoff_to_agent"
MAX_LISTED = 500
"""Characters of an agent's description in the tool's."""


def handoff(services: Services) -> Capability:
    """Create the capability, with its tool bound to the services."""

    async def discover(config: Any, context: DiscoveryContext) -> Discovered:
        agents, history = _config_of(config)
        try:
            found = await listed_agents(services, context.org_id, agents)
        except ToolError as error:
            raise Undiscovered(error.message) from None
        active = [each for each in found if each.status == "active"]
        return Discovered(tools=(_tool(_HandOffTool(services, agents, history), active),) if active else ())

    return Capability(
        id="handoff",
        name="Handoff",
        description="Lets the agent pass its session on to another agent, which then continues it.",
        category="agents",
        config_schema=schema(
            {
                "agents": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": 64},
                    "minItems": 1,
                    "maxItems": 20,
                    "uniqueItems": True,
                    "description": "The ids or names of the agents that the session may be handed to.",
                },
                "history": {
                    "type": "string",
                    "enum": ["full", "summary"],
                    "default": "full",
                    "description": (
                        "What the next agent sees of the conversation: all of it, or only the summary that "
                        "the agent before writes."
                    ),
                },
            },
            "agents",
        ),
        discover=discover,
        reads_database=True,
    )


def _config_of(config: Any) -> tuple[tuple[str, ...], History]:
    given = config if isinstance(config, dict) else {}
    return tuple(given.get("agents") or ()), given.get("history") or "full"


class _HandOffTool(Struct, frozen=True):
    """The tool's function. It equals another one with the same settings, so that the agent stays cached."""

    services: Services
    agents: tuple[str, ...]
    history: History

    async def __call__(self, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
        wish = HandOff(arguments["agent"], arguments.get("reason"), arguments.get("summary"))
        target = await hand_off(self.services, context, self.agents, self.history, wish)
        told = f"The session was handed off to the agent {target.name}, which continues from here."
        if wish.summary and self.history == "full":
            told = f"{told}\n{wish.summary}"
        return ToolOutcome(told)


def _tool(run: _HandOffTool, agents: list[ListedAgent]) -> Tool:
    summarized = run.history == "summary"
    sees = (
        "It does not see the conversation, but only your `summary`."
        if summarized
        else "It sees the whole conversation."
    )
    listed = "\n".join(f"- {each.name}: {_about(each)}" for each in agents)
    return Tool(
        name=NAME,
        display_name="Hand off",
        description=(
            f"Hand this conversation off to another agent, which continues it in your place. {sees} Do "
            f"nothing else in the same answer. At most {MAX_HANDOFFS} times in a turn. The agents:\n{listed}"
        ),
        parameters=schema(
            {
                "agent": {"type": "string", "maxLength": 64, "description": "The agent's name."},
                "reason": {
                    "type": "string",
                    "maxLength": 1_000,
                    "description": "Why, in a sentence. People see it.",
                },
                "summary": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_SUMMARY,
                    "description": (
                        "Everything that the agent has to know: what the user wants, in the user's own words "
                        "where they matter, what was done, and what is left to do."
                    ),
                },
            },
            "agent",
            *(("summary",) if summarized else ()),
        ),
        run=run,
        hints=REPEATABLE,
        queue=NAME,
    )


def _about(agent: ListedAgent) -> str:
    text = " ".join((agent.description or agent.display_name or "(no description)").split())
    return text if len(text) <= MAX_LISTED else f"{text[:MAX_LISTED]}..."
