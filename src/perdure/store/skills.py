"""Rows of the registry of skills, of their versions, and of the versions' files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from perdure.domain.errors import NotFound
from perdure.domain.files import Content
from perdure.domain.ids import OrgId, SkillId
from perdure.domain.skill_md import SkillFacts
from perdure.domain.skills import LATEST, SkillSource, SkillStatus
from perdure.domain.times import Micros
from perdure.store.blobs import read_contents, release_contents
from perdure.store.database import LOCK_ROW, Changes, Tx, Value
from perdure.store.rows import among, assignments, columns, contains, from_json, insert, values


class SkillRow(Struct, frozen=True):
    """A skill. What its SKILL.md says is in the row of its current version."""

    id: SkillId
    org_id: OrgId
    name: str
    version: str
    status: SkillStatus
    created_at: Micros
    updated_at: Micros
    archived_at: Micros | None


class SkillVersionRow(Struct, frozen=True):
    """A version of a skill."""

    skill_id: SkillId
    version: str
    org_id: OrgId
    name: str
    description: str
    source_type: SkillSource
    facts: str
    created_at: Micros

    def facts_struct(self) -> SkillFacts:
        return from_json(_FACTS, self.facts, f"the skill {self.skill_id}")


class SkillFileRow(Struct, frozen=True):
    """A file of a version."""

    skill_id: SkillId
    version: str
    path: str
    org_id: OrgId
    hash: str
    size_bytes: int
    is_text: int

    def kept(self) -> KeptFile:
        return KeptFile(self.hash, self.size_bytes, self.is_text)


class KeptFile(Struct, frozen=True):
    """A file whose content is stored."""

    hash: str
    size_bytes: int
    is_text: int

    @classmethod
    def of(cls, content: Content) -> KeptFile:
        return cls(content.hash, len(content.data), int(content.is_text))


_FACTS = msgspec.json.Decoder(SkillFacts)
_SKILL, _VERSION, _FILE = columns(SkillRow), columns(SkillVersionRow), columns(SkillFileRow)
_BOTH = (
    f"SELECT {columns(SkillRow, alias='s')}, {columns(SkillVersionRow, alias='v')} FROM skills s"
    " JOIN skill_versions v ON v.skill_id = s.id AND v.version = "
)
_CUT = len(SkillRow.__struct_fields__)


def _pair(row: Sequence[Value]) -> tuple[SkillRow, SkillVersionRow]:
    return SkillRow(*row[:_CUT]), SkillVersionRow(*row[_CUT:])  # type: ignore[arg-type]


async def add_skill(tx: Tx, row: SkillRow) -> None:
    await tx.run(insert("skills", SkillRow), *values(row))


async def add_version(tx: Tx, row: SkillVersionRow, files: Mapping[str, KeptFile]) -> None:
    """Store a version with its files, by path. Nothing happens if it is there already."""
    added = await tx.run(f"{insert('skill_versions', SkillVersionRow)} ON CONFLICT DO NOTHING", *values(row))
    if added:
        rows = [
            SkillFileRow(row.skill_id, row.version, path, row.org_id, *msgspec.structs.astuple(each))
            for path, each in sorted(files.items())
        ]
        await tx.run_many(insert("skill_files", SkillFileRow), [values(each) for each in rows])


async def get_skill(
    tx: Tx, org_id: OrgId, skill_id: SkillId, *, lock: bool = False
) -> tuple[SkillRow, SkillVersionRow]:
    """Return the organization's skill, whatever its status, with its current version. Raises NotFound."""
    if lock:
        await tx.one(
            f"SELECT id FROM skills WHERE id = ? AND org_id = ?{LOCK_ROW[tx.dialect]}", skill_id, org_id
        )
    found = await tx.one(f"{_BOTH}s.version WHERE s.id = ? AND s.org_id = ?", skill_id, org_id)
    if found is None:
        raise NotFound("skill")
    return _pair(found)


async def skill_by_name(tx: Tx, org_id: OrgId, name: str) -> SkillRow | None:
    found = await tx.one(f"SELECT {_SKILL} FROM skills WHERE org_id = ? AND name = ?", org_id, name)
    return None if found is None else SkillRow(*found)


async def list_skills(
    tx: Tx, org_id: OrgId, search: str | None = None, archived: bool = False
) -> list[tuple[SkillRow, SkillVersionRow]]:
    """Return the organization's skills with their current versions, oldest first.

    Args:
        search: a text that the name or the description contains.
        archived: whether to include archived ones.
    """
    where, args = "s.org_id = ?", list[Value]([org_id])
    if not archived:
        where += " AND s.status <> 'archived'"
    if search is not None:
        where += " AND " + contains(args, search, "s.name", "v.description")
    rows = await tx.all(f"{_BOTH}s.version WHERE {where} ORDER BY s.created_at, s.id", *args)
    return [_pair(row) for row in rows]


async def count_skills(tx: Tx, org_id: OrgId) -> int:
    """Return the number of the organization's skills, archived ones included."""
    found = await tx.one("SELECT COUNT(*) FROM skills WHERE org_id = ?", org_id)
    return 0 if found is None else int(found[0])


async def count_versions(tx: Tx, org_id: OrgId, skill_id: SkillId) -> int:
    sql = "SELECT COUNT(*) FROM skill_versions WHERE skill_id = ? AND org_id = ?"
    found = await tx.one(sql, skill_id, org_id)
    return 0 if found is None else int(found[0])


async def update_skill(tx: Tx, org_id: OrgId, skill_id: SkillId, changes: Changes) -> None:
    await tx.run(
        f"UPDATE skills SET {assignments(changes)} WHERE id = ? AND org_id = ?",
        *changes.values(),
        skill_id,
        org_id,
    )


async def delete_skill(tx: Tx, org_id: OrgId, skill_id: SkillId, now: Micros) -> None:
    """Delete a skill for good, with all versions."""
    sql = "SELECT DISTINCT hash FROM skill_files WHERE skill_id = ? AND org_id = ?"
    hashes = [row[0] for row in await tx.all(sql, skill_id, org_id)]
    for table, key in (("skill_files", "skill_id"), ("skill_versions", "skill_id"), ("skills", "id")):
        await tx.run(f"DELETE FROM {table} WHERE {key} = ? AND org_id = ?", skill_id, org_id)
    await release_contents(tx, org_id, hashes, now)


# --- versions -----------------------------------------------------------------


async def current_versions(tx: Tx, org_id: OrgId, ids: Sequence[str]) -> dict[str, str]:
    """Return the current version of those of these skills that the organization has."""
    if not ids:
        return {}
    match, chosen = among(tx.dialect, "id", "TEXT", ids)
    rows = await tx.all(f"SELECT id, version FROM skills WHERE org_id = ? AND {match}", org_id, chosen)
    return {row[0]: row[1] for row in rows}


async def known_versions(
    tx: Tx, org_id: OrgId, ids: Sequence[str], versions: Sequence[str]
) -> set[tuple[str, str]]:
    """Return those of these versions that these skills have had, each with the skill's id."""
    if not versions:
        return set()
    match, chosen = among(tx.dialect, "skill_id", "TEXT", ids)
    other, wanted = among(tx.dialect, "version", "TEXT", versions)
    sql = f"SELECT skill_id, version FROM skill_versions WHERE org_id = ? AND {match} AND {other}"
    return {(row[0], row[1]) for row in await tx.all(sql, org_id, chosen, wanted)}


async def pinned_versions(
    tx: Tx, org_id: OrgId, pins: Mapping[SkillId, str | None]
) -> dict[SkillId, SkillVersionRow]:
    """Return the versions that these pins stand for, of active skills: None and `latest` are the current one.

    Two statements, however many pins there are.
    """
    if not pins:
        return {}
    match, chosen = among(tx.dialect, "id", "TEXT", sorted(pins))
    sql = f"SELECT id, version FROM skills WHERE org_id = ? AND status = 'active' AND {match}"
    current = {row[0]: row[1] for row in await tx.all(sql, org_id, chosen)}
    wanted = {
        skill_id: current[skill_id] if version in (None, LATEST) else version
        for skill_id, version in pins.items()
        if skill_id in current
    }
    if not wanted:
        return {}
    # A digest of one skill's files may be a version of another one, too: the pair is compared below.
    match, chosen = among(tx.dialect, "version", "TEXT", sorted({str(each) for each in wanted.values()}))
    other, ids = among(tx.dialect, "skill_id", "TEXT", sorted(wanted))
    sql = f"SELECT {_VERSION} FROM skill_versions WHERE org_id = ? AND {match} AND {other}"
    rows = [SkillVersionRow(*row) for row in await tx.all(sql, org_id, chosen, ids)]
    return {row.skill_id: row for row in rows if wanted[row.skill_id] == row.version}


async def get_version(tx: Tx, org_id: OrgId, skill_id: SkillId, version: str) -> SkillVersionRow:
    """Return a version of a skill. Raises NotFound."""
    sql = f"SELECT {_VERSION} FROM skill_versions WHERE skill_id = ? AND version = ? AND org_id = ?"
    found = await tx.one(sql, skill_id, version, org_id)
    if found is None:
        raise NotFound("skill version")
    return SkillVersionRow(*found)


async def list_versions(tx: Tx, org_id: OrgId, skill_id: SkillId) -> list[tuple[SkillVersionRow, int, int]]:
    """Return the versions of a skill, newest first, each with the number and the bytes of its files."""
    rows = await tx.all(
        f"SELECT {columns(SkillVersionRow, alias='v')},"
        " (SELECT COUNT(*) FROM skill_files f WHERE f.skill_id = v.skill_id AND f.version = v.version),"
        " (SELECT SUM(size_bytes) FROM skill_files f WHERE f.skill_id = v.skill_id AND f.version = v.version)"
        " FROM skill_versions v WHERE v.skill_id = ? AND v.org_id = ? ORDER BY v.created_at DESC, v.version",
        skill_id,
        org_id,
    )
    return [(SkillVersionRow(*row[:-2]), int(row[-2]), int(row[-1] or 0)) for row in rows]


async def files_of_version(tx: Tx, org_id: OrgId, skill_id: SkillId, version: str) -> list[SkillFileRow]:
    """Return the files of a version, sorted by path."""
    sql = f"SELECT {_FILE} FROM skill_files WHERE skill_id = ? AND version = ? AND org_id = ? ORDER BY path"
    return [SkillFileRow(*row) for row in await tx.all(sql, skill_id, version, org_id)]


async def contents_of(tx: Tx, org_id: OrgId, files: Sequence[SkillFileRow]) -> dict[str, Content]:
    """Read the contents of files, by path."""
    data = await read_contents(tx, org_id, {each.hash: each.size_bytes for each in files})
    return {each.path: Content(data[each.hash], each.hash, bool(each.is_text)) for each in files}


# --- usage --------------------------------------------------------------------

USERS = ("agents", "harnesses")
BATCH = 100
"""Configurations that are read at a time: each may have a megabyte."""


async def configs_with_skills(tx: Tx, org_id: OrgId, table: str, after: str) -> list[tuple[str, str]]:
    """Return the ids and configurations of a batch of agents or harnesses that may name skills.

    Args:
        table: one of USERS.
        after: the id that the batch begins after.
    """
    rows = await tx.all(
        f"SELECT id, config FROM {table} WHERE org_id = ? AND id > ? AND status = 'active'"
        " AND config LIKE '%skill_%' ORDER BY id LIMIT ?",
        org_id,
        after,
        BATCH,
    )
    return [(row[0], row[1]) for row in rows]
