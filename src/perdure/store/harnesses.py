"""Rows of harnesses."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from perdure.domain.errors import NotFound
from perdure.domain.harnesses import MAX_DEPTH, BuiltInHarness, HarnessConfig
from perdure.domain.ids import HarnessId, ModelId, OrgId
from perdure.domain.resources import LifeStatus
from perdure.domain.times import Micros
from perdure.store.database import LOCK_ROW, Changes, Tx
from perdure.store.rows import (
    LIST_BYTES,
    assignments,
    columns,
    from_json,
    insert,
    listed_columns,
    named,
    to_json,
    values,
)


class HarnessRow(Struct, frozen=True):
    id: HarnessId
    org_id: OrgId
    name: str
    display_name: str | None
    description: str | None
    system_prompt: str | None
    parent_harness_id: HarnessId | None
    default_model_id: ModelId | None
    tags: str
    config: str
    is_built_in: int
    status: LifeStatus
    created_at: Micros
    updated_at: Micros
    archived_at: Micros | None

    def config_struct(self) -> HarnessConfig:
        return from_json(_CONFIG, self.config, f"the harness {self.id}")

    def tag_list(self) -> tuple[str, ...]:
        return from_json(_TAGS, self.tags, f"the harness {self.id}")


_CONFIG = msgspec.json.Decoder(HarnessConfig)
_TAGS = msgspec.json.Decoder(tuple[str, ...])
_COLUMNS = columns(HarnessRow)
LISTED = 500
"""The most harnesses that are read at a time."""


async def add_harness(tx: Tx, row: HarnessRow) -> None:
    await tx.run(insert("harnesses", HarnessRow), *values(row))


async def follow_built_in(tx: Tx, built_in: BuiltInHarness, now: Micros) -> int:
    """Update the built-in harness of this name in every organization where it differs.

    Returns:
        The number of organizations that were updated.
    """
    fields = (built_in.display_name, built_in.description, to_json(built_in.config()))
    return await tx.run(
        "UPDATE harnesses SET display_name = ?, description = ?, config = ?,"
        " updated_at = CASE WHEN updated_at < ? THEN ? ELSE updated_at + 1 END"
        " WHERE is_built_in = 1 AND name = ? AND (display_name <> ? OR description <> ? OR config <> ?)",
        *fields,
        now,
        now,
        built_in.name,
        *fields,
    )


async def get_harness(tx: Tx, org_id: OrgId, harness_id: HarnessId, *, lock: bool = False) -> HarnessRow:
    """Return the organization's harness; `lock` locks its row until the commit. Raises NotFound."""
    sql = f"SELECT {_COLUMNS} FROM harnesses WHERE id = ? AND org_id = ?"
    found = await tx.one(sql + (LOCK_ROW[tx.dialect] if lock else ""), harness_id, org_id)
    if found is None:
        raise NotFound("harness")
    return HarnessRow(*found)


async def harness_by_name(tx: Tx, org_id: OrgId, name: str) -> HarnessRow | None:
    """Return the active harness of this name."""
    found = await tx.one(
        f"SELECT {_COLUMNS} FROM harnesses WHERE org_id = ? AND name = ? AND status = 'active'", org_id, name
    )
    return None if found is None else HarnessRow(*found)


async def harness_names(tx: Tx, org_id: OrgId, stem: str) -> set[str]:
    """Return the names of active harnesses that begin with `stem` (letters, digits and hyphens only)."""
    sql = "SELECT name FROM harnesses WHERE org_id = ? AND status = 'active' AND name LIKE ?"
    return {row[0] for row in await tx.all(sql, org_id, f"{stem}%")}


async def harness_chain(
    tx: Tx, org_id: OrgId, harness_id: HarnessId, known: HarnessRow | None = None
) -> list[HarnessRow]:
    """Return the harness and its parents, the topmost first, up to `MAX_DEPTH`. Raises NotFound.

    Args:
        known: the harness itself, if it was read already.
    """
    chain = [known or await get_harness(tx, org_id, harness_id)]
    while chain[0].parent_harness_id is not None and len(chain) < MAX_DEPTH:
        chain.insert(0, await get_harness(tx, org_id, chain[0].parent_harness_id))
    return chain


async def levels_below(tx: Tx, org_id: OrgId, harness_id: HarnessId) -> int:
    """Return the number of levels of harnesses that inherit from this one, up to `MAX_DEPTH`."""
    found = await tx.one(
        "WITH RECURSIVE below (id, level) AS (SELECT id, 0 FROM harnesses WHERE id = ? UNION ALL"
        " SELECT h.id, b.level + 1 FROM harnesses h JOIN below b ON h.parent_harness_id = b.id"
        f" WHERE h.org_id = ? AND h.status <> 'deleted' AND b.level < {MAX_DEPTH})"
        " SELECT COALESCE(MAX(level), 0) FROM below",
        harness_id,
        org_id,
    )
    return 0 if found is None else int(found[0])


async def list_harnesses(
    tx: Tx, org_id: OrgId, search: str | None, archived: bool, offset: int = 0
) -> tuple[list[HarnessRow], bool]:
    """Return a part of the organization's harnesses, and whether more follow.

    Built-in ones come first, then the oldest. Long configurations come without files. A part ends after
    `LIST_BYTES`.
    """
    where, args = named(org_id, search, archived)
    listed = listed_columns(HarnessRow, tx.dialect, "config", ("initial_files",))
    rows, more = await tx.within(
        LIST_BYTES,
        ("config", "system_prompt"),
        f"SELECT {listed} FROM harnesses WHERE {where} ORDER BY is_built_in DESC, created_at, id"
        f" LIMIT {LISTED} OFFSET ?",
        *args,
        offset,
    )
    return [HarnessRow(*row) for row in rows], more or len(rows) == LISTED


async def update_harness(tx: Tx, org_id: OrgId, harness_id: HarnessId, changes: Changes) -> None:
    await tx.run(
        f"UPDATE harnesses SET {assignments(changes)} WHERE id = ? AND org_id = ?",
        *changes.values(),
        harness_id,
        org_id,
    )
