"""Agent versions: list, create, set the default, compare, roll restored, fork."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from perdure.app.agent_policies import check_policy_kept
from perdure.app.agent_snapshots import add_snapshot, version_of
from perdure.app.agents import apply_changes, find_agent, insert_agent, to_agent
from perdure.app.context import App
from perdure.app.restoring import Restored, restored_columns
from perdure.app.searches import search
from perdure.app.sessions import check_fallbacks, check_model, find_harness
from perdure.domain.accounts import Caller
from perdure.domain.agent_versions import (
    AgentVersion,
    AgentVersionDiff,
    CreateAgentVersion,
    ForkAgentVersion,
    ResolvedConfig,
    RollbackAgentVersion,
    SetDefaultAgentVersion,
    diff_configs,
    is_published,
)
from perdure.domain.agents import Agent, AgentConfig
from perdure.domain.ids import AgentVersionId, check_id
from perdure.domain.resources import require_manager
from perdure.domain.times import to_rfc3339
from perdure.store.agent_versions import (
    AgentVersionRow,
    get_agent_at,
    get_version,
    list_versions,
    with_authored,
)
from perdure.store.agents import AgentRow, update_agent
from perdure.store.database import Changes, Tx

_RESOLVED = msgspec.json.Decoder(ResolvedConfig)
_CONFIGURED = (
    "system_prompt",
    "harness_id",
    "display_name",
    "description",
    "default_model_id",
    "tags",
    "config",
)
"""The columns of an agent that a version sets."""


def to_version(row: AgentVersionRow) -> AgentVersion:
    """Convert a row to the resource that clients see."""
    return AgentVersion(
        id=row.id,
        agent_id=row.agent_id,
        version_number=row.version_number,
        version=".".join(map(str, row.semver())),
        semver_major=row.semver_major,
        semver_minor=row.semver_minor,
        semver_patch=row.semver_patch,
        change_kind=row.change_kind,
        is_published=is_published(row.change_kind),
        config_hash=row.config_hash,
        authored_config=row.authored(),
        resolved_config=_RESOLVED.decode(row.resolved_config),
        created_at=to_rfc3339(row.created_at),
        summary=row.summary,
        parent_version_id=row.parent_version_id,
        source_version_id=row.source_version_id,
        created_by_principal_id=f"principal_{row.created_by[5:]}",
    )


async def all_versions(
    app: App, caller: Caller, ref: str, offset: int, limit: int
) -> AsyncIterator[list[AgentVersion]]:
    """List a page of an agent's versions, newest first, in parts, without their initial files."""
    more = True
    while more:

        async def work(
            tx: Tx, offset: int = offset, limit: int = limit
        ) -> tuple[list[AgentVersionRow], bool]:
            agent = await find_agent(tx, caller.organization_id, ref)
            return await list_versions(tx, agent.org_id, agent.id, offset, limit)

        rows, more = await search(app, caller, work)
        yield [_without_files(to_version(row)) for row in rows]
        offset, limit = offset + len(rows), limit - len(rows)


def _without_files(version: AgentVersion) -> AgentVersion:
    config = msgspec.structs.replace(version.authored_config, initial_files=())
    return msgspec.structs.replace(version, authored_config=config)


async def create_version(app: App, caller: Caller, ref: str, body: CreateAgentVersion) -> AgentVersion:
    """Create a version of the agent's current configuration at a client's request."""
    require_manager(caller, "agent")

    async def work(tx: Tx) -> AgentVersion:
        agent = await find_agent(tx, caller.organization_id, ref, lock=True)
        parent = await version_of(app, tx, caller, agent)
        kind = body.change_kind or "manual"
        return to_version(await add_snapshot(app, tx, caller, agent, parent, kind=kind, summary=body.summary))

    return await app.database.write(work)


async def set_default_version(app: App, caller: Caller, ref: str, body: SetDefaultAgentVersion) -> Agent:
    """Pin new sessions of the agent to a version, or let them follow the agent again."""
    require_manager(caller, "agent")
    version_id = None if body.version_id is None else check_id(body.version_id, "agentver", "version_id")
    now = app.now()

    async def work(tx: Tx) -> Agent:
        agent = await find_agent(tx, caller.organization_id, ref, lock=True)
        before = await get_agent_at(tx, agent.org_id, agent.id, agent.default_version_id)
        after = await get_agent_at(tx, agent.org_id, agent.id, version_id)
        await check_policy_kept(app, tx, caller, before, after)
        changes: Changes = {
            "default_version_id": version_id,
            "updated_at": max(now, agent.updated_at + 1),
        }
        await update_agent(tx, agent.org_id, agent.id, changes)
        return to_agent(msgspec.structs.replace(agent, **changes))

    return await app.database.write(work)


async def diff_versions(
    app: App, caller: Caller, ref: str, from_id: AgentVersionId, to_id: AgentVersionId
) -> AgentVersionDiff:
    """Compare two versions of an agent."""

    async def work(tx: Tx) -> tuple[AgentVersionRow, AgentVersionRow]:
        agent = await find_agent(tx, caller.organization_id, ref)
        return await get_version(tx, agent.org_id, agent.id, from_id), await get_version(
            tx, agent.org_id, agent.id, to_id
        )

    old, new = map(to_version, await app.database.read(work))
    return AgentVersionDiff(
        from_id,
        to_id,
        diff_configs(old.authored_config, new.authored_config),
        diff_configs(old.resolved_config, new.resolved_config),
    )


async def roll_back(
    app: App, caller: Caller, ref: str, version_id: AgentVersionId, body: RollbackAgentVersion
) -> Agent:
    """Restore the agent's configuration from a version.

    This creates a new version, unless `save_version` is false.
    """
    require_manager(caller, "agent")
    now = app.now()

    async def work(tx: Tx) -> Agent:
        agent = await find_agent(tx, caller.organization_id, ref, lock=True)
        version = await get_version(tx, agent.org_id, agent.id, version_id)
        restored = await _check_references(tx, with_authored(agent, version.authored()))
        return await apply_changes(
            app,
            tx,
            caller,
            agent,
            {name: getattr(restored, name) for name in _CONFIGURED},
            now,
            kind="rollback",
            summary=body.summary,
            source=version.id,
            keep=body.save_version is not False,
        )

    return await app.database.write(work)


async def fork_version(
    app: App, caller: Caller, ref: str, version_id: AgentVersionId, body: ForkAgentVersion
) -> Agent:
    """Create an agent from a version of another one, and record its origin."""
    require_manager(caller, "agent")
    now = app.now()

    async def work(tx: Tx) -> Agent:
        agent = await find_agent(tx, caller.organization_id, ref)
        version = await get_version(tx, agent.org_id, agent.id, version_id)
        forked = await _check_references(tx, with_authored(agent, version.authored()))
        row = msgspec.structs.replace(
            forked,
            id=app.new_id("agent"),
            name=body.name,
            display_name=body.display_name or forked.display_name,
            description=body.description or forked.description,
            status="active",
            created_at=now,
            updated_at=now,
            archived_at=None,
            default_version_id=None,
            forked_from_agent_id=agent.id,
            forked_from_version_id=version.id,
            root_agent_id=agent.root_agent_id or agent.id,
        )
        return await insert_agent(app, tx, caller, row, kind="fork", source=version.id)

    return await app.database.write(work)


async def restore_agent(
    app: App,
    tx: Tx,
    caller: Caller,
    agent_id: str,
    restored: Restored,
    check: Callable[[], Awaitable[None]],
) -> None:
    """Restore an agent from a revision, which also makes a version of it.

    Args:
        check: is awaited once the agent's row is locked.

    Raises:
        Forbidden: the revision loosens the agent's policies, and the caller may not do that.
    """
    agent = await find_agent(tx, caller.organization_id, agent_id, lock=True)
    await check()
    plain = (*(name for name in _CONFIGURED if name not in ("tags", "config")), "name")
    now = app.now()
    changes = restored_columns(agent, restored, plain, AgentConfig, now)
    if changes:
        await _check_references(tx, msgspec.structs.replace(agent, **changes))
        await apply_changes(app, tx, caller, agent, changes, now, kind="rollback")


async def _check_references(tx: Tx, row: AgentRow) -> AgentRow:
    """Check that an agent's harness and default model still exist. Raises InvalidInput or NotFound."""
    await find_harness(tx, row.org_id, row.harness_id, None)
    if row.default_model_id is not None:
        await check_model(tx, row.org_id, row.default_model_id, "default_model_id")
    await check_fallbacks(tx, row.org_id, row.config_struct().fallback_models)
    return row
