"""Rows of workspaces.

A session's own workspace gets its row when the first file is written; until then it counts as empty. Every
change of files locks the workspace's row, so that the change's checks stay true until the commit.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from perdure.domain.data_flow import External
from perdure.domain.errors import Conflict, NotFound
from perdure.domain.ids import OrgId, SessionId, WorkspaceId
from perdure.domain.times import Micros
from perdure.domain.workspaces import WorkspaceStatus
from perdure.store.database import LOCK_ROW, Changes, Rows, Tx, Value
from perdure.store.rows import assignments, columns, contains, from_json, insert, to_json, values
from perdure.store.sessions import SessionRow, get_session


class WorkspaceRow(Struct, frozen=True):
    """A workspace.

    Attributes:
        session_id: the session that owns it; None for one created on its own.
        external: where text from outside in the sessions that have written its files came from, as JSON.
    """

    id: WorkspaceId
    org_id: OrgId
    session_id: SessionId | None
    name: str
    description: str | None
    status: WorkspaceStatus
    size_bytes: int
    file_count: int
    created_at: Micros
    updated_at: Micros
    archived_at: Micros | None
    external: str | None = None


_COLUMNS = columns(WorkspaceRow)
_INSERT = insert("workspaces", WorkspaceRow)
_INSERT_ROWS = f"INSERT INTO workspaces ({_COLUMNS})"
_EXTERNAL = msgspec.json.Decoder(tuple[External, ...])


async def add_workspace(tx: Tx, row: WorkspaceRow) -> None:
    await tx.run(_INSERT, *values(row))


async def _read_row(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, *, lock: bool) -> WorkspaceRow | None:
    sql = f"SELECT {_COLUMNS} FROM workspaces WHERE id = ? AND org_id = ?"
    found = await tx.one(sql + (LOCK_ROW[tx.dialect] if lock else ""), workspace_id, org_id)
    return None if found is None else WorkspaceRow(*found)


async def _implied_row(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, *, lock: bool) -> WorkspaceRow:
    """Return the row that a session's own workspace would have. Raises NotFound."""
    session_id = SessionId(f"session_{workspace_id[-32:]}")
    sql = "SELECT created_at, workspace_id FROM sessions WHERE id = ? AND org_id = ? AND deleted_at IS NULL"
    found = await tx.one(sql + (LOCK_ROW[tx.dialect] if lock else ""), session_id, org_id)
    if found is None or found[1] is not None:
        raise NotFound("workspace")
    return _own_row(org_id, workspace_id, session_id, found[0])


def _own_row(
    org_id: OrgId, workspace_id: WorkspaceId, session_id: SessionId, created_at: Micros
) -> WorkspaceRow:
    return WorkspaceRow(
        workspace_id, org_id, session_id, "", None, "active", 0, 0, created_at, created_at, None
    )


def kept_workspace(session: SessionRow) -> Rows:
    """Return the row of a session's own workspace, for an append to the session, if it has none yet.

    Whoever else creates it locks the session.
    """
    row = _own_row(session.org_id, session.workspace(), session.id, session.created_at)
    return Rows(_INSERT_ROWS, [values(row)], " ON CONFLICT DO NOTHING")


async def workspace_size(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId) -> int:
    """Return the total bytes of the workspace's files; 0 if it has no row yet."""
    row = await _read_row(tx, org_id, workspace_id, lock=False)
    return 0 if row is None else row.size_bytes


async def get_workspace(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId) -> WorkspaceRow:
    """Return the organization's workspace.

    Raises:
        NotFound: it never existed, was deleted with its session, or belongs to another organization; callers
            cannot tell which.
    """
    row = await _read_row(tx, org_id, workspace_id, lock=False)
    return row or await _implied_row(tx, org_id, workspace_id, lock=False)


async def hold_workspace(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId) -> WorkspaceRow:
    """Return the workspace with its row locked until the commit, created if missing; call before changes.

    Raises NotFound.
    """
    row = await _read_row(tx, org_id, workspace_id, lock=True)
    if row is not None:
        return row
    # Lock the session's row, so that the session cannot be deleted while its workspace is created.
    created = await _implied_row(tx, org_id, workspace_id, lock=True)
    await tx.run(f"{_INSERT} ON CONFLICT DO NOTHING", *values(created))
    return await _read_row(tx, org_id, workspace_id, lock=True) or created


async def hold_for_writing(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId) -> WorkspaceRow:
    """Lock a workspace for a change of its files. Raises NotFound, and Conflict if it is archived."""
    return need_active(await hold_workspace(tx, org_id, workspace_id))


def need_active(row: WorkspaceRow) -> WorkspaceRow:
    """Return the workspace if its files may change. Raises Conflict if it is archived."""
    if row.status != "active":
        raise Conflict(
            "this workspace is archived: its files are read-only until its `status` is `active` again",
            code="workspace_archived",
        )
    return row


async def hold_session_files(tx: Tx, org_id: OrgId, session_id: SessionId) -> tuple[SessionRow, WorkspaceRow]:
    """Lock a session and the workspace that holds its files, the session's row first.

    All changes of files on behalf of a session go through here, so that nothing is written for a deleted one.

    Raises:
        NotFound: the session does not exist or was deleted.
        Conflict: the workspace is archived.
    """
    session = await get_session(tx, org_id, session_id, lock=True)
    space = await hold_for_writing(tx, org_id, session.workspace())
    await note_external(tx, space, session.external_sources())
    return session, space


async def note_external(tx: Tx, space: WorkspaceRow, sources: tuple[External, ...]) -> None:
    """Note that a workspace's files can have text from outside; what is known of it stays."""
    if sources and space.external is None:
        await update_workspace(tx, space, {"external": to_json(sources)})


async def external_of_files(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId) -> tuple[External, ...]:
    """Return where text from outside in a workspace's files came from."""
    sql = "SELECT external FROM workspaces WHERE id = ? AND org_id = ?"
    found = await tx.one(sql, workspace_id, org_id)
    return () if found is None or found[0] is None else from_json(_EXTERNAL, found[0], "the workspace")


async def workspace_by_name(tx: Tx, org_id: OrgId, name: str) -> WorkspaceRow | None:
    """Return the active workspace of this name; sessions' own workspaces have no names."""
    sql = (
        f"SELECT {_COLUMNS} FROM workspaces WHERE org_id = ? AND name = ? AND status = 'active'"
        " AND session_id IS NULL"
    )
    found = await tx.one(sql, org_id, name)
    return None if found is None else WorkspaceRow(*found)


async def list_workspaces(tx: Tx, org_id: OrgId, search: str | None, archived: bool) -> list[WorkspaceRow]:
    """Return the workspaces that were created on their own, newest first."""
    where = "org_id = ? AND session_id IS NULL"
    args: list[Value] = [org_id]
    if not archived:
        where += " AND status = 'active'"
    if search is not None:
        where += " AND " + contains(args, search, "name", "description")
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM workspaces WHERE {where} ORDER BY created_at DESC, id DESC", *args
    )
    return [WorkspaceRow(*row) for row in rows]


async def update_workspace(tx: Tx, row: WorkspaceRow, changes: Changes) -> None:
    await tx.run(
        f"UPDATE workspaces SET {assignments(changes)} WHERE id = ? AND org_id = ?",
        *changes.values(),
        row.id,
        row.org_id,
    )


async def count_in_workspace(tx: Tx, row: WorkspaceRow, size: int, entries: int) -> None:
    """Add bytes, and a number of files and folders, to a workspace's totals; both may be negative."""
    if size or entries:
        await tx.run(
            "UPDATE workspaces SET size_bytes = size_bytes + ?, file_count = file_count + ?"
            " WHERE id = ? AND org_id = ?",
            size,
            entries,
            row.id,
            row.org_id,
        )


async def orphaned_workspace(
    tx: Tx, org_id: OrgId, session_id: SessionId, workspace_id: WorkspaceId
) -> WorkspaceRow | None:
    """Return a session's workspace, its row locked, if no session uses it once this one is deleted.

    That holds for a session's own workspace after its session and all others that share it are deleted.
    Otherwise None.
    """
    row = await _read_row(tx, org_id, workspace_id, lock=True)
    if row is None or row.session_id is None:
        return None
    left = await tx.one(
        "SELECT id FROM sessions WHERE org_id = ? AND deleted_at IS NULL AND id <> ?"
        " AND (id = ? OR workspace_id = ?) LIMIT 1",
        org_id,
        session_id,
        row.session_id,
        workspace_id,
    )
    return row if left is None else None


async def remove_workspace(tx: Tx, row: WorkspaceRow) -> None:
    await tx.run("DELETE FROM workspaces WHERE id = ? AND org_id = ?", row.id, row.org_id)
