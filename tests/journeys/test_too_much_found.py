"""What a discovery returns is limited, and nothing else waits while too much of it is looked at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.capabilities import Discovered, DiscoveryContext, Tool, schema
from perdure.capabilities.discovery import SMALL_TOOLS
from perdure.capabilities.port import DISCOVERED_PROMPT, MAX_PROMPT
from perdure.capabilities.tool_lists import MAX_LIST, MAX_RETURNED, MAX_TOOLS, usable
from perdure.domain.errors import ToolError
from perdure.domain.tools import CapabilityRef
from perdure.domain.weights import EACH, weight_of
from perdure.engine.advance import advance
from tests.journeys.test_discovery import Inside, inside, with_shelf
from tests.journeys.test_found_tools import Market, _used, say

HUGE = "x" * 50_000_000


class Found(Market):
    """A capability that finds what it is given."""

    def __init__(self, *results: Discovered | Exception, **more: Any) -> None:
        super().__init__(**more)
        self.results = list(results)

    async def _look(self, config: object, context: DiscoveryContext) -> Discovered:
        self.looks += 1
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result


def tool(name: str = "axe", **fields: Any) -> Tool:
    values: dict[str, Any] = {"description": "An axe.", "parameters": schema({})} | fields
    return Tool(name, run=_used, **values)


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value, value]
    return value


def itself() -> Any:
    value: dict[str, Any] = {}
    value["properties"] = value
    return value


TOO_MUCH = {
    "prompt": (Discovered(HUGE), "its prompt has 50000000 characters, and may have at most 262144"),
    "number": (
        Discovered("", tuple(tool(f"t{number}") for number in range(MAX_RETURNED + 1))),
        "it returned 5001 tools, and may return at most 5000",
    ),
    "description": (Discovered("", (tool(description=HUGE),)), "more than 2 MB"),
    "name": (Discovered("", (tool(HUGE),)), "more than 2 MB"),
    "schema": (Discovered("", (tool(parameters=schema({"a": {"description": HUGE}})),)), "more than 2 MB"),
    "properties": (
        Discovered("", (tool(parameters={"properties": {str(number): {} for number in range(700_000)}}),)),
        "more than 2 MB",
    ),
    "the same part many times": (Discovered("", (tool(parameters={"enum": nested(60)}),)), "more than 2 MB"),
    "itself": (Discovered("", (tool(parameters=itself()),)), "more than 2 MB"),
    "labels": (Discovered("", (tool(secret_arguments=("x",) * 3_000_000),)), "more than 2 MB"),
    "many tools": (
        Discovered(
            "",
            tuple(
                tool(f"t{number}", parameters=schema({"a": {"description": "x" * 1000}}))
                for number in range(4000)
            ),
        ),
        "more than 2 MB",
    ),
}


async def asked(there: Inside) -> str:
    """Have the model answer once; returns its system prompt."""
    await say(there)
    await advance(there.engine, there.session.id)
    return str(there.driver.requests[-1].system)


@pytest.mark.parametrize("what", TOO_MUCH)
async def test_a_turn_continues_without_a_capability_that_finds_too_much_and_says_why(
    what: str, database_url: str, tmp_path: Path
) -> None:
    found, reason = TOO_MUCH[what]
    shelf = Found(found)
    async with inside(database_url, tmp_path, shelf, {"text": "So."}, session=with_shelf()) as there:
        prompt = await asked(there)
        assert "could not be read: " in prompt
        assert reason in prompt
        assert [tool.name for tool in there.driver.requests[-1].tools] == []


async def test_a_prompt_below_the_limit_is_cut_and_its_tools_are_used(tmp_path: Path) -> None:
    shelf = Found(Discovered("y" * MAX_PROMPT, (tool(),)))
    async with inside("", tmp_path, shelf, {"text": "So."}, session=with_shelf()) as there:
        prompt = await asked(there)
        assert "y" * DISCOVERED_PROMPT in prompt
        assert f"[... {MAX_PROMPT - DISCOVERED_PROMPT} characters left out ...]" in prompt
        assert [tool.name for tool in there.driver.requests[-1].tools] == ["axe"]


async def test_a_long_reason_is_not_searched_through(tmp_path: Path) -> None:
    shelf = Found(ToolError(HUGE))
    async with inside("", tmp_path, shelf, {"text": "So."}, session=with_shelf()) as there:
        assert "the reason has 50000000 characters, which are too many to show" in await asked(there)


async def test_one_tool_that_is_too_large_is_left_out_and_the_others_are_used(tmp_path: Path) -> None:
    large = tool("saw", parameters={"properties": {"a": {"description": "x" * (MAX_LIST + 1)}}})
    shelf = Found(Discovered("", (large, tool())))
    async with inside("", tmp_path, shelf, {"text": "So."}, session=with_shelf()) as there:
        assert "[1 tools are left out" in await asked(there)
        assert [tool.name for tool in there.driver.requests[-1].tools] == ["axe"]


async def test_more_tools_than_are_used_are_left_out_as_long_as_they_are_not_too_many(tmp_path: Path) -> None:
    all_offered = with_shelf(CapabilityRef("tool_search", {"mode": "never"}))
    shelf = Found(Discovered("", tuple(tool(f"t{number:04}") for number in range(MAX_TOOLS + 100))))
    async with inside("", tmp_path, shelf, {"text": "So."}, session=all_offered) as there:
        assert "[100 tools are left out" in await asked(there)
        assert len(there.driver.requests[-1].tools) == MAX_TOOLS


class Watched(list[Any]):
    """A list that notes the threads that walk through it."""

    def __init__(self, size: int) -> None:
        super().__init__(range(size))
        self.walkers: set[int] = set()

    def __iter__(self) -> Iterator[Any]:
        self.walkers.add(threading.get_ident())
        return super().__iter__()


@pytest.mark.parametrize(("size", "is_walked"), [(SMALL_TOOLS, True), (1_000_000, False)])
async def test_the_event_loop_walks_through_no_large_value(
    size: int, is_walked: bool, tmp_path: Path
) -> None:
    watched = Watched(size)
    shelf = Found(Discovered("", (tool(parameters=schema({"a": {"enum": watched}})),)))
    async with inside("", tmp_path, shelf, {"text": "So."}, session=with_shelf()) as there:
        await asked(there)
    assert threading.get_ident() not in watched.walkers
    assert bool(watched.walkers) is is_walked


def test_a_weight_is_counted_up_to_its_limit_only() -> None:
    assert weight_of("four", 100) == 4 + EACH
    assert weight_of({"a": [1, None, 2.5]}, 100) == 1 + 6 * EACH
    assert weight_of([HUGE] * 3, 100) == len(HUGE) + 2 * EACH, "the others are not looked at"
    assert weight_of(list(range(1_000_000)), 100) > 100
    assert weight_of(1 << 10_000, 100) > 100
    assert weight_of(itself(), 10_000) > 10_000
    assert weight_of(nested(100), 10_000) > 10_000
    with pytest.raises(ToolError, match="more than 2 MB"):
        usable((tool(parameters=itself()),))
