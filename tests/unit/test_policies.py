"""Policies of layers: they only tighten, and a change that loosens them is recognized."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from perdure.capabilities import Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.capabilities.layers import Layer
from perdure.capabilities.policy import Policy, loosens, policy_of
from perdure.capabilities.registry import Registry
from perdure.capabilities.resolve import ResolvedAgent, resolve
from perdure.domain.decisions import StandingDecision
from perdure.domain.guards import Guard, GuardedFiles
from perdure.domain.hosts import host_name, same_origin
from perdure.domain.messages import JsonObject
from perdure.domain.network import combine
from perdure.domain.sessions import NetworkAccess
from perdure.domain.tools import BuiltinTool, CapabilityRef
from perdure.tools.built_in import catalogue

GATE = Capability(
    id="gate", name="Gate", description="Asks.", category="test",
    gate=lambda config, tool: tool.name in (config or ("default_tool",)),
)  # fmt: skip
"""A plug-in's policy, which does not say how configurations merge."""


async def _nothing(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    return ToolOutcome(None)


def _tool(name: str, size: str) -> Tool:
    return Tool(name, size, schema({}), _nothing)


SIZED = Capability(
    id="sized", name="Sized", description="A tool that a layer limits.", category="test",
    tools=lambda config: (_tool("sized_tool", (config or {}).get("size", "unlimited")),),
)  # fmt: skip
REGISTRY = Registry((*catalogue(), GATE, SIZED))

MODES: tuple[Any, ...] = ({"mode": "off"}, None, {}, {"mode": "normal"}, {"mode": "protective"})
TIGHTNESS = (0, 1, 1, 1, 2)


def layer(*refs: CapabilityRef, kind: Any = "agent", **more: Any) -> Layer:
    return Layer(kind, None, None, refs, **more)


def approval(config: Any) -> CapabilityRef:
    return CapabilityRef("tool_approval", config)


FILES = CapabilityRef("session_file_system")
SHELL = CapabilityRef("virtual_bash")
FETCH = CapabilityRef("web_fetch")


def asked(agent: ResolvedAgent) -> frozenset[str]:
    return agent.rules.gated


@pytest.mark.parametrize("order", list(product(range(len(MODES)), repeat=3)))
def test_the_tightest_mode_of_all_layers_applies_in_every_order(order: tuple[int, ...]) -> None:
    tools = layer(FILES, SHELL, FETCH)
    agent = resolve([tools, *(layer(approval(MODES[each])) for each in order)], REGISTRY)
    alone = resolve([tools, layer(approval(MODES[max(order, key=TIGHTNESS.__getitem__)]))], REGISTRY)
    assert asked(agent) == asked(alone)
    shown = next(each.config for each in agent.active if each.capability.id == "tool_approval")
    assert resolve([tools, layer(approval(shown))], REGISTRY).rules == agent.rules


def test_one_layer_that_names_a_policy_twice_cannot_loosen_it_either() -> None:
    refs = (SHELL, approval({"mode": "protective"}), approval({"mode": "off"}))
    assert "bash" in asked(resolve([layer(*refs)], REGISTRY))


def test_a_plug_ins_gate_asks_if_any_layer_wants_it() -> None:
    below = layer(FILES, CapabilityRef("gate", ["read_file"]))
    above = layer(CapabilityRef("gate", ["write_file"]))
    assert asked(resolve([below, above], REGISTRY)) == {"read_file", "write_file"}


def test_what_is_no_policy_still_follows_the_later_layer() -> None:
    first, second = ({"max_characters": size} for size in (5_000, 2_000))
    for configs, wanted in (((first, second), 2_000), ((second, first), 5_000), ((first, None), 5_000)):
        refs = [layer(CapabilityRef("output_truncation", config)) for config in configs]
        assert resolve(refs, REGISTRY).behaviour.output_limit == wanted


def test_a_definition_neither_loosens_nor_replaces_a_tool_of_a_capability() -> None:
    auto = BuiltinTool("bash", "Mine.", {"type": "object"}, policy="auto")
    below = layer(SHELL, approval({"mode": "normal"}))
    assert "bash" in asked(resolve([below, layer(tools=(auto,))], REGISTRY))
    limited = BuiltinTool("sized_tool", "Mine.", {"type": "object"})
    agent = resolve([layer(CapabilityRef("sized", {"size": "small"})), layer(tools=(limited,))], REGISTRY)
    assert agent.bound["sized_tool"].tool.description == "small"


def test_a_layer_of_policies_only_brings_nothing_else_along() -> None:
    below = layer(SHELL, FETCH, approval({"mode": "protective"}), policy_only=True)
    agent = resolve([below, layer(FILES)], REGISTRY)
    assert "bash" not in agent.bound
    assert "web_fetch" not in agent.bound
    assert "write_file" in asked(agent)


@pytest.mark.parametrize(
    ("path", "asks"),
    [
        ("/AGENTS.md", True),
        ("AGENTS.md", True),
        ("/workspace/AGENTS.md", True),
        ("//x/..//./AGENTS.md", True),
        (" /AGENTS.md ", True),
        ("/agents.md", True),
        ("/docs/AGENTS.md", True),
        ("/.agents/skills/pdf/SKILL.md", True),
        ("/workspace/.Agents/x", True),
        ("/docs", False),
        ("/.agents.md", False),
        ("/AGENTS.md.bak", False),
        ("/bad\x00", False),
        (None, False),
        (1, False),
    ],
)
def test_normal_mode_asks_before_instructions_are_written(path: Any, asks: bool) -> None:
    refs = (CapabilityRef("agent_instructions"), FILES)
    rules = resolve([layer(*refs, approval({"mode": "normal"}))], REGISTRY).rules
    for tool in ("write_file", "edit_file"):
        assert rules.guarded[tool].covers({"path": path}) is asks
    assert set(rules.guarded) == {"write_file", "edit_file", "delete_file"}
    assert not rules.guarded["write_file"].covers("not an object")
    assert resolve([layer(*refs, approval({"mode": "protective"}))], REGISTRY).rules.guarded == rules.guarded
    assert not resolve([layer(*refs, approval({"mode": "off"}))], REGISTRY).rules.guarded


@pytest.mark.parametrize(
    ("decision", "left"),
    [
        (StandingDecision("allow_always"), {"edit_file", "delete_file"}),  # of an older release
        (StandingDecision("allow_always", covers=("persistent_change",)), {"edit_file", "delete_file"}),
        (StandingDecision("allow_always", covers=()), {"write_file", "edit_file", "delete_file"}),
        (StandingDecision("reject_always", covers=()), {"edit_file", "delete_file"}),
    ],
)
def test_a_tool_that_is_always_allowed_still_asks_about_instructions_unless_that_was_the_question(
    decision: StandingDecision, left: set[str]
) -> None:
    refs = (CapabilityRef("agent_instructions"), FILES, approval({"mode": "protective"}))
    rules = resolve([layer(*refs)], REGISTRY, {"write_file": decision}).rules
    assert "write_file" not in rules.gated
    assert set(rules.guarded) == left


def test_other_files_of_instructions_are_guarded_too() -> None:
    refs = (CapabilityRef("agent_instructions", {"files": ["docs/HOUSE.md"]}), approval(None))
    guard = resolve([layer(*refs)], REGISTRY).rules.guarded["write_file"]
    house = {"/docs/HOUSE.md", "/workspace/docs/HOUSE.md"}
    # Those of the default stay guarded: another session on the same files may read them.
    files = GuardedFiles(frozenset(house | {"/AGENTS.md", "/workspace/AGENTS.md"}))
    assert guard == Guard("path", files)
    for path in ("/docs/HOUSE.md", "/DOCS/house.md", "/docs", "/", "/workspace", "/.agents"):
        assert files.has(path), path
    for path in ("/HOUSE.md", "/docs/x/HOUSE.md", "/docs/HOUSE.md.txt", "/doc", "/agents"):
        assert not files.has(path), path
    none = layer(CapabilityRef("agent_instructions", {"files": []}))
    assert resolve([layer(*refs), none], REGISTRY).rules.guarded["write_file"] == guard


def _policy(*refs: CapabilityRef, **more: Any) -> Policy:
    return policy_of([layer(*refs, **more)], REGISTRY)


def _hosts(allowed: tuple[str, ...] = (), blocked: tuple[str, ...] = ()) -> Policy:
    return _policy(network=NetworkAccess(allowed, blocked))


def _gated(*names: str) -> Policy:
    tools = tuple(BuiltinTool(name, "", {"type": "object"}, policy="requires_approval") for name in names)
    return _policy(tools=tools)


NOTHING = _policy()
OFF, NORMAL, PROTECTIVE = (_policy(approval({"mode": mode})) for mode in ("off", "normal", "protective"))


@pytest.mark.parametrize(
    ("before", "after", "looser"),
    [
        (NOTHING, NOTHING, False),
        (NOTHING, PROTECTIVE, False),
        (OFF, NOTHING, False),
        (NORMAL, NORMAL, False),
        (NORMAL, PROTECTIVE, False),
        (PROTECTIVE, NORMAL, True),
        (PROTECTIVE, OFF, True),
        (NORMAL, NOTHING, True),
        (_policy(CapabilityRef("gate", ["bash", "glob"])), _policy(CapabilityRef("gate", ["bash"])), True),
        (_policy(CapabilityRef("gate", ["bash"])), PROTECTIVE, False),
        (_gated("bash"), _gated("bash", "glob"), False),
        (_gated("bash", "glob"), _gated("bash"), True),
        (_gated("bash"), NORMAL, False),
        (_gated("glob"), PROTECTIVE, True),
        (_hosts(("a.com",)), NOTHING, True),
        (_hosts(("a.com",)), _hosts(("a.com", "b.com")), True),
        (_hosts(("a.com", "b.com")), _hosts(("b.com",)), False),
        (_hosts(("*.a.com",)), _hosts(("x.a.com", "*.y.a.com")), False),
        (_hosts(("*.a.com",)), _hosts(("a.com",)), True),
        (_hosts(("a.com",)), _hosts(("*.a.com",)), True),
        (_hosts(("a.com",)), _hosts(("*",)), True),
        (_hosts(("*",)), _hosts(("a.com",)), False),
        (_hosts(("*",)), NOTHING, True),
        (_hosts((), ("a.com",)), _hosts((), ("*.com", "b.org")), False),
        (_hosts((), ("*.com",)), _hosts((), ("a.com",)), True),
        (_hosts((), ("a.com",)), NOTHING, True),
        (_hosts((), ("a.com",)), _hosts((), ("*",)), False),
        (_hosts(("a.com",), ("b.com",)), _hosts(("A.com.",), ("https://b.com/x",)), False),
    ],
)
def test_a_change_that_lets_something_more_pass_is_recognized(
    before: Policy, after: Policy, looser: bool
) -> None:
    assert loosens(before, after, REGISTRY) is looser


def test_host_lists_of_layers_combine_to_what_none_refuses() -> None:
    lists = [NetworkAccess(("*.a.com", "b.com"), ()), NetworkAccess(("x.a.com", "b.com"), ("b.com",)), None]
    for order in (lists, lists[::-1]):
        rules = combine(order)
        hosts = ("x.a.com", "y.a.com", "a.com", "b.com")
        assert [host for host in hosts if rules.permits(host)] == ["x.a.com"]


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:9000", "localhost:9000", True),
        ("HTTP://LOCALHOST:9000", "localhost:9000", True),
        ("http://localhost", "localhost", True),
        ("http://localhost", "localhost:80", True),
        ("http://[::1]:9000", "[::1]:9000", True),
        ("http://[::1]", "[::1]", True),
        ("http://localhost:3000", "localhost:9000", False),
        ("http://localhost", "localhost:9000", False),
        ("https://localhost:9000", "localhost:9000", False),
        ("http://127.0.0.1:9000", "localhost:9000", False),
        ("http://[::1]:3000", "[::1]:9000", False),
        ("http://evil.com", "localhost:9000", False),
        ("null", "localhost:9000", False),
        ("null", "", False),
        ("", "localhost:9000", False),
        ("localhost:9000", "localhost:9000", False),
        ("file://", "localhost:9000", False),
        ("chrome-extension://localhost:9000", "localhost:9000", False),
        ("http://localhost:9000@evil.com", "localhost:9000", False),
    ],
)
def test_an_origin_is_the_servers_own_only_with_scheme_host_and_port(
    origin: str, host: str, same: bool
) -> None:
    assert same_origin(origin, host) is same


HOSTS = {
    "localhost": "localhost", "LocalHost:80": "localhost", "localhost:": "localhost",
    "127.0.0.1:9000": "127.0.0.1",
    "[::1]": "::1", "[::1]:9000": "::1", "evil.example:80": "evil.example",
    "127.0.0.1:9000, evil.example": "", "127.0.0.1:80, 127.0.0.1:80": "", "[::1], evil.example": "",
    "[::1]evil.example": "", "127.0.0.1:evil.example": "", "localhost:80:90": "", "[::1": "", "": "",
}  # fmt: skip


@pytest.mark.parametrize("header", HOSTS)
def test_only_a_name_with_at_most_a_port_is_a_host(header: str) -> None:
    assert host_name(header) == HOSTS[header]
