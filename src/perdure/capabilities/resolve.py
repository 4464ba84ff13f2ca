"""Resolves a session's layers to the agent that runs. Layers are merged nowhere else.

    load_layers (one read) -> discover (no transaction) -> merge (pure) -> ResolvedAgent

Layers are ordered lowest first: the harness's parents, the harness, the agent, the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce

import msgspec
from msgspec import Struct

from perdure.capabilities.agent_cache import AgentCache, Resolved
from perdure.capabilities.behaviour import Behaviour
from perdure.capabilities.bound_tools import (
    BoundTool,
    Standing,
    add_definitions,
    add_discovered,
    decided,
    gated_ones,
    in_background,
)
from perdure.capabilities.deferred_tools import IDENTIFIER, LABEL, DeferredTool, DeferredTools, deferred_of
from perdure.capabilities.discovery import discover
from perdure.capabilities.guards import guarded_files, guards_of, outlets_of, persistent_of
from perdure.capabilities.layers import Layer, SessionLayers
from perdure.capabilities.port import Discovered, DiscoveryContext, Tool
from perdure.capabilities.registry import Active, Registry
from perdure.capabilities.sections import (
    Section,
    capability_section,
    discovered_section,
    layer_section,
    note_section,
    system_prompt,
)
from perdure.capabilities.tool_lists import ToolList
from perdure.domain.actions import TurnRules
from perdure.domain.decisions import ANYBODY, Approvers, StandingDecision
from perdure.domain.errors import InvalidInput
from perdure.domain.files import Content
from perdure.domain.guardrails import NO_GUARDRAILS, Guardrails
from perdure.domain.mcp_servers import MAX_MCP_SERVERS, is_mcp
from perdure.domain.memories import MemoryMount
from perdure.domain.network import NetworkRules, PrivateAddresses, combine
from perdure.domain.outputs import OutputSchema
from perdure.domain.policy_hooks import MAX_HOOKS, Hook
from perdure.domain.redaction import Redactor
from perdure.domain.times import Micros
from perdure.domain.tools import ClientSideTool
from perdure.domain.variables import fill, filled_in, missing_of
from perdure.llm.driver import ToolSpec, fixed_tokens
from perdure.store.providers import UsableModel


class ResolvedAgent(Struct, frozen=True):
    """The agent that the layers resolve to.

    Attributes:
        sections, system: the system prompt, by source and as one text.
        active: the active capabilities, each after those that it depends on.
        bound, client: the tools by name: those that run on the server, and those that clients run.
        names: the names of all tools.
        keepers: the tools with arguments that are secrets.
        specs: the tools that the model is offered, as it receives them. Loaded ones are last.
        features: the union of what the active capabilities declare, sorted.
        network: the hosts that tools may reach.
        fixed_tokens: the estimated tokens of the system prompt and the tools.
        model: None when none is configured, or when the agent is resolved without a session.
        found_tools: the tools that capabilities found, to be stored; None if none of them finds any.
        deferred: the tools that the model has to search for; None if there are none.
        hidden: the names of those that the session has not loaded. They run when they are called.
        output_schema: the schema that the session or the agent sets for final answers.
        missing: the names of the prompt's variables that have no value, which a turn needs.
        approvers: who may approve calls.
        faults: which capabilities could not find their tools, and why.
        guardrails: the checks of answers, tool calls and results, of all layers.
        hooks: the policy hooks to ask, in order.
        memories: the memories in the session's files.
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
    deferred: DeferredTools | None = None
    hidden: frozenset[str] = frozenset()
    output_schema: OutputSchema | None = None
    missing: tuple[str, ...] = ()
    approvers: Approvers = ANYBODY
    faults: tuple[str, ...] = ()
    guardrails: Guardrails = NO_GUARDRAILS
    hooks: tuple[Hook, ...] = ()
    memories: tuple[MemoryMount, ...] = ()


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
        TooLarge: the agent's prompt is too long with the values of its variables.
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
        row.org_id, row.id, row.workspace(), now, redactor, row.locale, network, secrets or {}, row.owner_id
    )
    discovered = await discover(active, context, registry.discoveries, offered)
    if known is not None and known.discovered == discovered.by_id:
        agent = known.agent
    else:
        standing = Standing(loaded.standing)
        agent = _merge(loaded.layers, active, registry, standing, discovered.by_id, max_iterations)
        if cache is not None:
            cache.put(Resolved(loaded, max_iterations, active, discovered.by_id, agent))
    agent = _with_loaded(agent, loaded.loaded)
    return msgspec.structs.replace(agent, model=model, found_tools=discovered.tools)


def resolve(
    layers: Sequence[Layer], registry: Registry, standing: Mapping[str, StandingDecision] | None = None
) -> ResolvedAgent:
    """Resolve layers without a session, and so without discovery.

    Args:
        standing: standing decisions, by the tool's name.

    Raises:
        InvalidInput: two tools have the same name, or there are too many MCP servers.
    """
    active = _active(layers, registry)
    return _merge(layers, active, registry, Standing(standing or {}), {}, DEFAULT_RULES.max_iterations)


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


def _merge(
    layers: Sequence[Layer],
    active: tuple[Active, ...],
    registry: Registry,
    standing: Standing,
    discovered: Mapping[str, Discovered],
    max_iterations: int,
) -> ResolvedAgent:
    bound = {
        tool.name: BoundTool(tool, each.capability.id, each.capability.name)
        for each in active
        for tool in each.capability.tools(each.config)
    }
    client = add_definitions([tool for layer in layers for tool in layer.tools], bound, registry)
    found = add_discovered(active, discovered, bound, client)
    bound |= gated_ones(bound, (name for layer in layers for name in layer.gated))
    behaviour = Behaviour()
    for each in active:
        behaviour = each.capability.behave(each.config, behaviour)
    bound = {name: in_background(each, behaviour.background) for name, each in bound.items()}
    those = {name: DeferredTool(each.tool, each.capability_name) for name, each in bound.items()}
    deferred = deferred_of(those, found, {*bound, *client}, behaviour.tool_search)
    if deferred is not None:
        bound[deferred.search.name] = BoundTool(deferred.search, IDENTIFIER, LABEL)
    for name in frozenset[str]().union(*(layer.gated for layer in layers)) & bound.keys():
        bound[name] = msgspec.structs.replace(bound[name], gated=True)
    bound = {name: decided(each, active, standing.of(each.tool)) for name, each in bound.items()}
    hidden = frozenset[str]() if deferred is None else deferred.names
    sections = tuple(_sections(layers, active, discovered, deferred))
    offered = {name: each for name, each in bound.items() if name not in hidden} if hidden else bound
    system, specs = system_prompt(sections), _specs(offered, client)
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
        rules=_rules(layers, bound, client, active, standing, behaviour, max_iterations),
        behaviour=behaviour,
        parallel_tool_calls=_parallel(layers, behaviour),
        network=combine(layer.network for layer in layers),
        fixed_tokens=fixed_tokens(system, specs),
        deferred=deferred,
        hidden=hidden,
        output_schema=_output_schema(layers),
        missing=tuple(name for layer in layers for name in missing_of(_values(layer, layers))),
        approvers=approvers_of(active),
        faults=tuple(_faults(active, discovered)),
        guardrails=Guardrails(check for each in active for check in each.checks()),
        hooks=_hooks(active),
        memories=mounts_of(active),
    )


def _hooks(active: tuple[Active, ...]) -> tuple[Hook, ...]:
    """The policy hooks of all layers, the highest layer's first.

    So a hook of a lower layer, which binds more sessions, sees what those above it have modified.
    """
    hooks = [hook for each in active for hook in each.hooks()]
    if len(hooks) > MAX_HOOKS:
        raise InvalidInput(
            f"the session has {len(hooks)} policy hooks, with those of its harness and agent, and may have "
            f"at most {MAX_HOOKS}: remove some",
            code="too_many_policy_hooks",
        )
    return tuple(reversed(hooks))


def _faults(active: tuple[Active, ...], discovered: Mapping[str, Discovered]) -> Iterable[str]:
    """Say which capabilities could not find their tools; an MCP server's reason names the server."""
    for each in active:
        found = discovered.get(each.capability.id)
        if found is not None and found.fault:
            named = is_mcp(each.capability.id) and "MCP server" in found.fault
            yield found.fault if named else f"{each.capability.name}: {found.fault}"


def _with_loaded(agent: ResolvedAgent, names: Sequence[str]) -> ResolvedAgent:
    """The agent with the tools that its session has loaded, after all others."""
    if agent.deferred is None or not names:
        return agent
    specs, tokens = agent.deferred.loaded(names)
    return msgspec.structs.replace(
        agent,
        specs=(*agent.specs, *specs),
        fixed_tokens=agent.fixed_tokens + tokens,
        hidden=agent.hidden.difference(names),
    )


def mounts_of(active: Iterable[Active]) -> tuple[MemoryMount, ...]:
    """The memories that these capabilities mount in the session's files."""
    return tuple(mount for each in active for mount in each.mounts())


def approvers_of(active: Iterable[Active]) -> Approvers:
    """Who may approve calls: those whom every policy of every layer includes."""
    return reduce(Approvers.both, (each.approvers() for each in active), ANYBODY)


def features_of(active: Iterable[Active]) -> tuple[str, ...]:
    """The union of what these capabilities declare, sorted."""
    return tuple(sorted({feature for each in active for feature in each.capability.features}))


def _sections(
    layers: Sequence[Layer],
    active: tuple[Active, ...],
    discovered: Mapping[str, Discovered],
    deferred: DeferredTools | None,
) -> Iterable[Section]:
    for each in active:
        capability = each.capability
        prompt = capability.prompt(each.config)
        if prompt:
            yield capability_section(capability, prompt)
        if capability.discover is not None:
            result = discovered.get(capability.id)
            yield discovered_section(capability, "" if result is None else result.prompt)
    if deferred is not None:
        yield note_section(IDENTIFIER, LABEL, deferred.note())
    for layer in layers:
        if layer.system_prompt:
            prompt = layer.system_prompt
            if layer.variables is not None:
                prompt = fill(prompt, _values(layer, layers))
            yield layer_section(layer.kind, layer.name, prompt)


def _values(layer: Layer, layers: Sequence[Layer]) -> Mapping[str, str | None]:
    """The values of the variables that a layer's prompt declares, by name."""
    return filled_in(layer.variables, *(each.values for each in layers)) if layer.variables else {}


def _specs(bound: Mapping[str, BoundTool], client: Mapping[str, ClientSideTool]) -> tuple[ToolSpec, ...]:
    tools: list[Tool | ClientSideTool] = [*(each.tool for each in bound.values()), *client.values()]
    return tuple(ToolSpec(tool.name, tool.description, tool.parameters) for tool in tools)


def _rules(
    layers: Sequence[Layer],
    bound: Mapping[str, BoundTool],
    client: Mapping[str, ClientSideTool],
    active: tuple[Active, ...],
    standing: Standing,
    behaviour: Behaviour,
    max_iterations: int,
) -> TurnRules:
    files, tools = guarded_files(active), [each.tool for each in bound.values()]
    network = combine(layer.network for layer in layers)
    limits = (layer.max_iterations for layer in reversed(layers) if layer.max_iterations)
    return TurnRules(
        max_iterations=next(limits, max_iterations),
        client_tools=frozenset(client),
        gated=frozenset(name for name, each in bound.items() if each.gated),
        guarded=guards_of(tools, files, standing),
        guarded_files=files,
        persistent=persistent_of(tools, active, standing),
        outlets=outlets_of(bound, client, active, standing, network),
        rejected=frozenset(name for name, tool in client.items() if standing.of(tool) == "reject_always"),
        loop_limit=behaviour.loop_limit,
    )


def _output_schema(layers: Sequence[Layer]) -> OutputSchema | None:
    set_by = (layer.output_schema for layer in reversed(layers))
    return next((schema for schema in set_by if schema is not None), None)


def _parallel(layers: Sequence[Layer], behaviour: Behaviour) -> bool | None:
    set_by = (layer.parallel_tool_calls for layer in reversed(layers))
    return next((value for value in set_by if value is not None), behaviour.parallel_tool_calls)
