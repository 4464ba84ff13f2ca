"""Rows of the versions of memories' files. Contents are in `blobs`."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.errors import NotFound
from perdure.domain.ids import MemoryId, MemoryVersionId, OrgId, SessionId, UserId
from perdure.domain.memories import Operation
from perdure.domain.times import Micros
from perdure.store.blobs import release_contents
from perdure.store.database import Tx, Value
from perdure.store.rows import among, columns, insert, values


class MemoryVersionRow(Struct, frozen=True):
    """A version of a file.

    Attributes:
        sequence: counts the versions of the memory, from 1.
        version: counts the versions of the path, from 1.
        hash: of the content; empty for a deletion.
    """

    id: MemoryVersionId
    org_id: OrgId
    memory_id: MemoryId
    sequence: int
    path: str
    version: int
    operation: Operation
    hash: str
    size_bytes: int
    user_id: UserId | None
    session_id: SessionId | None
    created_at: Micros
    redacted_at: Micros | None = None
    redacted_by: UserId | None = None


_COLUMNS = columns(MemoryVersionRow)
_INSERT = insert("memory_versions", MemoryVersionRow)
_SELECT = f"SELECT {_COLUMNS} FROM memory_versions WHERE memory_id = ? AND org_id = ?"


async def add_versions(tx: Tx, rows: list[MemoryVersionRow]) -> None:
    await tx.run_many(_INSERT, [values(row) for row in rows])


async def last_versions(tx: Tx, org_id: OrgId, memory_id: MemoryId, paths: list[str]) -> dict[str, int]:
    """Return the number of the newest version of each of these paths that has one."""
    match, choices = among(tx.dialect, "path", "TEXT", paths)
    rows = await tx.all(
        "SELECT path, MAX(version) FROM memory_versions"
        f" WHERE memory_id = ? AND org_id = ? AND {match} GROUP BY path",
        memory_id,
        org_id,
        choices,
    )
    return {path: int(version) for path, version in rows}


async def get_version(
    tx: Tx, org_id: OrgId, memory_id: MemoryId, version_id: MemoryVersionId
) -> MemoryVersionRow:
    """Return a version of a memory's file. Raises NotFound."""
    found = await tx.one(f"{_SELECT} AND id = ?", memory_id, org_id, version_id)
    if found is None:
        raise NotFound("memory version")
    return MemoryVersionRow(*found)


async def version_before(tx: Tx, row: MemoryVersionRow) -> MemoryVersionRow | None:
    """Return the version of the same path before this one; None if this is its first."""
    found = await tx.one(
        f"{_SELECT} AND path = ? AND sequence < ? ORDER BY sequence DESC LIMIT 1",
        row.memory_id,
        row.org_id,
        row.path,
        row.sequence,
    )
    return None if found is None else MemoryVersionRow(*found)


async def list_versions(
    tx: Tx, org_id: OrgId, memory_id: MemoryId, path: str | None, before: int | None, limit: int
) -> list[MemoryVersionRow]:
    """Return versions, newest first.

    Args:
        path: only the versions of this path.
        before: only those with a smaller sequence.
    """
    sql, args = _SELECT, list[Value]((memory_id, org_id))
    if path is not None:
        sql, args = f"{sql} AND path = ?", [*args, path]
    if before is not None:
        sql, args = f"{sql} AND sequence < ?", [*args, before]
    rows = await tx.all(f"{sql} ORDER BY sequence DESC LIMIT ?", *args, limit)
    return [MemoryVersionRow(*row) for row in rows]


async def redact_content(tx: Tx, row: MemoryVersionRow, user_id: UserId, now: Micros) -> int:
    """Redact every version of the memory that has the same content; return their bytes."""
    where = " WHERE memory_id = ? AND org_id = ? AND hash = ? AND redacted_at IS NULL"
    found = await tx.one(
        f"SELECT COALESCE(SUM(size_bytes), 0) FROM memory_versions{where}",
        row.memory_id,
        row.org_id,
        row.hash,
    )
    await tx.run(
        f"UPDATE memory_versions SET redacted_at = ?, redacted_by = ?{where}",
        now,
        user_id,
        row.memory_id,
        row.org_id,
        row.hash,
    )
    await release_contents(tx, row.org_id, (row.hash,), now)
    return 0 if found is None else int(found[0])


async def is_current(tx: Tx, row: MemoryVersionRow) -> str | None:
    """Return the path of a file of the memory that has the version's content now; None if none has."""
    found = await tx.one(
        "SELECT path FROM files WHERE workspace_id = ? AND org_id = ? AND hash = ? AND is_directory = 0"
        " LIMIT 1",
        row.memory_id,
        row.org_id,
        row.hash,
    )
    return None if found is None else str(found[0])
