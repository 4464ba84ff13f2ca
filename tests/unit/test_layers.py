"""Merging layers: capabilities, tools and prompts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.capabilities import (
    READ_ONLY,
    Capability,
    Tool,
    ToolContext,
    ToolOutcome,
    schema,
)
from perdure.capabilities.layers import Layer
from perdure.capabilities.registry import Registry
from perdure.capabilities.resolve import features_of, resolve
from perdure.domain.decisions import StandingDecision
from perdure.domain.errors import InvalidInput
from perdure.domain.messages import JsonObject
from perdure.domain.tools import BuiltinTool, CapabilityRef, ClientSideTool


async def _nothing(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    return ToolOutcome(None)


def _capability(name: str, *dependencies: str, **more: Any) -> Capability:
    tool = Tool(f"{name}_tool", name, schema({}), _nothing, hints=READ_ONLY)
    return Capability(
        id=name,
        name=name.title(),
        description=name,
        category="test",
        features=(f"{name}_feature",),
        dependencies=dependencies,
        tools=lambda config: (tool,),
        prompt=lambda config: f"{name} with {config}",
        **more,
    )


GATE = Capability(
    id="gate",
    name="Gate",
    description="Asks.",
    category="test",
    gate=lambda config, tool: tool.name in (config or ()),
)
REGISTRY = Registry(
    [
        _capability("files"),
        _capability("shell", "files", aliases=("bash",)),
        _capability("agent", "shell", "notes"),
        _capability("notes", "files"),
        _capability("loop", "pool"),
        _capability("pool", "loop"),
        _capability("lost", "nowhere"),
        GATE,
    ]
)
NAMES = ("files", "shell", "bash", "agent", "notes", "loop", "pool", "lost", "unknown")
refs = st.builds(CapabilityRef, st.sampled_from(NAMES), st.sampled_from([None, {"n": 1}, {"n": 2}, {}]))
stacks = st.lists(st.lists(refs, max_size=4), max_size=4)


def _own_id(ref: CapabilityRef) -> str:
    return {"bash": "shell"}.get(ref.ref, ref.ref)


@given(stacks)
def test_every_capability_comes_once_and_after_its_dependencies(stack: list[list[CapabilityRef]]) -> None:
    ids = [active.capability.id for active in REGISTRY.resolve(stack)]
    assert len(ids) == len(set(ids))
    for place, identifier in enumerate(ids):
        capability = REGISTRY.get(identifier)
        assert capability is not None
        if identifier not in {"loop", "pool"}:  # these depend on each other, so no order is right
            assert set(capability.dependencies) - {"nowhere"} <= set(ids[:place])


@given(stacks)
def test_the_active_capabilities_are_the_named_ones_and_their_dependencies(
    stack: list[list[CapabilityRef]],
) -> None:
    wanted = {_own_id(ref) for layer in stack for ref in layer} - {"unknown"}
    while True:
        more = (
            {d for name in wanted if (found := REGISTRY.get(name)) for d in found.dependencies}
            - {"nowhere"}
            - wanted
        )
        if not more:
            break
        wanted |= more
    assert {active.capability.id for active in REGISTRY.resolve(stack)} == wanted


@given(stacks)
def test_the_last_layer_that_configures_a_capability_wins(stack: list[list[CapabilityRef]]) -> None:
    configured: dict[str, Any] = {}
    for layer in stack:
        configured.update({_own_id(ref): ref.config for ref in layer if ref.config is not None})
    for active in REGISTRY.resolve(stack):
        assert active.config == configured.get(active.capability.id)


@given(stacks, st.integers(0, 3))
def test_merging_is_the_same_however_the_layers_are_cut(stack: list[list[CapabilityRef]], cut: int) -> None:
    flat = [ref for layer in stack for ref in layer]
    assert REGISTRY.resolve(stack) == REGISTRY.resolve([flat]) == REGISTRY.resolve([flat[:cut], flat[cut:]])


@given(stacks)
def test_merging_is_idempotent(stack: list[list[CapabilityRef]]) -> None:
    merged = REGISTRY.resolve(stack)
    again = REGISTRY.resolve([[CapabilityRef(active.capability.id, active.config) for active in merged]])
    assert again == merged


@given(stacks)
def test_features_are_the_sorted_union_over_all_active_capabilities(stack: list[list[CapabilityRef]]) -> None:
    expected = sorted(
        {feature for active in REGISTRY.resolve(stack) for feature in active.capability.features}
    )
    assert list(features_of(REGISTRY.resolve(stack))) == expected
    layers = [Layer("session", None, None, tuple(layer)) for layer in stack]
    assert list(resolve(layers, REGISTRY).features) == expected


CLIENT = ClientSideTool("ask_user", "Ask.", {"type": "object"})


def test_prompts_of_capabilities_come_first_and_then_the_layers_from_the_lowest() -> None:
    layers = [
        Layer("harness", 'base "1"', "Be kind.", (CapabilityRef("shell", 1),)),
        Layer("agent", "helper", "  Help.\n", (CapabilityRef("files", 2),)),
        Layer("session", None, "Be quick."),
    ]
    assert resolve(layers, REGISTRY).system.split("\n\n") == [
        '<capability id="files">\nfiles with 2\n</capability>',
        '<capability id="shell">\nshell with 1\n</capability>',
        "<harness name='base \"1\"'>\nBe kind.\n</harness>",
        '<agent name="helper">\nHelp.\n</agent>',
        "<session>\nBe quick.\n</session>",
    ]


def test_tools_of_capabilities_and_of_callers_add_up() -> None:
    layers = [
        Layer("harness", "base", None, (CapabilityRef("files"),)),
        Layer("agent", "helper", None, (), (CLIENT,)),
        Layer("session", None, None, (), (BuiltinTool("notes_tool", "Notes.", {"type": "object"}),)),
    ]
    agent = resolve(layers, REGISTRY)
    assert [spec.name for spec in agent.specs] == ["files_tool", "notes_tool", "ask_user"]
    assert agent.bound["notes_tool"].capability_id == "notes"
    assert set(agent.client) == {"ask_user"}


def test_the_highest_layer_that_sets_parallel_tool_calls_decides() -> None:
    harness = Layer("harness", "base", None, parallel_tool_calls=False)
    agent, session = Layer("agent", "helper", None), Layer("session", None, None, parallel_tool_calls=True)
    assert resolve([agent], REGISTRY).parallel_tool_calls is None
    assert resolve([harness, agent], REGISTRY).parallel_tool_calls is False
    assert resolve([harness, agent, session], REGISTRY).parallel_tool_calls is True


@pytest.mark.parametrize("kind", ["same layer", "two layers", "a capability's tool"])
def test_two_tools_of_one_name_are_refused(kind: str) -> None:
    agent = Layer("agent", "helper", None, (), (CLIENT, CLIENT) if kind == "same layer" else (CLIENT,))
    taken = ClientSideTool("files_tool", "Mine.", {"type": "object"})
    session = {
        "same layer": Layer("session", None, None),
        "two layers": Layer("session", None, None, (), (CLIENT,)),
        "a capability's tool": Layer("session", None, None, (CapabilityRef("files"),), (taken,)),
    }[kind]
    with pytest.raises(InvalidInput) as refused:
        resolve([agent, session], REGISTRY)
    assert refused.value.code == "duplicate_tool"


@pytest.mark.parametrize(
    ("standing", "gated", "rejected"),
    [
        ({}, True, False),
        ({"files_tool": StandingDecision("allow_always")}, False, False),
        ({"files_tool": StandingDecision("reject_always")}, False, True),
    ],
)
def test_a_standing_decision_replaces_the_gate(
    standing: dict[str, StandingDecision], gated: bool, rejected: bool
) -> None:
    layer = Layer(
        "session",
        None,
        None,
        (CapabilityRef("files"), CapabilityRef("notes"), CapabilityRef("gate", ["files_tool"])),
    )
    bound = resolve([layer], REGISTRY, standing).bound
    assert (bound["files_tool"].gated, bound["files_tool"].rejected) == (gated, rejected)
    assert not bound["notes_tool"].gated


def test_a_tool_whose_definition_requires_approval_waits_for_it() -> None:
    tool = BuiltinTool("files_tool", "Files.", {"type": "object"}, policy="requires_approval")
    assert resolve([Layer("session", None, None, (), (tool,))], REGISTRY).bound["files_tool"].gated


def test_an_unknown_capability_is_refused_on_writing_and_skipped_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(InvalidInput) as refused:
        REGISTRY.check([CapabilityRef("files"), CapabilityRef("unknown")])
    assert (refused.value.code, refused.value.field) == ("unknown_capability", "capabilities[1]")
    registry = Registry([])
    for _ in range(2):
        assert registry.resolve([[CapabilityRef("unknown")]]) == ()
    (line,) = caplog.messages
    assert line.startswith("sessions enable the capability unknown, which this server does not have")
