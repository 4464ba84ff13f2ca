"""Layers into one: harness (parents first), agent, session; capabilities, prompts, tools, and the model to call."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from perdure.capabilities.assembly import BoundTool, Layer, Section, agent_layer, harness_layer, merge_layers
from perdure.capabilities.base import Behaviour
from perdure.capabilities.registry import Active, Registry
from perdure.domain.errors import InvalidInput
from perdure.domain.messages import Controls
from perdure.domain.network import NetworkRules
from perdure.domain.tools import ClientSideTool
from perdure.domain.turn import TurnRules
from perdure.engine.services import Engine
from perdure.llm.driver import Driver, ToolSpec
from perdure.store.accounts import get_organization
from perdure.store.agent_versions import get_agent_at
from perdure.store.agents import AgentRow
from perdure.store.database import Tx
from perdure.store.harnesses import HarnessRow, harness_chain
from perdure.store.providers import ModelRow, ProviderRow, open_secrets, usable_model
from perdure.store.sessions import SessionRow, standing_approvals


class Layers(Struct, frozen=True):
    """The rows that a session stands on."""

    session: SessionRow
    harnesses: tuple[HarnessRow, ...]
    agent: AgentRow | None
    standing: dict[str, str] = {}
    """Decisions that hold for every call of a tool in this session, by the tool's name."""


class Assembly(Struct, frozen=True):
    """What the layers come to, the model aside."""

    system: str
    specs: tuple[ToolSpec, ...]
    bound: dict[str, BoundTool]
    client: dict[str, ClientSideTool]
    features: tuple[str, ...]
    rules: TurnRules
    parallel_tool_calls: bool | None
    behaviour: Behaviour = Behaviour()
    network: NetworkRules = NetworkRules()
    sections: tuple[Section, ...] = ()
    active: tuple[Active, ...] = ()


class ModelChoice(Struct, frozen=True):
    """The model that a call goes to."""

    model: ModelRow
    provider: ProviderRow
    driver: Driver


async def load_layers(tx: Tx, session: SessionRow) -> Layers:
    """Read the rows. Raises NotFound when one of them is gone."""
    harnesses = await harness_chain(tx, session.org_id, session.harness_id)
    agent = None
    if session.agent_id is not None:
        agent = await get_agent_at(tx, session.org_id, session.agent_id, session.agent_version_id)
    return Layers(session, tuple(harnesses), agent, await standing_approvals(tx, session.id))


def assemble(layers: Layers, registry: Registry, max_iterations: int) -> Assembly:
    """Merge the layers.

    Raises:
        InvalidInput: two tools have the same name.
    """
    session = layers.session.config_struct()
    stack = [harness_layer(row) for row in layers.harnesses]
    agent = None
    if layers.agent is not None:
        stack.append(agent_layer(layers.agent))
        agent = layers.agent.config_struct()
    stack.append(Layer("session", None, session.system_prompt, session.capabilities, session.tools, session.network_access))
    merged = merge_layers(stack, registry, layers.standing)
    limit = session.max_iterations or (agent.max_iterations if agent else None) or max_iterations
    parallel = session.parallel_tool_calls
    if parallel is None and agent is not None:
        parallel = agent.parallel_tool_calls
    behaviour = merged.behaviour
    if parallel is None:
        parallel = behaviour.parallel_tool_calls
    gated = frozenset(name for name, each in merged.bound.items() if each.gated)
    rules = TurnRules(max_iterations=limit, client_tools=frozenset(merged.client), gated=gated, loop_limit=behaviour.loop_limit)
    return Assembly(
        merged.system, merged.specs(), merged.bound, merged.client, merged.features(), rules, parallel, behaviour, merged.network,
        merged.sections, merged.active,
    )  # fmt: skip


def model_candidates(layers: Layers, controls: Controls | None) -> list[str]:
    """Ids of the models to consider, the strongest claim first: message, session, agent, harness."""
    wanted: list[Any] = [controls.model_id if controls else None, layers.session.model_id]
    wanted.append(layers.agent.default_model_id if layers.agent else None)
    wanted += [row.default_model_id for row in reversed(layers.harnesses)]
    return [each for each in wanted if each is not None]


async def choose_model(engine: Engine, tx: Tx, layers: Layers, controls: Controls | None) -> ModelChoice | None:
    """The model for the next call, or None when none is configured.

    A model that was deleted or switched off gives way to the next claim; the organization's default has the last one.

    Raises:
        InvalidInput: the provider's settings cannot be used.
    """
    org_id = layers.session.org_id
    for candidate in model_candidates(layers, controls):
        found = await _choice(engine, tx, org_id, candidate)
        if found is not None:
            return found
    organization = await get_organization(tx, org_id)
    if organization is None or organization.default_model_id is None:
        return None
    return await _choice(engine, tx, org_id, organization.default_model_id)


async def _choice(engine: Engine, tx: Tx, org_id: str, model_id: str) -> ModelChoice | None:
    found = await usable_model(tx, org_id, model_id)
    if found is None:
        return None
    model, provider = found
    secrets = await open_secrets(engine.vault, tx, provider)
    try:
        driver = engine.drivers(provider, secrets)
    except InvalidInput as error:
        # It was fine when it was set up; the environment's key is one thing that nobody looked at then.
        raise InvalidInput(
            f"the provider {provider.name!r} cannot be used: {error.message}", code="provider_misconfigured"
        ) from None
    return ModelChoice(model, provider, driver)
