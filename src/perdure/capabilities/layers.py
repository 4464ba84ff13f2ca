"""The layers of a session: the settings of its harnesses, its agent, and its own.

They are read here, lowest first: the harness's parents, the harness, the agent, the session. `resolve.py`
merges them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from msgspec import Struct

from perdure.capabilities.registry import Registry
from perdure.capabilities.sections import (
    LayerKind,
)
from perdure.domain.decisions import StandingDecision
from perdure.domain.ids import ModelId
from perdure.domain.mcp_servers import InlineMcpServer, inline_refs
from perdure.domain.outputs import OutputSchema
from perdure.domain.sessions import InitialFile, NetworkAccess
from perdure.domain.subagents import Inheritance
from perdure.domain.tools import BuiltinTool, CapabilityRef, ToolDefinition
from perdure.domain.turn import TurnState
from perdure.domain.turn_queries import agent_ahead
from perdure.domain.variables import VariableValue, defaults_of, texts_of
from perdure.store.agent_versions import get_agent_at
from perdure.store.agents import AgentRow
from perdure.store.call_reads import CallReads
from perdure.store.database import Tx
from perdure.store.harnesses import HarnessRow, harness_chain
from perdure.store.sessions import SessionRow
from perdure.store.standing_approvals import standing_approvals


class Layer(Struct, frozen=True):
    """The settings of one harness, agent or session.

    Attributes:
        name: None if it is not stored yet.
        policy_only: whether only its policies apply.
        gated: the tools whose calls need approval, of a layer of which only the policies apply.
        variables: the defaults of the variables in an agent's prompt, None for required ones. Without any
            (None), the prompt is not searched for variables.
        values: what a session, or the message that its turn is for, gives for them.
        gated: tools whose calls need approval, if there are such tools.
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
    gated: frozenset[str] = frozenset()
    mcp_servers: Mapping[str, InlineMcpServer] = {}
    output_schema: OutputSchema | None = None
    variables: Mapping[str, str | None] | None = None
    values: Mapping[str, str] = {}
    fallback_models: tuple[str, ...] = ()
    deleted: bool = False

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
        standing: standing decisions of this session, by the tool's name.
        loaded: the deferred tools that the session has loaded, in the order of loading.
    """

    session: SessionRow
    layers: tuple[Layer, ...]
    standing: Mapping[str, StandingDecision]
    loaded: tuple[str, ...] = ()

    def stopped_agent(self, *, begun: bool) -> str | None:
        """The name of the session's agent if it has been archived or deleted, so that the turn fails.

        An archived one still ends a turn that has begun: somebody may have approved a call of it since.
        """
        agents = (each for each in self.layers if each.kind == "agent" and not each.policy_only)
        return next((each.name for each in agents if each.deleted or (each.archived and not begun)), None)


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


def agent_policy_layer(row: AgentRow) -> Layer:
    """The policies of an agent: those of a session's first agent, and of its parents', bind all others."""
    config = row.config_struct()
    return Layer(
        "agent",
        row.name,
        None,
        config.capabilities,
        network=config.network_access,
        policy_only=True,
        gated=needing_approval(config.tools),
    )


def inherited_layer(policies: Inheritance) -> Layer:
    """The policies of a parent's own settings."""
    hosts = NetworkAccess(policies.allowed, policies.blocked)
    return Layer(
        "session",
        None,
        None,
        policies.capabilities,
        network=hosts if policies.allowed or policies.blocked else None,
        policy_only=True,
        gated=frozenset(policies.gated),
    )


def needing_approval(tools: Iterable[ToolDefinition]) -> frozenset[str]:
    """The names of the tools whose definitions require approval."""
    builtin = (tool for tool in tools if isinstance(tool, BuiltinTool))
    return frozenset(tool.name for tool in builtin if tool.policy == "requires_approval")


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
        output_schema=config.output_schema,
        variables=None if config.variables is None else defaults_of(config.variables),
        fallback_models=config.fallback_models,
        deleted=row.status == "deleted",
    )


def session_layer(row: SessionRow, values: Mapping[str, VariableValue] | None = None) -> Layer:
    """The layer of a session.

    Args:
        values: the values that the turn's message gives for variables.
    """
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
        output_schema=config.output_schema,
        values=texts_of({**config.variables, **(values or {})}),
        fallback_models=config.fallback_models,
    )


async def load_layers(
    tx: Tx,
    session: SessionRow,
    values: Mapping[str, VariableValue] | None = None,
    known: CallReads | None = None,
) -> SessionLayers:
    """Read what the session's agent is resolved from.

    Args:
        values: the values that the turn's message gives for variables.
        known: what was read already.

    Raises:
        NotFound: a harness or an agent is missing.
    """
    layers = await read_layers(tx, session, values, known)
    standing = await standing_approvals(tx, session.id) if known is None else known.approvals
    return SessionLayers(session, layers, standing, session.loaded_names())


async def read_layers(
    tx: Tx,
    session: SessionRow,
    values: Mapping[str, VariableValue] | None = None,
    known: CallReads | None = None,
) -> tuple[Layer, ...]:
    """Read the layers alone, lowest first. Arguments and errors are those of `load_layers`."""
    above = await _inherited(tx, session)
    below = [each.layer() for each in await rows_below(tx, session, known)]
    return (*above, *below, session_layer(session, values))


async def _inherited(tx: Tx, session: SessionRow) -> list[Layer]:
    """Read the policies of the sessions above a sub-agent's, as far as its own layers do not have them."""
    found: list[Layer] = []
    for each in session.config_struct().inherited:
        found += [policy_layer(row) for row in await harness_chain(tx, session.org_id, each.harness_id)]
        if each.agent_id is not None:
            agent = await get_agent_at(tx, session.org_id, each.agent_id, each.agent_version_id)
            if agent.harness_id != each.harness_id:
                chain = await harness_chain(tx, session.org_id, agent.harness_id)
                found += [policy_layer(row) for row in chain]
            found.append(agent_policy_layer(agent))
        found.append(inherited_layer(each))
    return found


class LayerRow(Struct, frozen=True):
    """A harness or an agent below a session.

    Only the policies apply of the harness of another harness's agent, and of the agent that the session was
    created with while another one works in it.
    """

    row: HarnessRow | AgentRow
    policy_only: bool = False

    def layer(self) -> Layer:
        """Make the row's layer."""
        if isinstance(self.row, AgentRow):
            return agent_policy_layer(self.row) if self.policy_only else agent_layer(self.row)
        return policy_layer(self.row) if self.policy_only else harness_layer(self.row)


class KnownLayers(Protocol):
    """A session's harness and agent, as they were read already. What is None is read again."""

    @property
    def harness(self) -> HarnessRow | None: ...

    @property
    def agent(self) -> AgentRow | None: ...


async def rows_below(tx: Tx, session: SessionRow, known: KnownLayers | None = None) -> list[LayerRow]:
    """Read the harnesses and the agent below the session's own layer, lowest first. Raises NotFound.

    Args:
        known: what was read already.
    """
    harness = None if known is None else known.harness
    rows = [LayerRow(row) for row in await harness_chain(tx, session.org_id, session.harness_id, harness)]
    own, first = session.own_agent(), session.first_agent()
    for at in (own,) if first == own else (first, own):
        if at.agent_id is None:
            continue
        current = None if known is None or at != own else known.agent
        agent = await get_agent_at(tx, session.org_id, at.agent_id, at.agent_version_id, current)
        if agent.harness_id != session.harness_id:
            chain = await harness_chain(tx, session.org_id, agent.harness_id)
            rows += [LayerRow(row, policy_only=True) for row in chain]
        rows.append(LayerRow(agent, policy_only=at != own))
    return rows


def acting(session: SessionRow, state: TurnState) -> SessionRow:
    """The session as if the agent of its next action were its own, to read the layers for it."""
    return session.under(agent_ahead(state, session.own_agent()))
