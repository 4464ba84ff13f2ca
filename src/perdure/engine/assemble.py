"""Layers into one: harness (parents first), agent, session; capabilities, prompts, tools, and the model to call."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import quoteattr

import msgspec
from msgspec import Struct

from perdure.capabilities.base import Tool
from perdure.capabilities.registry import Active, Registry
from perdure.domain.errors import InvalidInput, NotFound
from perdure.domain.messages import Controls
from perdure.domain.tools import BuiltinTool, CapabilityRef, ClientSideTool, ToolDefinition
from perdure.domain.turn import TurnRules
from perdure.engine.services import Engine
from perdure.llm.driver import Driver, ToolSpec
from perdure.store.accounts import get_organization
from perdure.store.agents import AgentRow, HarnessRow, get_agent, harness_chain
from perdure.store.database import Tx
from perdure.store.providers import ModelRow, ProviderRow, get_model, get_provider
from perdure.store.sessions import SessionRow, standing_approvals


class Layers(Struct, frozen=True):
    """The rows that a session stands on."""

    session: SessionRow
    harnesses: tuple[HarnessRow, ...]
    agent: AgentRow | None
    standing: dict[str, str] = {}
    """Decisions that hold for every call of a tool in this session, by the tool's name."""


class BoundTool(Struct, frozen=True):
    """A tool of this session, and the capability that brought it."""

    tool: Tool
    capability_id: str
    capability_name: str
    gated: bool = False
    rejected: bool = False


class Assembly(Struct, frozen=True):
    """What the layers come to, the model aside."""

    system: str
    specs: tuple[ToolSpec, ...]
    bound: dict[str, BoundTool]
    client: dict[str, ClientSideTool]
    features: tuple[str, ...]
    rules: TurnRules
    parallel_tool_calls: bool | None


class ModelChoice(Struct, frozen=True):
    """The model that a call goes to."""

    model: ModelRow
    provider: ProviderRow
    driver: Driver


async def load_layers(tx: Tx, session: SessionRow) -> Layers:
    """Read the rows. Raises NotFound when one of them is gone."""
    harnesses = await harness_chain(tx, session.org_id, session.harness_id)
    agent = None if session.agent_id is None else await get_agent(tx, session.org_id, session.agent_id)
    return Layers(session, tuple(harnesses), agent, await standing_approvals(tx, session.id))


def capability_layers(layers: Layers) -> list[tuple[CapabilityRef, ...]]:
    """The capability references of each layer, lowest first."""
    found = [harness.config_struct().capabilities for harness in layers.harnesses]
    if layers.agent is not None:
        found.append(layers.agent.config_struct().capabilities)
    found.append(layers.session.config_struct().capabilities)
    return found


def assemble(layers: Layers, registry: Registry, max_iterations: int) -> Assembly:
    """Merge the layers.

    Raises:
        InvalidInput: two tools have the same name.
    """
    active = registry.resolve(capability_layers(layers))
    bound: dict[str, BoundTool] = {}
    sections: list[str] = []
    for each in active:
        capability = each.capability
        for tool in capability.tools(each.config):
            bound[tool.name] = BoundTool(tool, capability.id, capability.name)
        prompt = capability.prompt(each.config)
        if prompt:
            sections.append(_section("capability", prompt, id=capability.id))
    session = layers.session.config_struct()
    agent = None if layers.agent is None else layers.agent.config_struct()
    client = _add_definitions((*(() if agent is None else agent.tools), *session.tools), bound, registry)
    bound = {name: _decided(each, active, layers.standing.get(name)) for name, each in bound.items()}
    sections += _prompts(layers, session.system_prompt)
    limit = session.max_iterations or (agent.max_iterations if agent else None) or max_iterations
    parallel = session.parallel_tool_calls
    if parallel is None and agent is not None:
        parallel = agent.parallel_tool_calls
    specs = [ToolSpec(b.tool.name, b.tool.description, b.tool.parameters) for b in bound.values()]
    specs += [ToolSpec(tool.name, tool.description, tool.parameters) for tool in client.values()]
    features = sorted({feature for each in active for feature in each.capability.features})
    gated_names = frozenset(name for name, each in bound.items() if each.gated)
    rules = TurnRules(max_iterations=limit, client_tools=frozenset(client), gated=gated_names)
    return Assembly("\n\n".join(sections), tuple(specs), bound, client, tuple(features), rules, parallel)


def _decided(bound: BoundTool, active: tuple[Active, ...], standing: str | None) -> BoundTool:
    """The tool with what is known of its gate: a standing decision, or whether somebody has to be asked."""
    if standing is not None:
        return msgspec.structs.replace(bound, gated=False, rejected=standing == "reject_always")
    if any(each.capability.gate(each.config, bound.tool) for each in active):
        return msgspec.structs.replace(bound, gated=True)
    return bound


def _add_definitions(
    definitions: tuple[ToolDefinition, ...], bound: dict[str, BoundTool], registry: Registry
) -> dict[str, ClientSideTool]:
    client: dict[str, ClientSideTool] = {}
    defined: set[str] = set()
    for definition in definitions:
        name = definition.name
        if name in defined or (isinstance(definition, ClientSideTool) and name in bound):
            raise InvalidInput(f"two tools are named {name!r}", code="duplicate_tool", field="tools")
        defined.add(name)
        if isinstance(definition, BuiltinTool):
            found = registry.tool(name)
            if found is not None:
                capability, tool = found
                bound[name] = BoundTool(tool, capability.id, capability.name, definition.policy == "requires_approval")
        else:
            client[name] = definition
    return client


def _prompts(layers: Layers, session_prompt: str | None) -> list[str]:
    sections = [_section("harness", row.system_prompt, name=row.name) for row in layers.harnesses if row.system_prompt]
    if layers.agent is not None and layers.agent.system_prompt:
        sections.append(_section("agent", layers.agent.system_prompt, name=layers.agent.name))
    if session_prompt:
        sections.append(_section("session", session_prompt))
    return sections


def _section(tag: str, text: str, **attributes: str) -> str:
    named = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items())
    return f"<{tag}{named}>\n{text.strip()}\n</{tag}>"


def model_candidates(layers: Layers, controls: Controls | None) -> list[str]:
    """Ids of the models to consider, the strongest claim first: message, session, agent, harness."""
    wanted: list[Any] = [controls.model_id if controls else None, layers.session.model_id]
    wanted.append(layers.agent.default_model_id if layers.agent else None)
    wanted += [row.default_model_id for row in reversed(layers.harnesses)]
    return [each for each in wanted if each is not None]


async def choose_model(engine: Engine, tx: Tx, layers: Layers, controls: Controls | None) -> ModelChoice | None:
    """The model for the next call, or None when none is configured. A model that was deleted gives way to the next claim."""
    org_id = layers.session.org_id
    candidates = model_candidates(layers, controls)
    if not candidates:
        organization = await get_organization(tx, org_id)
        if organization is not None and organization.default_model_id is not None:
            candidates = [organization.default_model_id]
    for candidate in candidates:
        try:
            model = await get_model(tx, org_id, candidate)
            provider = await get_provider(tx, org_id, model.provider_id)
        except NotFound:
            continue
        if not model.enabled or provider.status != "active":
            continue
        key = None
        if provider.api_key is not None:
            key = await engine.vault.open(tx, org_id, provider.api_key, f"provider/{provider.id}")
        return ModelChoice(model, provider, engine.drivers(provider, key))
    return None
