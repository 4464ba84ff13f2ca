"""Files of workspaces that nobody reaches: those of deleted sessions, and copies that are being made.

One transaction over all files of a large workspace would keep all other writers of SQLite waiting. So its
row in `workspaces` goes, or comes, in one transaction, and the rows of its files in batches of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.domain.errors import Conflict
from perdure.domain.ids import OrgId, WorkspaceId
from perdure.domain.times import Micros
from perdure.store.blobs import ERASED, release_contents
from perdure.store.database import LOCK_ROW, Purged, Tx, Value
from perdure.store.files import INSERT, FileRow
from perdure.store.rows import values

AT_ONCE = 1_000
"""Files and folders of a workspace that one transaction copies, or removes with it."""
BATCHES = {"sqlite": 250, "postgres": 5_000}
"""Those of a larger one that one transaction adds or removes: a turn waits for several of them on SQLite. On
PostgreSQL nobody waits."""


def copies_ahead(dialect: str, entries: int) -> bool:
    """Whether a workspace with so many files and folders is copied in batches, before its copy appears.

    On PostgreSQL nobody waits for a copy, and a single statement is the fastest.
    """
    return dialect == "sqlite" and entries > AT_ONCE


async def let_go(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, due: Micros) -> None:
    """Have the files of a workspace removed from an instant on. Nobody must reach it any more."""
    await tx.run(
        "INSERT INTO gone_workspaces (workspace_id, org_id, due_at) VALUES (?, ?, ?)",
        workspace_id,
        org_id,
        due,
    )


async def add_copies(tx: Tx, rows: Sequence[FileRow]) -> None:
    """Add a batch of files to a copy that is being made."""
    await tx.run_many(INSERT, [values(row) for row in rows])


async def keep_copy(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId) -> None:
    """Keep a copy that is complete. Raises Conflict: it was removed, because making it took too long."""
    sql = "DELETE FROM gone_workspaces WHERE workspace_id = ? AND org_id = ?"
    if await tx.run(sql, workspace_id, org_id) != 1:
        raise Conflict("the copy took too long and was given up: try again", code="fork_expired")


async def copies_are_made(tx: Tx, org_id: OrgId, now: Micros) -> bool:
    """Whether copies of workspaces of an organization are being made: they have yet to refer to contents."""
    sql = "SELECT 1 FROM gone_workspaces WHERE org_id = ? AND due_at > ? LIMIT 1"
    return await tx.one(sql, org_id, now) is not None


async def purge_gone(tx: Tx, now: Micros, after: Micros, batch: int | None = None) -> Purged:
    """Remove one batch of the files of workspaces that nobody reaches.

    Args:
        after: an instant that is yet to come: the clock has gone back since a workspace was let go after it.
        batch: the most files and folders to remove.
    """
    where = "due_at <= ? OR due_at > ?"
    return await _purge(tx, where, (now, after), now, batch or BATCHES[tx.dialect])


async def purge_erased_files(tx: Tx, org_id: OrgId) -> Purged:
    """Remove one batch of the files of large workspaces that erasures in an organization have let go."""
    where = f"due_at = {ERASED} AND org_id = ?"
    return await _purge(tx, where, (org_id,), ERASED, BATCHES[tx.dialect])


async def _purge(tx: Tx, where: str, args: tuple[Value, ...], now: Micros, most: int) -> Purged:
    found = await tx.one(
        f"SELECT workspace_id, org_id, due_at FROM gone_workspaces WHERE {where} ORDER BY due_at"
        f" LIMIT 1{LOCK_ROW[tx.dialect]}",
        *args,
    )
    if found is None:
        return Purged(0, more=False)
    *gone, due = found
    rows = await tx.all(
        "SELECT path, hash FROM files WHERE workspace_id = ? AND org_id = ? ORDER BY path LIMIT ?",
        *gone,
        most,
    )
    if rows:
        released = ERASED if due == ERASED else now
        await release_contents(tx, gone[1], {row[1] for row in rows} - {""}, released)
        sql = "DELETE FROM files WHERE workspace_id = ? AND org_id = ? AND path <= ?"
        await tx.run(sql, *gone, rows[-1][0])
    if len(rows) < most:
        await tx.run("DELETE FROM gone_workspaces WHERE workspace_id = ? AND org_id = ?", *gone)
    return Purged(len(rows), more=True)
