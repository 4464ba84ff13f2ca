"""Which tools a model may run in the background, and what it is shown of that."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from perdure.capabilities.functions import as_tool
from perdure.capabilities.layers import Layer
from perdure.capabilities.port import Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.capabilities.registry import Registry
from perdure.capabilities.resolve import ResolvedAgent, resolve
from perdure.capabilities.tool_lists import StoredTool, _stored
from perdure.domain.background import FLAG, MAX_SHOWN, asks, shown
from perdure.domain.tool_functions import tool
from perdure.domain.tools import CapabilityRef
from perdure.tools.built_in import catalogue
from perdure.worker.background import PROGRESS_EVERY, pause_after

WORDS = schema({"word": {"type": "string"}}, "word")
OWN = schema({FLAG: {"type": "string"}})


async def _echo(context: ToolContext, arguments: Any) -> ToolOutcome:
    return ToolOutcome(arguments)


TOOLS = (
    Tool("slow", "Slow.", WORDS, _echo, background=True),
    Tool("quick", "Quick.", WORDS, _echo),
    Tool("named", "Has a parameter of that name.", OWN, _echo, background=True),
    Tool("any", "Takes anything.", {"type": "object"}, _echo, background=True),
    Tool("odd", "Has no properties.", {"type": "object", "properties": True}, _echo, background=True),
)
MINE = Capability("mine", "Mine", "For tests.", "test", tools=lambda config: TOOLS)


def agent_with(*refs: CapabilityRef) -> ResolvedAgent:
    layer = Layer("session", None, None, (CapabilityRef("mine"), *refs))
    return resolve([layer], Registry((*catalogue(), MINE)))


def flagged(agent: ResolvedAgent) -> list[str]:
    """The tools whose schema, as the model receives it, lets it ask for the background."""
    return [
        spec.name
        for spec in agent.specs
        if spec.parameters.get("properties", {}) is not True
        and spec.parameters.get("properties", {}).get(FLAG, {}).get("type") == "boolean"
    ]


def test_only_the_capability_offers_it_and_only_for_tools_that_allow_it() -> None:
    assert flagged(agent_with()) == []
    agent = agent_with(CapabilityRef("background_tools"))
    assert flagged(agent) == ["slow", "any"]
    assert {name for name, each in agent.bound.items() if each.background} == {"slow", "any"}
    assert {"wait_tasks", "get_task", "list_tasks", "cancel_task"} <= set(agent.bound)
    assert agent.bound["named"].tool.parameters == OWN


def test_a_configuration_names_further_tools() -> None:
    config = {"tools": ["quick", "unknown"], "time_limit": 600}
    agent = agent_with(CapabilityRef("background_tools", config))
    assert flagged(agent) == ["slow", "quick", "any"]
    assert agent.behaviour.background is not None
    assert agent.behaviour.background.time_limit == 600


def test_the_built_in_tools_that_take_long_allow_it() -> None:
    refs = [CapabilityRef(each) for each in ("bashkit_shell", "web_fetch", "background_tools")]
    assert {"bash", "web_fetch"} <= set(flagged(agent_with(*refs)))


def test_the_model_is_sent_the_same_bytes_each_time() -> None:
    once, again = (agent_with(CapabilityRef("background_tools")).specs for _ in range(2))
    assert msgspec.json.encode(once) == msgspec.json.encode(again)


async def test_the_tool_never_sees_the_argument() -> None:
    slow = agent_with(CapabilityRef("background_tools")).bound["slow"].tool
    outcome = await slow.run(None, {"word": "x", FLAG: False})  # type: ignore[arg-type]
    assert isinstance(outcome, ToolOutcome)
    assert outcome.value == {"word": "x"}


def test_an_author_allows_it_with_an_option_and_a_stored_list_keeps_it() -> None:
    @tool(background=True)
    async def count(word: str) -> int:
        """Count."""
        return len(word)

    made = as_tool(count)
    assert made.background
    stored = msgspec.json.decode(msgspec.json.encode(_stored(made)), type=StoredTool)
    assert stored.background


def test_a_task_shows_its_arguments_cut_and_without_the_question() -> None:
    seen = shown({"word": "x" * 500, "many": list(range(500)), "few": [1], FLAG: True})
    assert seen == {
        "word": f"{'x' * MAX_SHOWN} ...",
        "many": f"{json.dumps(list(range(500)), separators=(',', ':'))[:MAX_SHOWN]} ...",
        "few": [1],
    }
    assert len(shown({str(number): 1 for number in range(100)})) == 20


def test_only_the_value_true_asks_for_it() -> None:
    assert asks({FLAG: True})
    assert not any(asks(each) for each in ({FLAG: False}, {FLAG: "true"}, {}, "x", None))


def test_a_tool_that_runs_for_a_day_tells_of_its_progress_some_hundred_times() -> None:
    passed, told = 0.0, 0
    while passed < 24 * 3600:
        passed += pause_after(round(passed * 1_000_000))
        told += 1
    assert pause_after(0) == pause_after(60_000_000) == PROGRESS_EVERY
    assert 200 < told < 300
