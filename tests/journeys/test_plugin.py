"""A capability from another package."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from perdure.capabilities.plugins import load_plugins
from perdure.capabilities.port import Capability
from perdure.capabilities.registry import Registry
from perdure.domain.errors import InvalidInput, Unavailable
from perdure.domain.tools import CapabilityRef
from perdure.tools.built_in import catalogue
from tests.server import Server, use_simulated_model
from tests.talk import Json, call, new_talk

EXAMPLE = Path(__file__).parents[2] / "examples" / "dice"


def installed(folder: Path) -> str:
    """Install the example as pip would: the module and its entry point. Returns a value for PYTHONPATH."""
    info = folder / "perdure_dice-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: perdure-dice\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[perdure.capabilities]\ndice = perdure_dice:DICE\n")
    (folder / "perdure_dice.py").write_text((EXAMPLE / "perdure_dice.py").read_text())
    return str(folder)


async def test_an_installed_package_adds_a_capability_that_the_model_can_use(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": installed(tmp_path / "site")}
    async with (
        Server(tmp_path / "data", environment=environment) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        await use_simulated_model(http)
        shown: dict[str, Any] = (await http.get("/v1/capabilities/dice")).json()
        assert [tool["name"] for tool in shown["tool_definitions"]] == ["roll_dice"]
        talk = await new_talk(http, capabilities=[{"ref": "dice"}])
        events = await talk.turn({"tool_calls": [call("roll_dice", count=3, sides=1)]}, {"text": "Three."})
        result = next(event["data"] for event in events if event["type"] == "tool.completed")
        assert json.loads(result["result"][0]["text"]) == {"rolls": [1, 1, 1], "sum": 3}


NOTES = '''
from perdure.tools import Context, as_tool, tool
from perdure.capabilities import Capability, Discovered, READ_ONLY, Tool, ToolOutcome, schema


@tool
async def note(ctx: Context, text: str) -> list[str]:
    """Note a text."""
    await ctx.storage.set(text, "noted")
    return await ctx.storage.list()


async def _notes(ctx: Context, arguments):
    return ToolOutcome(await ctx.storage.list())


async def _discover(config, context):
    return Discovered("", (Tool("found", "List.", schema({}), _notes, READ_ONLY),))


NOTES = Capability(
    "notes", "Notes", "Keeps notes.", "notes", discover=_discover,
    tools=lambda config: (as_tool(note), Tool("notes", "List.", schema({}), _notes, READ_ONLY)),
)


@tool
def wrong(a):
    """Be wrong."""
'''


async def test_tools_of_a_package_have_the_sessions_own_services(tmp_path: Path) -> None:
    site = Path(installed(tmp_path / "site"))
    (site / "perdure_notes.py").write_text(NOTES)
    points = site / "perdure_dice-0.1.0.dist-info" / "entry_points.txt"
    points.write_text("[perdure.capabilities]\nnotes = perdure_notes:NOTES\nnote = perdure_notes:note\n")
    async with (
        Server(tmp_path / "data", environment={"PYTHONPATH": str(site)}) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        await use_simulated_model(http)
        assert (await http.get("/v1/capabilities/note")).json()["category"] == "tools"
        talk = await new_talk(http, capabilities=[{"ref": "notes"}])
        events = await talk.turn(
            *({"tool_calls": [each]} for each in (call("note", text="a"), call("notes"), call("found"))),
            {"text": "Done."},
        )
        results = [
            event["data"]["result"][0]["text"] for event in events if event["type"] == "tool.completed"
        ]
        assert results == ['["a"]'] * 3


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("no_such_module:X", "cannot be loaded"),
        ("json:dumps", "is not a Capability"),
        ("perdure.tools.current_time:CURRENT_TIME", "already has one of its names: current_time"),
    ],
)
def test_an_invalid_plugin_prevents_the_start_with_a_clear_error(value: str, complaint: str) -> None:
    with pytest.raises(Unavailable, match=complaint):
        load_plugins(catalogue(), [EntryPoint("mine", value, "perdure.capabilities")])


def test_a_plugin_whose_function_has_mistakes_prevents_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "perdure_wrong.py").write_text(NOTES)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Unavailable, match=r"has mistakes: wrong: is not `async def`.*; has a parameter `a`"):
        load_plugins(catalogue(), [EntryPoint("wrong", "perdure_wrong:wrong", "perdure.capabilities")])


DOUBLING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)} | {"d30": {}}
ODD_SCHEMAS: dict[str, tuple[Json, str]] = {
    "no schema": ({"type": "odd"}, "is not a valid JSON Schema"),
    "look-around": ({"type": "string", "pattern": "^(?=a)b"}, "with plain patterns"),
    "exponential": ({"$ref": "#/$defs/d0", "$defs": DOUBLING}, "is too costly to check"),
    "recursive": ({"properties": {"a": {"$ref": "#"}}}, "contains itself"),
}


def with_schema(schema: Json) -> Capability:
    return replace(catalogue()[0], id="odd", aliases=(), config_schema=schema)


@pytest.mark.parametrize("name", ODD_SCHEMAS)
def test_a_plugin_whose_config_schema_cannot_be_checked_prevents_the_start(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema, complaint = ODD_SCHEMAS[name]
    module = ModuleType("perdure_odd")
    module.ODD = with_schema(schema)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "perdure_odd", module)
    with pytest.raises(Unavailable, match=f"the capability 'odd' .*{complaint}"):
        load_plugins(catalogue(), [EntryPoint("odd", "perdure_odd:ODD", "perdure.capabilities")])


def test_configurations_that_cost_too_much_to_check_are_refused_together() -> None:
    schema: Json = {"type": "array", "items": {"anyOf": [{"minimum": n} for n in range(10)]}}
    registry = Registry([with_schema(schema)])
    registry.check([CapabilityRef("odd", [1] * 100)])
    for configs in ([[1] * 50_000], [[1] * 400] * 100):
        with pytest.raises(InvalidInput, match="too many values"):
            registry.check([CapabilityRef("odd", config) for config in configs])


def test_the_example_says_the_same_as_its_package() -> None:
    assert 'dice = "perdure_dice:DICE"' in (EXAMPLE / "pyproject.toml").read_text()
    assert len((EXAMPLE / "perdure_dice.py").read_text().splitlines()) <= 30
