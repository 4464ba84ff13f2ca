"""Resolves a session's layers to the agent that runs. Layers are merged nowhere else.

    load_layers (one read) -> discover (no transaction) -> merge (pure) -> ResolvedAgent

Layers are ordered lowest first: the harness's parents, the harness, the agent, the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from perdure.capabilities.agent_cache import AgentCache, Resolved
from perdure.capabilities.discovery import discover
from perdure.capabilities.guards import guards_of
from perdure.capabilities.port import Behaviour, Discovered, DiscoveryContext, Tool
from perdure.capabilities.registry import Active, Registry
from perdure.capabilities.sections import (
    LayerKind,
    Section,
    capability_section,
    discovered_section,
    layer_section,
    system_prompt,
)
from perdure.capabilities.tool_lists import ToolList
from perdure.domain.actions import TurnRules
from perdure.domain.errors import InvalidInput
from perdure.domain.files import Content
from perdure.domain.guards import Guard
from perdure.domain.ids import ModelId
from perdure.domain.mcp_servers import MAX_MCP_SERVERS, InlineMcpServer, inline_refs, is_mcp
from perdure.domain.network import NetworkRules, PrivateAddresses, combine
from perdure.domain.providers import ProviderSecrets
from perdure.domain.redaction import Redactor
from perdure.domain.sessions import InitialFile, NetworkAccess
from perdure.domain.times import Micros
from perdure.domain.tools import BuiltinTool, CapabilityRef, ClientSideTool, ToolDefinition
from perdure.llm.driver import Driver, ToolSpec, fixed_tokens
from perdure.store.agent_versions import get_agent_at
from perdure.store.agents import AgentRow
from perdure.store.crypto import Vault
from perdure.store.database import Tx
from perdure.store.harnesses import HarnessRow, harness_chain
from perdure.store.providers import ModelRow, ProviderRow, open_secrets, usable_model
from perdure.store.sessions import SessionRow
from perdure.store.standing_approvals import standing_approvals


class Layer(Struct, frozen=True):
    """The settings of one harness, agent or session.

    Attributes:
        name: None if it is not stored yet.
        policy_only: whether only its policies apply.
    """

    kind: LayerKind
    name: str | None
    system_prompt: str | None
    capabilities: tuple[CapabilityRef, ...] = ()
    tools: tuple[ToolDefinition, ...] = ()
    network: NetworkAccess | None = None
    initial_files: tuple[InitialFile, ...] = ()
    model_id: ModelId | None = None
    max_iterations: int | None = None
    parallel_tool_calls: bool | None = None
    archived: bool = False
    policy_only: bool = False
    mcp_servers: Mapping[str, InlineMcpServer] = {}

    def refs(self, registry: Registry) -> tuple[CapabilityRef, ...]:
        """The capabilities that the layer turns on. Each inline MCP server is one, by its name."""
        if not self.policy_only:
            own = self.capabilities
            return (*own, *inline_refs(self.mcp_servers)) if self.mcp_servers else own
        found = ((ref, registry.get(ref.ref)) for ref in self.capabilities)
        return tuple(ref for ref, capability in found if capability is not None and capability.is_policy)


class SessionLayers(Struct, frozen=True):
    """Everything that a session's agent is resolved from.

    Attributes:
        layers: lowest first.
        standing: standing approval decisions of this session, by the tool's name.
        definitions: the digests of the definitions that they were given to, of tools that have one.
    """

    session: SessionRow
    layers: tuple[Layer, ...]
    standing: dict[str, str]
    definitions: dict[str, str] = {}

    @property
    def archived_agent(self) -> str | None:
        """The name of the session's agent if it has been archived or deleted."""
        return next((each.name for each in self.layers if each.kind == "agent" and each.archived), None)


class BoundTool(Struct, frozen=True):
    """A tool that runs on the server, its capability, and whether its calls may run.

    Attributes:
        gated: whether each call needs approval.
        rejected: whether every call is rejected.
    """

    tool: Tool
    capability_id: str
    capability_name: str
    gated: bool = False
    rejected: bool = False


class UsableModel(Struct, frozen=True):
    """A model that may be called, and the provider that serves it."""

    model: ModelRow
    provider: ProviderRow


class ModelChoice(UsableModel, frozen=True):
    """The model to call, with the driver that makes the calls."""

    driver: Driver


class ResolvedAgent(Struct, frozen=True):
    """The agent that the layers resolve to.

    Attributes:
        sections, system: the system prompt, by source and as one text.
        active: the active capabilities, each after those that it depends on.
        bound, client: the tools by name: those that run on the server, and those that clients run.
        names: the names of all tools.
        keepers: the tools with arguments that are secrets.
        specs: all tools, as the model receives them.
        features: the union of what the active capabilities declare, sorted.
        network: the hosts that tools may reach.
        fixed_tokens: the estimated tokens of the system prompt and the tools.
        model: None when none is configured, or when the agent is resolved without a session.
        found_tools: the tools that capabilities found, to be stored; None if none of them finds any.
    """

    sections: tuple[Section, ...]
    system: str
    active: tuple[Active, ...]
    bound: dict[str, BoundTool]
    client: dict[str, ClientSideTool]
    names: frozenset[str]
    keepers: tuple[Tool, ...]
    specs: tuple[ToolSpec, ...]
    features: tuple[str, ...]
    rules: TurnRules
    behaviour: Behaviour
    parallel_tool_calls: bool | None
    network: NetworkRules
    fixed_tokens: int
    model: UsableModel | None = None
    found_tools: ToolList | None = None


# --- layers ---------------------------------------------------------------------------------------------


def harness_layer(row: HarnessRow) -> Layer:
    """The layer of a harness; its parents are separate layers."""
    config = row.config_struct()
    return Layer(
        "harness",
        row.name,
        row.system_prompt,
        config.capabilities,
        network=config.network_access,
        initial_files=config.initial_files,
        parallel_tool_calls=config.parallel_tool_calls,
        model_id=row.default_model_id,
        mcp_servers=config.mcp_servers,
    )


def policy_layer(row: HarnessRow) -> Layer:
    """The policies of a harness: those of an agent's harness apply in sessions under other harnesses too."""
    config = row.config_struct()
    return Layer(
        "harness", row.name, None, config.capabilities, network=config.network_access, policy_only=True
    )


def agent_layer(row: AgentRow) -> Layer:
    """The layer of an agent."""
    config = row.config_struct()
    return Layer(
        "agent",
        row.name,
        row.system_prompt,
        config.capabilities,
        config.tools,
        config.network_access,
        config.initial_files,
        row.default_model_id,
        config.max_iterations,
        config.parallel_tool_calls,
        archived=row.status != "active",
        mcp_servers=config.mcp_servers,
    )


def session_layer(row: SessionRow) -> Layer:
    """The layer of a session."""
    config = row.config_struct()
    return Layer(
        "session",
        None,
        config.system_prompt,
        config.capabilities,
        config.tools,
        config.network_access,
        config.initial_files,
        None if row.model_id is None else ModelId(row.model_id),
        config.max_iterations,
        config.parallel_tool_calls,
        mcp_servers=config.mcp_servers,
    )


async def load_layers(tx: Tx, session: SessionRow) -> SessionLayers:
    """Read what the session's agent is resolved from. Raises NotFound if a harness or agent is missing."""
    below = [each.layer() for each in await rows_below(tx, session)]
    layers = (*below, session_layer(session))
    return SessionLayers(session, layers, *await standing_approvals(tx, session.id))


class LayerRow(Struct, frozen=True):
    """A harness or an agent below a session. Of the harness of another harness's agent, only the policies."""

    row: HarnessRow | AgentRow
    policy_only: bool = False

    def layer(self) -> Layer:
        """Make the row's layer."""
        if isinstance(self.row, AgentRow):
            return agent_layer(self.row)
        return policy_layer(self.row) if self.policy_only else harness_layer(self.row)


async def rows_below(tx: Tx, session: SessionRow) -> list[LayerRow]:
    """Read the harnesses and the agent below the session's own layer, lowest first. Raises NotFound."""
    rows = [LayerRow(row) for row in await harness_chain(tx, session.org_id, session.harness_id)]
    if session.agent_id is not None:
        agent = await get_agent_at(tx, session.org_id, session.agent_id, session.agent_version_id)
        if agent.harness_id != session.harness_id:
            chain = await harness_chain(tx, session.org_id, agent.harness_id)
            rows += [LayerRow(row, policy_only=True) for row in chain]
        rows.append(LayerRow(agent))
    return rows


# --- the model ------------------------------------------------------------------------------------------

DriverSource = Callable[[ProviderRow, ProviderSecrets], Driver]
"""Creates the driver of a provider from its decrypted secrets. Raises InvalidInput if it cannot."""


def model_claims(layers: Sequence[Layer]) -> tuple[ModelId, ...]:
    """The models that the layers set, highest precedence first."""
    return tuple(layer.model_id for layer in reversed(layers) if layer.model_id is not None)


async def find_model(tx: Tx, loaded: SessionLayers, requested: str | None = None) -> UsableModel | None:
    """Find the model for the next call; None when none is configured.

    Order of precedence: the message (`requested`), session, agent, harness, organization. A model that was
    deleted or disabled is skipped.
    """
    claims = model_claims(loaded.layers)
    for claim in (*claims, None) if requested is None else (requested, *claims, None):
        usable = await usable_model(tx, loaded.session.org_id, claim)
        if usable is not None:
            return UsableModel(*usable)
    return None


async def choose_model(
    tx: Tx, loaded: SessionLayers, requested: str | None, vault: Vault, drivers: DriverSource
) -> ModelChoice | None:
    """Find the model for the next call and create its driver; None when none is configured.

    Raises:
        InvalidInput: the provider's settings cannot be used.
    """
    usable = await find_model(tx, loaded, requested)
    if usable is None:
        return None
    provider = usable.provider
    secrets = await open_secrets(vault, tx, provider)
    try:
        driver = drivers(provider, secrets)
    except InvalidInput as error:
        # The settings were valid when they were stored, but the key in the environment was not checked then.
        raise InvalidInput(
            f"the provider {provider.name!r} cannot be used: {error.message}", code="provider_misconfigured"
        ) from None
    return ModelChoice(usable.model, provider, driver)


# --- resolving ------------------------------------------------------------------------------------------

DEFAULT_RULES = TurnRules()
"""The rules where no layer sets others."""


async def resolve_session(
    loaded: SessionLayers,
    registry: Registry,
    *,
    now: Callable[[], Micros],
    redactor: Redactor,
    model: UsableModel | None,
    max_iterations: int = DEFAULT_RULES.max_iterations,
    cache: AgentCache | None = None,
    offered: Content | None = None,
    secrets: Mapping[str, str] | None = None,
    private: PrivateAddresses = False,
) -> ResolvedAgent:
    """Resolve a session's current agent: runs discovery, then merges all layers.

    Call it outside any transaction.

    Args:
        offered: the stored list of the tools that the model was offered, for a turn that continues.
        secrets: the session's secrets by name, for discovery.
        private: whether addresses of private networks may be reached (`NetworkRules`).

    Raises:
        InvalidInput: two tools have the same name, or there are too many MCP servers.
        PerdureError: retryable: the database is not available.
        Undiscovered: a capability without which the turn must not continue cannot find its tools.
    """
    row = loaded.session
    known = cache.get(loaded, max_iterations) if cache is not None else None
    active = known.active if known else _active(loaded.layers, registry)
    network = known.agent.network if known else combine(layer.network for layer in loaded.layers)
    if private is not False:
        network = msgspec.structs.replace(network, private=private)
    context = DiscoveryContext(
        row.org_id, row.id, row.workspace(), now, redactor, row.locale, network, secrets or {}
    )
    discovered = await discover(active, context, registry.discoveries, offered)
    if known is not None and known.discovered == discovered.by_id:
        agent = known.agent
    else:
        standing = _Standing(loaded.standing, loaded.definitions)
        agent = _merge(loaded.layers, active, registry, standing, discovered.by_id, max_iterations)
        if cache is not None:
            cache.put(Resolved(loaded, max_iterations, active, discovered.by_id, agent))
    return msgspec.structs.replace(agent, model=model, found_tools=discovered.tools)


def resolve(
    layers: Sequence[Layer], registry: Registry, standing: Mapping[str, str] | None = None
) -> ResolvedAgent:
    """Resolve layers without a session, and so without discovery.

    Args:
        standing: standing approval decisions, by the tool's name.

    Raises:
        InvalidInput: two tools have the same name, or there are too many MCP servers.
    """
    active = _active(layers, registry)
    return _merge(layers, active, registry, _Standing(standing or {}), {}, DEFAULT_RULES.max_iterations)


def _active(layers: Sequence[Layer], registry: Registry) -> tuple[Active, ...]:
    active = registry.resolve(layer.refs(registry) for layer in layers)
    servers = sum(is_mcp(each.capability.id) for each in active)
    if servers > MAX_MCP_SERVERS:
        raise InvalidInput(
            f"the session has {servers} MCP servers, with those of its harness and agent, and may have at "
            f"most {MAX_MCP_SERVERS}: remove some",
            code="too_many_attached_mcp_servers",
        )
    return active


class _Standing(Struct, frozen=True):
    """Standing decisions by tool, and the definitions that they were given to."""

    decisions: Mapping[str, str]
    definitions: Mapping[str, str] = {}

    def of(self, tool: Tool) -> str | None:
        """The decision that applies to a tool as it is defined now. A rejection also applies to others."""
        decision = self.decisions.get(tool.name)
        if decision is None or decision == "reject_always":
            return decision
        return decision if self.definitions.get(tool.name) == tool.definition else None


def _merge(
    layers: Sequence[Layer],
    active: tuple[Active, ...],
    registry: Registry,
    standing: _Standing,
    discovered: Mapping[str, Discovered],
    max_iterations: int,
) -> ResolvedAgent:
    bound = {
        tool.name: BoundTool(tool, each.capability.id, each.capability.name)
        for each in active
        for tool in each.capability.tools(each.config)
    }
    client = _add_definitions([tool for layer in layers for tool in layer.tools], bound, registry)
    _add_discovered(active, discovered, bound, client)
    bound = {name: _decided(each, active, standing.of(each.tool)) for name, each in bound.items()}
    undecided = [each.tool for each in bound.values() if not each.gated and standing.of(each.tool) is None]
    behaviour = Behaviour()
    for each in active:
        behaviour = each.capability.behave(each.config, behaviour)
    sections = tuple(_sections(layers, active, discovered))
    system, specs = system_prompt(sections), _specs(bound, client)
    return ResolvedAgent(
        sections=sections,
        system=system,
        active=active,
        bound=bound,
        client=client,
        names=frozenset((*bound, *client)),
        keepers=tuple(each.tool for each in bound.values() if each.tool.secret_arguments),
        specs=specs,
        features=features_of(active),
        rules=_rules(layers, bound, client, guards_of(undecided, active), behaviour, max_iterations),
        behaviour=behaviour,
        parallel_tool_calls=_parallel(layers, behaviour),
        network=combine(layer.network for layer in layers),
        fixed_tokens=fixed_tokens(system, specs),
    )


def features_of(active: Iterable[Active]) -> tuple[str, ...]:
    """The union of what these capabilities declare, sorted."""
    return tuple(sorted({feature for each in active for feature in each.capability.features}))


def _sections(
    layers: Sequence[Layer], active: tuple[Active, ...], discovered: Mapping[str, Discovered]
) -> Iterable[Section]:
    for each in active:
        capability = each.capability
        prompt = capability.prompt(each.config)
        if prompt:
            yield capability_section(capability, prompt)
        if capability.discover is not None:
            result = discovered.get(capability.id)
            yield discovered_section(capability, "" if result is None else result.prompt)
    for layer in layers:
        if layer.system_prompt:
            yield layer_section(layer.kind, layer.name, layer.system_prompt)


def _add_definitions(
    definitions: Sequence[ToolDefinition], bound: dict[str, BoundTool], registry: Registry
) -> dict[str, ClientSideTool]:
    """Add the server-side tools that layers define to `bound`; returns the client-side ones."""
    client: dict[str, ClientSideTool] = {}
    defined: set[str] = set()
    for definition in definitions:
        name = definition.name
        if name in defined or (isinstance(definition, ClientSideTool) and name in bound):
            raise InvalidInput(f"two tools are named {name!r}", code="duplicate_tool", field="tools")
        defined.add(name)
        if isinstance(definition, BuiltinTool):
            gated = definition.policy == "requires_approval"
            registered = registry.tool(name)
            if name in bound:  # as its capability configured it: a definition can only tighten that
                bound[name] = msgspec.structs.replace(bound[name], gated=gated)
            elif registered is not None:
                capability, tool = registered
                bound[name] = BoundTool(tool, capability.id, capability.name, gated)
        else:
            client[name] = definition
    return client


def _add_discovered(
    active: tuple[Active, ...],
    discovered: Mapping[str, Discovered],
    bound: dict[str, BoundTool],
    client: Mapping[str, ClientSideTool],
) -> None:
    """Add the discovered tools, sorted by name, so that the prompt does not depend on the discovery's order.

    They never replace another tool, or have almost the name of one of another capability: a remote server
    must not take over a tool's name, or pass for it.
    """
    taken = {_folded(name) for name in (*bound, *client)}
    for each in active:
        result = discovered.get(each.capability.id)
        if result is None:
            continue
        own = [tool for tool in result.tools if _folded(tool.name) not in taken]
        for tool in sorted(own, key=lambda tool: tool.name):
            if tool.name not in bound:
                label = result.name or each.capability.name
                bound[tool.name] = BoundTool(tool, each.capability.id, label)
        taken.update(_folded(tool.name) for tool in own)


def _folded(name: str) -> str:
    """A tool's name as models and people easily confuse it with others."""
    return name.lower().replace("-", "_")


def _decided(bound: BoundTool, active: tuple[Active, ...], standing: str | None) -> BoundTool:
    """Apply a standing decision, or the tool's own wish and the capabilities' gates, to a tool."""
    if standing is not None:
        return msgspec.structs.replace(bound, gated=False, rejected=standing == "reject_always")
    if bound.tool.approval or any(each.gates(bound.tool) for each in active):
        return msgspec.structs.replace(bound, gated=True)
    return bound


def _specs(bound: Mapping[str, BoundTool], client: Mapping[str, ClientSideTool]) -> tuple[ToolSpec, ...]:
    tools: list[Tool | ClientSideTool] = [*(each.tool for each in bound.values()), *client.values()]
    return tuple(ToolSpec(tool.name, tool.description, tool.parameters) for tool in tools)


def _rules(
    layers: Sequence[Layer],
    bound: Mapping[str, BoundTool],
    client: Mapping[str, ClientSideTool],
    guarded: Mapping[str, Guard],
    behaviour: Behaviour,
    max_iterations: int,
) -> TurnRules:
    limits = (layer.max_iterations for layer in reversed(layers) if layer.max_iterations)
    return TurnRules(
        max_iterations=next(limits, max_iterations),
        client_tools=frozenset(client),
        gated=frozenset(name for name, each in bound.items() if each.gated),
        guarded=guarded,
        loop_limit=behaviour.loop_limit,
    )


def _parallel(layers: Sequence[Layer], behaviour: Behaviour) -> bool | None:
    set_by = (layer.parallel_tool_calls for layer in reversed(layers))
    return next((value for value in set_by if value is not None), behaviour.parallel_tool_calls)
