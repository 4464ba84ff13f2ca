"""The session of a sub-agent before it begins: its agent, model and settings, and whose policies bind it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import Services
from perdure.app.sessions import check_startable
from perdure.capabilities.layers import needing_approval, read_layers
from perdure.capabilities.model_choice import find_model, model_claims
from perdure.domain.errors import Conflict, InvalidInput
from perdure.domain.ids import ModelId, SessionId
from perdure.domain.messages import Controls
from perdure.domain.sessions import InitialFile, SessionConfig
from perdure.domain.subagents import Blueprint, Inheritance, Subagents
from perdure.domain.tasks import SOURCE
from perdure.domain.times import Micros
from perdure.store.agent_versions import get_agent_at
from perdure.store.agents import AgentRow, agent_by_ref
from perdure.store.database import Tx
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow

Files = Literal["shared", "fork", "none"]


class Wanted(Struct, frozen=True):
    """What sub-agent is wanted.

    Attributes:
        agent: the id or name of its agent; None for the blueprint's, or else the parent's.
        files: whether it works on the parent's files, on a copy of them, or on its own.
        config: the configuration of the capability.
        controls: the options of the parent's turn.
        model_id: the model that the parent calls; None if it has to be looked up.
    """

    name: str
    agent: str | None
    blueprint: str | None
    files: Files
    config: Subagents
    controls: Controls
    model_id: ModelId | None = None


class Planned(Struct, frozen=True):
    """A session that is yet to be created.

    Attributes:
        files: the initial files of its layers, lowest first.
        controls: the options of its first message.
        loaded: the deferred tools that the parent has loaded, if the child has the same tools.
    """

    row: SessionRow
    files: list[tuple[InitialFile, ...]]
    controls: Controls = Controls()
    loaded: tuple[str, ...] = ()


async def plan_child(app: Services, tx: Tx, parent: SessionRow, wanted: Wanted) -> Planned:
    """Plan the session of a sub-agent.

    Without an agent of its own, it has the parent's agent, settings and tools, so that its model receives the
    same instructions first. It never has the parent's secrets, values, databases and standing approvals:
    they belong to the parent's session.

    Raises:
        Conflict: the tree is too deep.
        InvalidInput: there is no such agent or blueprint, or it cannot be used.
    """
    limit = _depth_limit(parent, wanted.config)
    if parent.depth >= limit:
        raise Conflict(
            f"sub-agents may be {limit} levels below the first session, and this one is {parent.depth}: do "
            "the work yourself",
            code="too_deep",
        )
    blueprint = _blueprint(wanted)
    agent = await _agent(tx, parent, wanted, blueprint)
    controls = wanted.controls
    model_id = wanted.model_id or await _model_of(tx, parent, controls)
    row = _new(app.new_id("session"), parent, wanted, app.now())
    if agent is None:
        row = replace(row, model_id=model_id)
    else:
        row = replace(
            row,
            harness_id=agent.harness_id,
            agent_id=agent.id,
            agent_version_id=agent.default_version_id,
            model_id=None,
        )
    config = _config(parent, controls, wanted, blueprint, own_agent=agent is not None)
    if agent is not None or (blueprint is not None and blueprint.capabilities):
        config = replace(config, inherited=(*config.inherited, _policies(parent, limit)))
    first = parent.first_agent()
    if first != parent.own_agent() and first.agent_id is not None:
        bound = Inheritance(parent.harness_id, first.agent_id, first.agent_version_id, max_depth=limit)
        config = replace(config, inherited=(*config.inherited, bound))
    row = replace(row, config=to_json(config) if config != SessionConfig() else "{}")
    files: list[tuple[InitialFile, ...]] = []
    if agent is not None or wanted.files == "none":  # otherwise, the parent's workspace has the files already
        layers = await read_layers(tx, row)
        files = [each.initial_files for each in layers]
        if agent is not None and not model_claims(layers):
            row = replace(row, model_id=model_id)
    if blueprint is not None and blueprint.model_id is not None:
        row = replace(row, model_id=ModelId(blueprint.model_id))
    if agent is not None:
        return Planned(row, files)
    return Planned(row, files, Controls(reasoning=controls.reasoning), parent.loaded_names())


async def _model_of(tx: Tx, parent: SessionRow, controls: Controls) -> ModelId | None:
    """The model that the parent's next call uses."""
    layers = await read_layers(tx, parent, controls.variables)
    model = await find_model(tx, parent.org_id, layers, controls.model_id)
    return parent.model_id if model is None else model.model.id


def _depth_limit(parent: SessionRow, config: Subagents) -> int:
    return min((config.max_depth, *(each.max_depth for each in parent.config_struct().inherited)))


def _blueprint(wanted: Wanted) -> Blueprint | None:
    if wanted.blueprint is None:
        return None
    found = wanted.config.blueprints.get(wanted.blueprint)
    if found is None:
        known = ", ".join(sorted(wanted.config.blueprints)) or "none"
        raise InvalidInput(f"there is no blueprint {wanted.blueprint!r}. There are: {known}")
    if found.agent is not None and wanted.agent is not None:
        raise InvalidInput(
            f"the blueprint {wanted.blueprint!r} has an agent of its own: leave out `agent`, or `blueprint`"
        )
    return found


async def _agent(tx: Tx, parent: SessionRow, wanted: Wanted, blueprint: Blueprint | None) -> AgentRow | None:
    """The sub-agent's agent as its new sessions run it; None for the parent's."""
    if wanted.agent is not None and wanted.agent not in wanted.config.agents:
        known = ", ".join(wanted.config.agents) or "none but your own, for which you leave out `agent`"
        raise InvalidInput(f"you cannot choose the agent {wanted.agent!r}. There are: {known}")
    ref = wanted.agent or (None if blueprint is None else blueprint.agent)
    if ref is None:
        return None
    agent = await agent_by_ref(tx, parent.org_id, ref)
    if agent is None:
        raise InvalidInput(f"the agent {ref!r} does not exist any more: choose another one, or none")
    check_startable(agent)
    return await get_agent_at(tx, parent.org_id, agent.id, agent.default_version_id)


def _config(
    parent: SessionRow, controls: Controls, wanted: Wanted, blueprint: Blueprint | None, *, own_agent: bool
) -> SessionConfig:
    """The child's own settings: those of the parent's session, unless it has an agent of its own."""
    config = parent.config_struct()
    if own_agent:
        config = SessionConfig(inherited=config.inherited)
    else:
        values = {**config.variables, **(controls.variables or {})}
        config = replace(config, initial_files=(), hints=None, output_schema=None, variables=values)
    if blueprint is None:
        return config
    return replace(
        config,
        blueprint=wanted.blueprint,
        system_prompt=blueprint.system_prompt or config.system_prompt,
        max_iterations=blueprint.max_iterations or config.max_iterations,
        capabilities=(*config.capabilities, *blueprint.capabilities),
    )


def _policies(parent: SessionRow, max_depth: int) -> Inheritance:
    config = parent.config_struct()
    hosts = config.network_access
    return Inheritance(
        parent.harness_id,
        parent.agent_id,
        parent.agent_version_id,
        config.capabilities,
        () if hosts is None else hosts.allowed,
        () if hosts is None else hosts.blocked,
        tuple(sorted(needing_approval(config.tools))),
        max_depth,
    )


def _new(session_id: SessionId, parent: SessionRow, wanted: Wanted, now: Micros) -> SessionRow:
    """A session that has not begun, with the parent's agent and owner."""
    return replace(
        parent.anew(session_id, now),
        title=wanted.name,
        tags="[]",
        workspace_id=parent.workspace() if wanted.files == "shared" else None,
        source=SOURCE,
        parent_session_id=parent.id,
        metadata="{}",
        handed_from=None,
        external=to_json(parent.external_sources()),
        root_session_id=parent.root_session_id or parent.id,
        depth=parent.depth + 1,
    )
