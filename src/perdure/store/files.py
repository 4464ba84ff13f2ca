"""Rows of files and folders: a tree for each workspace.

What they hold is in `blobs`; how they change, in `file_changes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from perdure.domain.errors import InvalidInput, NotFound
from perdure.domain.files import MAX_ENTRIES
from perdure.domain.ids import OrgId, WorkspaceId
from perdure.domain.times import Micros
from perdure.store.blobs import PART
from perdure.store.database import Tx
from perdure.store.rows import among, columns, insert


class FileRow(Struct, frozen=True):
    """A file, or a folder, which has no content. The top, `/`, has no row: it is always there."""

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
    """What stands for `/`."""
    return FileRow(workspace_id, "/", org_id, "/", 1, 0, 0, 0, "", now, now)


def below(folder: str) -> tuple[str, str]:
    """The bounds of the paths that begin with a folder: the first is among them, the second is not."""
    # The character after "/" is "0".
    prefix = folder.rstrip("/")
    return prefix + "/", prefix + "0"


async def get_entry(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, path: str) -> FileRow | None:
    """What is at a clean path."""
    if path == "/":
        return top(org_id, workspace_id, 0)
    found = await tx.one(f"{_FROM} AND path = ?", workspace_id, org_id, path)
    return None if found is None else FileRow(*found)


async def need_entry(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, path: str) -> FileRow:
    """The same. Raises NotFound."""
    found = await get_entry(tx, org_id, workspace_id, path)
    if found is None:
        raise missing(path)
    return found


async def need_file(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, path: str) -> FileRow:
    """The file at a clean path. Raises NotFound, and InvalidInput for a folder."""
    found = await need_entry(tx, org_id, workspace_id, path)
    if found.is_directory:
        raise is_a_folder(path)
    return found


def missing(path: str) -> NotFound:
    """The error of a path where nothing is."""
    return NotFound(f"file {path}", code="file_not_found")


def is_a_folder(path: str) -> InvalidInput:
    """The error of a folder where a file was meant."""
    return InvalidInput(f"{path} is a folder", code="is_a_folder", field="path")


async def get_entries(
    tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, paths: Iterable[str]
) -> dict[str, FileRow]:
    """Those of these clean paths that are there."""
    every = sorted({path for path in paths if path != "/"})
    if not every:
        return {}
    match, wanted = among(tx.dialect, "path", "TEXT", every)
    return {
        row[1]: FileRow(*row) for row in await tx.all(f"{_FROM} AND {match}", workspace_id, org_id, wanted)
    }


async def read_heads(
    tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, paths: Sequence[str], size: int = PART
) -> dict[str, tuple[int, bytes]]:
    """Of those of these text files that are there and hold something: the size and the first bytes, by path.

    One statement.

    Args:
        size: bytes of each file, up to those of a part.
    """
    match, wanted = among(tx.dialect, "f.path", "TEXT", paths)
    rows = await tx.all(
        "SELECT f.path, f.size_bytes, substr(p.content, 1, ?) FROM files f"
        " JOIN blob_parts p ON p.org_id = f.org_id AND p.hash = f.hash AND p.part = 0"
        f" WHERE f.workspace_id = ? AND f.org_id = ? AND f.is_directory = 0 AND f.is_text = 1 AND {match}",
        min(size, PART),
        workspace_id,
        org_id,
        wanted,
    )
    return {row[0]: (row[1], bytes(row[2])) for row in rows}


async def list_children(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, folder: str) -> list[FileRow]:
    """What is in a folder itself, by path."""
    rows = await tx.all(
        f"{_FROM} AND parent = ? ORDER BY path LIMIT ?", workspace_id, org_id, folder, MAX_ENTRIES
    )
    return [FileRow(*row) for row in rows]


async def children_of(
    tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, folders: Iterable[str]
) -> dict[str, list[str]]:
    """The paths of what is in each of several folders itself."""
    every = sorted(folders)
    found: dict[str, list[str]] = {}
    match, wanted = among(tx.dialect, "parent", "TEXT", every)
    sql = f"SELECT parent, path FROM files WHERE workspace_id = ? AND org_id = ? AND {match}"
    for parent, path in await tx.all(sql, workspace_id, org_id, wanted) if every else ():
        found.setdefault(parent, []).append(path)
    return found


async def list_tree(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, folder: str = "/") -> list[FileRow]:
    """What is in a folder and in the folders in it, by path."""
    sql = f"{_FROM} AND path >= ? AND path < ? ORDER BY path LIMIT ?"
    rows = await tx.all(sql, workspace_id, org_id, *below(folder), MAX_ENTRIES)
    return [FileRow(*row) for row in rows]


async def copy_tree(tx: Tx, org_id: OrgId, source: str, target: str, now: Micros) -> None:
    """Give a workspace that holds nothing all that another one holds; no content is copied."""
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
