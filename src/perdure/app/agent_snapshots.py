"""Snapshots: each change of an agent's configuration adds a version in the same transaction."""

from __future__ import annotations

import msgspec

from perdure.app.context import App
from perdure.capabilities.layers import agent_layer, harness_layer
from perdure.capabilities.model_choice import model_claims
from perdure.capabilities.registry import Registry
from perdure.capabilities.resolve import resolve
from perdure.domain.accounts import Caller
from perdure.domain.agent_versions import ChangeKind, ResolvedConfig, hash_of_config, next_semver
from perdure.domain.ids import AgentVersionId
from perdure.domain.resources import check_size
from perdure.domain.times import Micros
from perdure.domain.tools import CapabilityRef
from perdure.store.agent_versions import AgentVersionRow, add_version, authored_of, latest_version
from perdure.store.agents import AgentRow
from perdure.store.database import Tx
from perdure.store.harnesses import harness_chain
from perdure.store.rows import to_json


async def resolve_agent(tx: Tx, registry: Registry, row: AgentRow) -> ResolvedConfig:
    """Resolve an agent's configuration together with its harness and the harness's parents.

    Raises:
        InvalidInput: two tools have the same name.
    """
    chain = await harness_chain(tx, row.org_id, row.harness_id)
    # Sessions give the prompt's variables their values: a version has the prompt as it is written.
    own = msgspec.structs.replace(agent_layer(row), variables=None)
    layers = [*map(harness_layer, chain), own]
    agent = resolve(layers, registry)
    config = row.config_struct()
    return ResolvedConfig(
        system_prompt=agent.system,
        harnesses=tuple(each.name for each in chain),
        capabilities=tuple(CapabilityRef(each.capability.id, each.config) for each in agent.active),
        features=agent.features,
        tools=(*agent.bound, *agent.client),
        default_model_id=next(iter(model_claims(layers)), None),
        max_iterations=config.max_iterations,
        parallel_tool_calls=config.parallel_tool_calls,
    )


async def record_change(
    app: App,
    tx: Tx,
    caller: Caller,
    before: AgentRow | None,
    row: AgentRow,
    *,
    kind: ChangeKind = "auto",
    summary: str | None = None,
    source: AgentVersionId | None = None,
) -> AgentVersionRow | None:
    """Add a version if the agent is new or its configuration has changed.

    Args:
        before: the agent before the change; None for a new one.
        row: the agent after the change, its row locked.

    Returns:
        The new version, or None.

    Raises:
        InvalidInput: two of the agent's tools have the same name.
        TooLarge: the configuration exceeds the limit.
    """
    parent = None
    if before is not None:
        if hash_of_config(authored_of(before)) == hash_of_config(authored_of(row)):
            return None
        parent = await version_of(app, tx, caller, before)
    return await add_snapshot(app, tx, caller, row, parent, kind=kind, summary=summary, source=source)


async def version_of(app: App, tx: Tx, caller: Caller, row: AgentRow) -> AgentVersionRow:
    """Return the newest version with the agent's current configuration; create it if missing."""
    found = await latest_version(tx, row.org_id, row.id, hash_of_config(authored_of(row)))
    # Agents from releases without versions have none.
    return found or await add_snapshot(app, tx, caller, row, None)


async def add_snapshot(
    app: App,
    tx: Tx,
    caller: Caller,
    row: AgentRow,
    parent: AgentVersionRow | None,
    *,
    kind: ChangeKind = "auto",
    summary: str | None = None,
    source: AgentVersionId | None = None,
) -> AgentVersionRow:
    """Add a version of the agent's current configuration, even if an equal one exists.

    The caller has locked the agent's row.
    """
    latest = await latest_version(tx, row.org_id, row.id)
    authored = authored_of(row)
    config = to_json(authored)
    check_size(config)
    number = next_semver(None if latest is None else latest.semver(), kind)
    now: Micros = app.now()
    version = AgentVersionRow(
        app.new_id("agentver"),
        row.org_id,
        row.id,
        1 if latest is None else latest.version_number + 1,
        None if parent is None else parent.id,
        source,
        kind,
        *number,
        summary,
        hash_of_config(authored),
        config,
        to_json(await resolve_agent(tx, app.registry, row)),
        caller.user_id,
        now,
    )
    await add_version(tx, version)
    return version
