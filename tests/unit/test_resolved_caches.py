"""What is kept between turns and requests: resolved agents, and the features of configurations."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.capabilities.agent_cache import CAPACITY, MAX_TOKENS, AgentCache
from perdure.capabilities.features import FeatureCache
from perdure.capabilities.layers import Layer, LayerRow, SessionLayers
from perdure.capabilities.port import Capability, Discovered, DiscoveryContext
from perdure.capabilities.registry import Registry
from perdure.capabilities.resolve import ResolvedAgent, resolve_session
from perdure.domain.decisions import StandingDecision
from perdure.domain.ids import new_id
from perdure.domain.redaction import Redactor
from perdure.domain.sessions import InitialFile
from perdure.domain.tools import CapabilityRef
from perdure.store.harnesses import HarnessRow
from perdure.store.rows import to_json
from tests.conformance.test_agents_store import session

found = {"text": "first"}


async def discover(config: Any, context: DiscoveryContext) -> Discovered:
    return Discovered(found["text"])


def capability(name: str, **more: Any) -> Capability:
    return Capability(
        name, name.title(), name, "test", features=(name,), prompt=lambda config: f"{name} {config}", **more
    )


REGISTRY = Registry([capability("plain"), capability("reads", discover=discover, reads_database=True)])
ROW = session()


def layers(*refs: CapabilityRef, standing: dict[str, str] | None = None, **fields: Any) -> SessionLayers:
    return SessionLayers(ROW, (Layer("harness", "h", "You help.", refs, **fields),), standing or {})


async def agent_of(cache: AgentCache | None, loaded: SessionLayers, limit: int = 10) -> ResolvedAgent:
    return await resolve_session(
        loaded,
        REGISTRY,
        now=lambda: 0,
        redactor=Redactor({}),
        model=None,
        max_iterations=limit,
        cache=cache,
    )


async def test_equal_layers_are_resolved_once() -> None:
    cache = AgentCache()
    first = await agent_of(cache, layers(CapabilityRef("plain", {"n": 1})))
    again = await agent_of(cache, layers(CapabilityRef("plain", {"n": 1})))
    assert again.specs is first.specs
    assert again.system is first.system


@pytest.mark.parametrize(
    "changed",
    [
        layers(CapabilityRef("plain", {"n": 2})),
        layers(),
        layers(CapabilityRef("plain", {"n": 1}), max_iterations=3),
        layers(CapabilityRef("plain", {"n": 1}), standing={"tool": StandingDecision("reject_always")}),
        msgspec.structs.replace(layers(), layers=(Layer("harness", "h", "You do not help."),)),
    ],
    ids=["a configuration", "a capability", "a limit", "a decision", "a prompt"],
)
async def test_any_change_counts_at_once(changed: SessionLayers) -> None:
    cache = AgentCache()
    before = layers(CapabilityRef("plain", {"n": 1}))
    await agent_of(cache, before)
    assert cache.get(before, 10) is not None
    assert cache.get(before, 11) is None
    assert cache.get(changed, 10) is None
    assert await agent_of(cache, changed) == await agent_of(None, changed)
    assert await agent_of(cache, before) == await agent_of(None, before)


async def test_what_is_discovered_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, loaded = AgentCache(), layers(CapabilityRef("reads"))
    assert "first" in (await agent_of(cache, loaded)).system
    monkeypatch.setitem(found, "text", "second")
    assert "second" in (await agent_of(cache, loaded)).system


async def test_large_agents_are_not_kept_and_there_are_never_many() -> None:
    cache = AgentCache()
    large = msgspec.structs.replace(layers(), layers=(Layer("agent", "a", "word " * MAX_TOKENS),))
    with_files = layers(initial_files=(InitialFile("/a.txt", "text"),))
    for loaded in (large, with_files):
        await agent_of(cache, loaded)
        assert cache.get(loaded, 10) is None
    others = [msgspec.structs.replace(layers(), session=session(agent_id=new_id("agent"))) for _ in range(40)]
    for loaded in others:
        await agent_of(cache, loaded)
    assert [cache.get(loaded, 10) is not None for loaded in others] == [False] * (40 - CAPACITY) + [
        True
    ] * CAPACITY


def test_features_follow_the_configurations() -> None:
    cache = FeatureCache()

    def features(*refs: str, policy_only: bool = False) -> tuple[str, ...]:
        config = to_json({"capabilities": [{"ref": ref} for ref in refs]})
        row = HarnessRow(
            new_id("harness"), ROW.org_id, "h", None, None, None, None, None, "[]", config, 0, "active", 0, 0,
            None,
        )  # fmt: skip
        return cache.of_rows(REGISTRY, [LayerRow(row, policy_only)])

    for _ in range(2):
        assert features("plain") == ("plain",)
        assert features("reads", "plain") == ("plain", "reads")
        assert features("plain", policy_only=True) == ()
        assert features(*["plain"] * 1000) == ("plain",)
