"""Rows of agent versions, which are written once and never changed."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from perdure.domain.agent_versions import AuthoredConfig, ChangeKind, Semver
from perdure.domain.agents import AgentConfig
from perdure.domain.errors import NotFound
from perdure.domain.ids import AgentId, AgentVersionId, OrgId, UserId
from perdure.domain.times import Micros
from perdure.store.agents import HAS_VARIABLES, AgentRow, get_agent
from perdure.store.database import Tx
from perdure.store.rows import LIST_BYTES, columns, insert, listed_columns, to_json, values


class AgentVersionRow(Struct, frozen=True):
    id: AgentVersionId
    org_id: OrgId
    agent_id: AgentId
    version_number: int
    parent_version_id: AgentVersionId | None
    source_version_id: AgentVersionId | None
    change_kind: ChangeKind
    semver_major: int
    semver_minor: int
    semver_patch: int
    summary: str | None
    config_hash: str
    authored_config: str
    resolved_config: str
    created_by: UserId
    created_at: Micros

    def semver(self) -> Semver:
        return self.semver_major, self.semver_minor, self.semver_patch

    def authored(self) -> AuthoredConfig:
        return _AUTHORED.decode(self.authored_config)


_AUTHORED = msgspec.json.Decoder(AuthoredConfig)
_COLUMNS = columns(AgentVersionRow)


def authored_of(row: AgentRow) -> AuthoredConfig:
    """Return the part of an agent that its versions store."""
    config = row.config_struct()
    return AuthoredConfig(
        row.system_prompt,
        row.harness_id,
        row.display_name,
        row.description,
        row.default_model_id,
        row.tag_list(),
        config.capabilities,
        config.tools,
        config.initial_files,
        config.max_iterations,
        config.parallel_tool_calls,
        config.network_access,
        config.mcp_servers,
        expose_mcp=config.expose_mcp,
        output_schema=config.output_schema,
        variables=config.variables,
        fallback_models=config.fallback_models,
    )


def with_authored(row: AgentRow, config: AuthoredConfig) -> AgentRow:
    """Return the agent with the configuration of a version."""
    restored = AgentConfig(
        config.expose_mcp,
        config.capabilities,
        config.tools,
        config.initial_files,
        config.max_iterations,
        config.parallel_tool_calls,
        config.network_access,
        config.mcp_servers,
        config.output_schema,
        config.variables,
        config.fallback_models,
    )
    return msgspec.structs.replace(
        row,
        system_prompt=config.system_prompt,
        harness_id=config.harness_id,
        display_name=config.display_name,
        description=config.description,
        default_model_id=config.default_model_id,
        tags=to_json(config.tags),
        config=to_json(restored),
    )


async def add_version(tx: Tx, row: AgentVersionRow) -> None:
    await tx.run(insert("agent_versions", AgentVersionRow), *values(row))


async def get_version(
    tx: Tx, org_id: OrgId, agent_id: AgentId, version_id: AgentVersionId
) -> AgentVersionRow:
    """Return an agent's version. Raises NotFound, also for another agent's version."""
    found = await tx.one(
        f"SELECT {_COLUMNS} FROM agent_versions WHERE id = ? AND org_id = ? AND agent_id = ?",
        version_id,
        org_id,
        agent_id,
    )
    if found is None:
        raise NotFound("agent version")
    return AgentVersionRow(*found)


async def latest_version(
    tx: Tx, org_id: OrgId, agent_id: AgentId, config_hash: str | None = None
) -> AgentVersionRow | None:
    """Return the agent's newest version; with `config_hash`, the newest with that configuration."""
    where, args = "agent_id = ? AND org_id = ?", [agent_id, org_id]
    if config_hash is not None:
        where, args = f"{where} AND config_hash = ?", [*args, config_hash]
    found = await tx.one(
        f"SELECT {_COLUMNS} FROM agent_versions WHERE {where} ORDER BY version_number DESC LIMIT 1", *args
    )
    return None if found is None else AgentVersionRow(*found)


async def creator_of(tx: Tx, org_id: OrgId, agent_id: AgentId) -> UserId | None:
    """Return who created an agent: the author of its first version; None without versions."""
    found = await tx.one(
        "SELECT created_by FROM agent_versions WHERE agent_id = ? AND org_id = ?"
        " ORDER BY version_number LIMIT 1",
        agent_id,
        org_id,
    )
    return None if found is None else found[0]


async def list_versions(
    tx: Tx, org_id: OrgId, agent_id: AgentId, offset: int, limit: int
) -> tuple[list[AgentVersionRow], bool]:
    """Return a part of an agent's versions, newest first, and whether more of the `limit` follow.

    Long configurations come without files. A part ends after `LIST_BYTES`.
    """
    listed = listed_columns(AgentVersionRow, tx.dialect, "authored_config", ("initial_files",))
    rows, more = await tx.within(
        LIST_BYTES,
        ("authored_config", "resolved_config"),
        f"SELECT {listed} FROM agent_versions WHERE agent_id = ? AND org_id = ?"
        " ORDER BY version_number DESC LIMIT ? OFFSET ?",
        agent_id,
        org_id,
        limit,
        offset,
    )
    return [AgentVersionRow(*row) for row in rows], more


async def get_agent_at(
    tx: Tx,
    org_id: OrgId,
    agent_id: AgentId,
    version_id: AgentVersionId | None,
    known: AgentRow | None = None,
) -> AgentRow:
    """Return the agent with the configuration of a version, or with its current one for None.

    The name, the status and everything else outside the configuration are current.

    Args:
        known: the agent as it is now, if it was read already.

    Raises:
        NotFound: the agent or the version does not exist.
    """
    row = known or await get_agent(tx, org_id, agent_id)
    if version_id is None:
        return row
    return with_authored(row, (await get_version(tx, org_id, agent_id, version_id)).authored())


async def may_have_variables(
    tx: Tx, org_id: OrgId, agent_id: AgentId, version_id: AgentVersionId | None
) -> bool:
    """Whether an agent's prompt may have variables, at a version or now, without reading its whole row."""
    if version_id is None:
        sql = f"SELECT 1 FROM agents WHERE id = ? AND org_id = ? AND {HAS_VARIABLES}"
        return await tx.one(sql, agent_id, org_id) is not None
    sql = (
        "SELECT 1 FROM agent_versions WHERE id = ? AND org_id = ? AND agent_id = ?"
        f" AND authored_{HAS_VARIABLES}"
    )
    return await tx.one(sql, version_id, org_id, agent_id) is not None
