"""Rows of agents."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.domain.agents import AgentConfig
from perdure.domain.errors import Damaged, NotFound
from perdure.domain.ids import AgentId, AgentVersionId, HarnessId, ModelId, OrgId, is_id
from perdure.domain.resources import LifeStatus
from perdure.domain.times import Micros
from perdure.domain.variables import Variable
from perdure.store.database import LOCK_ROW, Changes, Tx
from perdure.store.rows import (
    LIST_BYTES,
    assignments,
    columns,
    from_json,
    insert,
    listed_columns,
    named,
    values,
)


class AgentRow(Struct, frozen=True):
    id: AgentId
    org_id: OrgId
    name: str
    display_name: str | None
    description: str | None
    system_prompt: str
    harness_id: HarnessId
    default_model_id: ModelId | None
    tags: str
    config: str
    status: LifeStatus
    created_at: Micros
    updated_at: Micros
    archived_at: Micros | None
    default_version_id: AgentVersionId | None = None
    forked_from_agent_id: AgentId | None = None
    forked_from_version_id: AgentVersionId | None = None
    root_agent_id: AgentId | None = None

    def config_struct(self) -> AgentConfig:
        return from_json(_CONFIG, self.config, f"the agent {self.id}")

    def tag_list(self) -> tuple[str, ...]:
        return from_json(_TAGS, self.tags, f"the agent {self.id}")


_CONFIG = msgspec.json.Decoder(AgentConfig)
_TAGS = msgspec.json.Decoder(tuple[str, ...])
_COLUMNS = columns(AgentRow)
# Part of the SQL: SQLite compiles a statement again for each pattern that is bound, which every message pays.
HAS_VARIABLES = "config LIKE '%\"variables\":%'"
"""The condition that an agent's prompt may have variables. Versions have the prefix `authored_`."""


async def add_agent(tx: Tx, row: AgentRow) -> None:
    await tx.run(insert("agents", AgentRow), *values(row))


async def get_agent(tx: Tx, org_id: OrgId, agent_id: AgentId, *, lock: bool = False) -> AgentRow:
    """Return the organization's agent; `lock` locks its row until the commit. Raises NotFound."""
    sql = f"SELECT {_COLUMNS} FROM agents WHERE id = ? AND org_id = ?"
    found = await tx.one(sql + (LOCK_ROW[tx.dialect] if lock else ""), agent_id, org_id)
    if found is None:
        raise NotFound("agent")
    return AgentRow(*found)


async def holder_of_agent(tx: Tx, agent_id: AgentId) -> OrgId | None:
    """Return the organization that an agent belongs to; None if no agent has this id."""
    found = await tx.one("SELECT org_id FROM agents WHERE id = ?", agent_id)
    return None if found is None else found[0]


async def agent_by_name(tx: Tx, org_id: OrgId, name: str, *, lock: bool = False) -> AgentRow | None:
    """Return the active agent of this name; `lock` locks its row until the commit."""
    sql = f"SELECT {_COLUMNS} FROM agents WHERE org_id = ? AND name = ? AND status = 'active'"
    found = await tx.one(sql + (LOCK_ROW[tx.dialect] if lock else ""), org_id, name)
    return None if found is None else AgentRow(*found)


async def agent_by_ref(tx: Tx, org_id: OrgId, ref: str, *, lock: bool = False) -> AgentRow | None:
    """Return an agent that is not deleted by id or name, an archived one only by id; None if there is none.

    Args:
        lock: whether to lock its row until the commit.
    """
    try:
        row = await (
            get_agent(tx, org_id, AgentId(ref), lock=lock)
            if is_id(ref, "agent")
            else agent_by_name(tx, org_id, ref, lock=lock)
        )
    except NotFound:
        return None
    return None if row is None or row.status == "deleted" else row


class ListedAgent(Struct, frozen=True):
    """What another agent's model is told of an agent."""

    id: AgentId
    name: str
    display_name: str | None
    description: str | None
    status: LifeStatus
    default_version_id: AgentVersionId | None


async def agents_by_reference(tx: Tx, org_id: OrgId, references: Sequence[str]) -> dict[str, ListedAgent]:
    """Return the agents with these ids or names, by id or name, also archived and deleted ones.

    Of several with the same name, the active one counts, or else the newest.
    """
    marks = ", ".join("?" * len(references))
    rows = await tx.all(
        "SELECT id, name, display_name, description, status, default_version_id FROM agents"
        f" WHERE org_id = ? AND (id IN ({marks}) OR name IN ({marks}))"
        " ORDER BY CASE status WHEN 'active' THEN 1 ELSE 0 END, created_at, id",
        org_id,
        *references,
        *references,
    )
    found = [ListedAgent(*row) for row in rows]
    known = {each.name: each for each in found} | {each.id: each for each in found}
    return {name: known[name] for name in references if name in known}


async def agent_names(tx: Tx, org_id: OrgId, stem: str) -> set[str]:
    """Return the names of active agents that begin with `stem` (letters, digits and hyphens only)."""
    sql = "SELECT name FROM agents WHERE org_id = ? AND status = 'active' AND name LIKE ?"
    return {row[0] for row in await tx.all(sql, org_id, f"{stem}%")}


async def list_agents(
    tx: Tx, org_id: OrgId, search: str | None, archived: bool, offset: int, limit: int
) -> tuple[list[AgentRow], int]:
    """Return a page of agents, newest first, and the number of all that match.

    Long configurations come without files. A page ends after `LIST_BYTES`.
    """
    where, args = named(org_id, search, archived)
    listed = listed_columns(AgentRow, tx.dialect, "config", ("initial_files",))
    rows, _ = await tx.within(
        LIST_BYTES,
        ("config", "system_prompt"),
        f"SELECT {listed} FROM agents WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?",
        *args,
        limit,
        offset,
    )
    total = await tx.one(f"SELECT COUNT(*) FROM agents WHERE {where}", *args)
    return [AgentRow(*row) for row in rows], 0 if total is None else total[0]


class ExposedAgent(Struct, frozen=True):
    """An active agent that is a tool for MCP clients."""

    id: AgentId
    name: str
    display_name: str | None
    description: str | None
    declared: str | None = None
    """The variables of the prompt that new sessions get, as JSON; None without any."""

    def variables(self) -> dict[str, Variable]:
        """The variables of the prompt, for which sessions give values; none if they are damaged."""
        try:
            return {} if self.declared is None else from_json(_DECLARED, self.declared, "")
        except Damaged:
            return {}


_DECLARED = msgspec.json.Decoder(dict[str, Variable])
_EXPOSED = '{"expose_mcp":true'
"""How the configuration of such an agent begins: the field comes first in it."""
_STARTS_WITH = (
    "COALESCE((SELECT authored_config FROM agent_versions WHERE id = agents.default_version_id"
    " AND org_id = agents.org_id), config)"
)
_MEMBER = {
    "sqlite": f"json_extract({_STARTS_WITH}, '$.variables')",
    "postgres": f"(({_STARTS_WITH})::json -> 'variables')::text",
}


def _select_exposed(tx: Tx) -> str:
    declared = f"CASE WHEN {_STARTS_WITH} LIKE '%\"variables\":%' THEN {_MEMBER[tx.dialect]} END"
    return (
        f"SELECT id, name, display_name, description, {declared} FROM agents"
        " WHERE org_id = ? AND status = 'active' AND substr(config, 1, ?) = ?"
    )


async def exposed_agents(tx: Tx, org_id: OrgId, limit: int) -> list[ExposedAgent]:
    """Return the active agents that are tools for MCP clients, by name."""
    rows = await tx.all(
        f"{_select_exposed(tx)} ORDER BY name LIMIT ?", org_id, len(_EXPOSED), _EXPOSED, limit
    )
    return [ExposedAgent(*row) for row in rows]


async def exposed_agent(tx: Tx, org_id: OrgId, name: str) -> ExposedAgent | None:
    """Return the active agent of this name if it is a tool for MCP clients."""
    row = await tx.one(f"{_select_exposed(tx)} AND name = ?", org_id, len(_EXPOSED), _EXPOSED, name)
    return None if row is None else ExposedAgent(*row)


async def update_agent(tx: Tx, org_id: OrgId, agent_id: AgentId, changes: Changes) -> None:
    await tx.run(
        f"UPDATE agents SET {assignments(changes)} WHERE id = ? AND org_id = ?",
        *changes.values(),
        agent_id,
        org_id,
    )
