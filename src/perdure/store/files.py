"""Rows of files and folders, a tree for each workspace.

Contents are in `blobs`, changes in `file_changes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from perdure.domain.errors import InvalidInput, NotFound
from perdure.domain.files import MAX_ENTRIES
from perdure.domain.ids import OrgId, WorkspaceId
from perdure.domain.times import Micros
from perdure.store.blobs import PART, PARTS
from perdure.store.database import Tx
from perdure.store.rows import among, columns, insert


class FileRow(Struct, frozen=True):
    """A file or a folder; a folder has no content. The root, `/`, always exists and has no row."""

    workspace_id: WorkspaceId
    path: str
    org_id: OrgId
    parent: str
    is_directory: int
    is_readonly: int
    is_text: int
    size_bytes: int
    hash: str
    created_at: Micros
    updated_at: Micros


COLUMNS = columns(FileRow)
INSERT = insert("files", FileRow)
_FROM = f"SELECT {COLUMNS} FROM files WHERE workspace_id = ? AND org_id = ?"


def top(org_id: OrgId, workspace_id: WorkspaceId, now: Micros) -> FileRow:
    """Return a row that stands for the root, `/`."""
    return FileRow(workspace_id, "/", org_id, "/", 1, 0, 0, 0, "", now, now)


def below(folder: str) -> tuple[str, str]:
    """Return the bounds (inclusive, exclusive) of the paths below a folder."""
    # "0" is the character after "/".
    prefix = folder.rstrip("/")
    return prefix + "/", prefix + "0"


async def get_entry(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, path: str) -> FileRow | None:
    """Return the entry at a clean path; None if nothing exists there."""
    if path == "/":
        return top(org_id, workspace_id, 0)
    found = await tx.one(f"{_FROM} AND path = ?", workspace_id, org_id, path)
    return None if found is None else FileRow(*found)


async def need_entry(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, path: str) -> FileRow:
    """Return the entry at a clean path. Raises NotFound."""
    found = await get_entry(tx, org_id, workspace_id, path)
    if found is None:
        raise missing(path)
    return found


async def need_file(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, path: str) -> FileRow:
    """Return the file at a clean path. Raises NotFound, and InvalidInput for a folder."""
    found = await need_entry(tx, org_id, workspace_id, path)
    if found.is_directory:
        raise is_a_folder(path)
    return found


def missing(path: str) -> NotFound:
    """Return the error for a path where nothing exists."""
    return NotFound(f"file {path}", code="file_not_found")


def is_a_folder(path: str) -> InvalidInput:
    """Return the error for a folder where a file is required."""
    return InvalidInput(f"{path} is a folder, not a file", code="is_a_folder", field="path")


async def get_entries(
    tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, paths: Iterable[str]
) -> dict[str, FileRow]:
    """Return the entries that exist at these clean paths, by path, without the root."""
    searched = sorted({path for path in paths if path != "/"})
    if not searched:
        return {}
    match, choices = among(tx.dialect, "path", "TEXT", searched)
    return {
        row[1]: FileRow(*row) for row in await tx.all(f"{_FROM} AND {match}", workspace_id, org_id, choices)
    }


async def read_heads(
    tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, paths: Sequence[str], size: int = PART
) -> dict[str, tuple[int, bytes]]:
    """Return the size and the first bytes of each of these files that is a non-empty text file, by path.

    Runs a single statement.

    Args:
        size: the number of first bytes, `PART` at most.
    """
    match, choices = among(tx.dialect, "f.path", "TEXT", paths)
    rows = await tx.all(
        "SELECT f.path, f.size_bytes, substr(p.content, 1, ?) FROM files f"
        f" JOIN ({PARTS}) ON b.org_id = f.org_id AND b.hash = f.hash AND p.part = 0"
        f" WHERE f.workspace_id = ? AND f.org_id = ? AND f.is_directory = 0 AND f.is_text = 1 AND {match}",
        min(size, PART),
        workspace_id,
        org_id,
        choices,
    )
    return {row[0]: (row[1], bytes(row[2])) for row in rows}


async def list_children(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, folder: str) -> list[FileRow]:
    """Return a folder's direct children, sorted by path."""
    rows = await tx.all(
        f"{_FROM} AND parent = ? ORDER BY path LIMIT ?", workspace_id, org_id, folder, MAX_ENTRIES
    )
    return [FileRow(*row) for row in rows]


async def children_of(
    tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, folders: Iterable[str]
) -> dict[str, list[str]]:
    """Return the paths of the direct children of several folders, by folder."""
    parents = sorted(folders)
    children: dict[str, list[str]] = {}
    match, choices = among(tx.dialect, "parent", "TEXT", parents)
    sql = f"SELECT parent, path FROM files WHERE workspace_id = ? AND org_id = ? AND {match}"
    for parent, path in await tx.all(sql, workspace_id, org_id, choices) if parents else ():
        children.setdefault(parent, []).append(path)
    return children


async def list_tree(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, folder: str = "/") -> list[FileRow]:
    """Return everything below a folder at any depth, sorted by path."""
    sql = f"{_FROM} AND path >= ? AND path < ? ORDER BY path LIMIT ?"
    rows = await tx.all(sql, workspace_id, org_id, *below(folder), MAX_ENTRIES)
    return [FileRow(*row) for row in rows]


async def files_below(
    tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, folder: str, limit: int, without: str = ""
) -> tuple[list[str], int]:
    """Return the paths of the first files below a folder at any depth, sorted, and how many there are.

    Args:
        without: the path of a file that does not count.
    """
    where = "workspace_id = ? AND org_id = ? AND is_directory = 0 AND path >= ? AND path < ? AND path <> ?"
    args = (workspace_id, org_id, *below(folder), without)
    rows = await tx.all(f"SELECT path FROM files WHERE {where} ORDER BY path LIMIT ?", *args, limit)
    if len(rows) < limit:
        return [row[0] for row in rows], len(rows)
    found = await tx.one(f"SELECT COUNT(*) FROM files WHERE {where}", *args)
    return [row[0] for row in rows], int(found[0]) if found else 0


async def total_size(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, most: int) -> int:
    """Return the total bytes of the files that have at most `most` bytes each."""
    row = await tx.one(
        "SELECT COALESCE(SUM(size_bytes), 0) FROM files WHERE workspace_id = ? AND org_id = ?"
        " AND size_bytes <= ?",
        workspace_id,
        org_id,
        most,
    )
    return 0 if row is None else int(row[0])


async def files_named(
    tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, folder: str, name: str, limit: int
) -> list[FileRow]:
    """Return the text files of this name in the folders directly below a folder, sorted by path.

    Its cost does not depend on what else is in these folders.
    """
    rows = await tx.all(
        f"SELECT {columns(FileRow, alias='f')} FROM files d JOIN files f"
        " ON f.workspace_id = d.workspace_id AND f.path = d.path || ?"
        " WHERE d.workspace_id = ? AND d.org_id = ? AND d.parent = ? AND d.is_directory = 1"
        " AND f.is_directory = 0 AND f.is_text = 1 ORDER BY f.path LIMIT ?",
        f"/{name}",
        workspace_id,
        org_id,
        folder,
        limit,
    )
    return [FileRow(*row) for row in rows]


async def copy_tree(tx: Tx, org_id: OrgId, source: str, target: str, now: Micros) -> None:
    """Copy the rows of all files and folders to an empty workspace; it shares their contents."""
    picked = COLUMNS.replace("workspace_id", "?", 1)
    await tx.run(
        f"INSERT INTO files ({COLUMNS}) SELECT {picked} FROM files WHERE workspace_id = ? AND org_id = ?",
        target,
        source,
        org_id,
    )
    await tx.run(
        "UPDATE workspaces SET size_bytes = (SELECT COALESCE(SUM(size_bytes), 0) FROM files"
        " WHERE workspace_id = ? AND org_id = ?),"
        " file_count = (SELECT COUNT(*) FROM files WHERE workspace_id = ? AND org_id = ?), updated_at = ?"
        " WHERE id = ? AND org_id = ?",
        target,
        org_id,
        target,
        org_id,
        now,
        target,
        org_id,
    )
