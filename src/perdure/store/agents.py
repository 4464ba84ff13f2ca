"""Rows of harnesses and agents."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.agents import AgentConfig, HarnessConfig, LifeStatus
from perdure.domain.errors import NotFound
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import assignments, columns, insert, like_pattern, values


class HarnessRow(Struct, frozen=True):
    id: str
    org_id: str
    name: str
    display_name: str | None
    description: str | None
    system_prompt: str | None
    parent_harness_id: str | None
    default_model_id: str | None
    tags: str
    config: str
    is_built_in: int
    status: LifeStatus
    created_at: Micros
    updated_at: Micros
    archived_at: Micros | None

    def config_struct(self) -> HarnessConfig:
        return _HARNESS_CONFIG.decode(self.config)

    def tag_list(self) -> tuple[str, ...]:
        return msgspec.json.decode(self.tags, type=tuple[str, ...])


class AgentRow(Struct, frozen=True):
    id: str
    org_id: str
    name: str
    display_name: str | None
    description: str | None
    system_prompt: str
    harness_id: str
    default_model_id: str | None
    tags: str
    config: str
    status: LifeStatus
    created_at: Micros
    updated_at: Micros
    archived_at: Micros | None

    def config_struct(self) -> AgentConfig:
        return _AGENT_CONFIG.decode(self.config)

    def tag_list(self) -> tuple[str, ...]:
        return msgspec.json.decode(self.tags, type=tuple[str, ...])


_HARNESS_CONFIG = msgspec.json.Decoder(HarnessConfig)
_AGENT_CONFIG = msgspec.json.Decoder(AgentConfig)
_HARNESS = columns(HarnessRow)
_AGENT = columns(AgentRow)
MAX_PARENTS = 8
"""How deep harnesses may inherit: bounds the work of assembling a turn."""


async def add_harness(tx: Tx, row: HarnessRow) -> None:
    await tx.run(insert("harnesses", HarnessRow), *values(row))


async def get_harness(tx: Tx, org_id: str, harness_id: str) -> HarnessRow:
    """Raises NotFound."""
    found = await tx.one(f"SELECT {_HARNESS} FROM harnesses WHERE id = ? AND org_id = ?", harness_id, org_id)
    if found is None:
        raise NotFound("harness")
    return HarnessRow(*found)


async def harness_by_name(tx: Tx, org_id: str, name: str) -> HarnessRow | None:
    """The live harness of this name."""
    found = await tx.one(f"SELECT {_HARNESS} FROM harnesses WHERE org_id = ? AND name = ? AND status = 'active'", org_id, name)
    return None if found is None else HarnessRow(*found)


async def harness_chain(tx: Tx, org_id: str, harness_id: str) -> list[HarnessRow]:
    """The harness and its parents, the topmost parent first. Raises NotFound."""
    chain = [await get_harness(tx, org_id, harness_id)]
    while chain[0].parent_harness_id is not None and len(chain) <= MAX_PARENTS:
        chain.insert(0, await get_harness(tx, org_id, chain[0].parent_harness_id))
    return chain


async def list_harnesses(tx: Tx, org_id: str, search: str | None, archived: bool) -> list[HarnessRow]:
    """Built-in ones first, then by age."""
    where, args = _named(org_id, search, archived)
    rows = await tx.all(f"SELECT {_HARNESS} FROM harnesses WHERE {where} ORDER BY is_built_in DESC, created_at, id", *args)
    return [HarnessRow(*row) for row in rows]


async def update_harness(tx: Tx, org_id: str, harness_id: str, changes: dict[str, Any]) -> None:
    await tx.run(f"UPDATE harnesses SET {assignments(changes)} WHERE id = ? AND org_id = ?", *changes.values(), harness_id, org_id)


async def add_agent(tx: Tx, row: AgentRow) -> None:
    await tx.run(insert("agents", AgentRow), *values(row))


async def get_agent(tx: Tx, org_id: str, agent_id: str) -> AgentRow:
    """Raises NotFound."""
    found = await tx.one(f"SELECT {_AGENT} FROM agents WHERE id = ? AND org_id = ?", agent_id, org_id)
    if found is None:
        raise NotFound("agent")
    return AgentRow(*found)


async def agent_by_name(tx: Tx, org_id: str, name: str) -> AgentRow | None:
    """The live agent of this name."""
    found = await tx.one(f"SELECT {_AGENT} FROM agents WHERE org_id = ? AND name = ? AND status = 'active'", org_id, name)
    return None if found is None else AgentRow(*found)


async def list_agents(
    tx: Tx, org_id: str, search: str | None, archived: bool, offset: int, limit: int
) -> tuple[list[AgentRow], int]:
    """A page, newest first, and how many match in all."""
    where, args = _named(org_id, search, archived)
    rows = await tx.all(
        f"SELECT {_AGENT} FROM agents WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?", *args, limit, offset
    )
    total = await tx.one(f"SELECT COUNT(*) FROM agents WHERE {where}", *args)
    return [AgentRow(*row) for row in rows], 0 if total is None else total[0]


async def update_agent(tx: Tx, org_id: str, agent_id: str, changes: dict[str, Any]) -> None:
    await tx.run(f"UPDATE agents SET {assignments(changes)} WHERE id = ? AND org_id = ?", *changes.values(), agent_id, org_id)


async def session_counts(tx: Tx, org_id: str, column: str, ids: tuple[str, ...]) -> dict[str, int]:
    """How many sessions each of these harnesses (`harness_id`) or agents (`agent_id`) has."""
    if not ids:
        return {}
    marks = ", ".join("?" * len(ids))
    rows = await tx.all(
        f"SELECT {column}, COUNT(*) FROM sessions WHERE org_id = ? AND deleted_at IS NULL AND {column} IN ({marks}) GROUP BY {column}",
        org_id, *ids,
    )  # fmt: skip
    return {row[0]: row[1] for row in rows}


def _named(org_id: str, search: str | None, archived: bool) -> tuple[str, list[Any]]:
    parts, args = ["org_id = ?"], [org_id]
    parts.append("status <> 'deleted'" if archived else "status = 'active'")
    if search is not None:
        parts.append("(LOWER(name) LIKE ? ESCAPE '!' OR LOWER(COALESCE(display_name, '')) LIKE ? ESCAPE '!')")
        args += [like_pattern(search)] * 2
    return " AND ".join(parts), args
