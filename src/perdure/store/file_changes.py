"""Changes of a workspace's files.

Each needs the workspace's row, held for writing; what it looks at then stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.domain.errors import Conflict, Forbidden, InvalidInput, PreconditionFailed, TooLarge
from perdure.domain.files import MAX_ENTRIES, Content, FileLimits, too_large
from perdure.domain.paths import clean_path, folders_above, is_below, parent_of
from perdure.domain.times import Micros
from perdure.store.blobs import keep_contents, release_contents
from perdure.store.database import Tx
from perdure.store.files import INSERT, FileRow, below, get_entries, is_a_folder, list_tree, missing
from perdure.store.rows import among, values
from perdure.store.workspaces import WorkspaceRow, count_in_workspace, remove_workspace


class FileWrite(Struct, frozen=True):
    """A file to be written.

    Attributes:
        content: what it shall hold; None for a folder.
        new: it must not be there yet.
        old: it must be there already.
        expected: the hashes of which it must have one; `*` for any. None: it does not matter.
        readonly: its read-only flag afterwards; None leaves it.
        force: write it though it is read-only.
    """

    path: str
    content: Content | None
    new: bool = False
    old: bool = False
    expected: frozenset[str] | None = None
    readonly: bool | None = None
    force: bool = False


class Written(Struct, frozen=True):
    """A file as it is now, and whether it is new."""

    row: FileRow
    created: bool


async def write_file(
    tx: Tx, space: WorkspaceRow, write: FileWrite, limits: FileLimits, now: Micros
) -> Written:
    """`write_files` for one."""
    return (await write_files(tx, space, (write,), limits, now))[0]


async def write_files(
    tx: Tx, space: WorkspaceRow, writes: Sequence[FileWrite], limits: FileLimits, now: Micros
) -> list[Written]:
    """Write files, each path once, all or none; the folders above them are made.

    Raises:
        Conflict: one is there that should be new, or a folder above it is a file.
        NotFound, InvalidInput: it should be there and is not, or is a folder.
        Forbidden: it is read-only.
        PreconditionFailed: it has another hash than was expected.
        TooLarge: over a limit.
    """
    paths = {path for write in writes for path in (write.path, *folders_above(write.path))}
    there = await get_entries(tx, space.org_id, space.id, paths)
    done = [_written(space, write, there.get(write.path), limits, now) for write in writes]
    now_there = there | {each.row.path: each.row for each in done}
    folders = _folders_for(space, done, now_there, now)
    check_room(space, _growth(done, there), len(folders) + sum(each.created for each in done), limits)
    await keep_contents(
        tx, space.org_id, [write.content for write in writes if write.content is not None], now
    )
    added = [*folders, *(each.row for each in done if each.created)]
    if added:
        await tx.run_many(INSERT, [values(row) for row in added])
    changed = [each.row for each in done if not each.created]
    if changed:
        await _update(tx, changed)
    let_go = {there[row.path].hash for row in changed} - {row.hash for row in changed}
    await release_contents(tx, space.org_id, let_go - {""}, now)
    await count_in_workspace(tx, space, _growth(done, there), len(added))
    return done


def _written(
    space: WorkspaceRow, write: FileWrite, old: FileRow | None, limits: FileLimits, now: Micros
) -> Written:
    """The row after a write, if it may be made."""
    path, content = write.path, write.content
    if path == "/":
        raise is_a_folder(path) if not write.new else exists(path)
    if old is None and (write.old or write.expected is not None):
        if write.expected is not None and not write.old:
            raise PreconditionFailed(f"{path} is not there any more")
        raise missing(path)
    if old is not None:
        _check_change(write, old)
    if content is not None and len(content.data) > limits.file:
        raise too_large(limits.file)
    row = FileRow(
        space.id,
        path,
        space.org_id,
        parent_of(path),
        int(content is None),
        0,
        int(content is not None and content.is_text),
        0 if content is None else len(content.data),
        "" if content is None else content.hash,
        now,
        now,
    )
    if old is not None:
        row = msgspec.structs.replace(
            row,
            is_readonly=old.is_readonly,
            created_at=old.created_at,
            updated_at=max(now, old.updated_at + 1),
        )
    if write.readonly is not None:
        row = msgspec.structs.replace(row, is_readonly=int(write.readonly))
    return Written(row, old is None)


def _check_change(write: FileWrite, old: FileRow) -> None:
    if write.new:
        raise exists(write.path)
    if old.is_directory:
        raise is_a_folder(write.path)
    if write.content is None:
        raise not_a_folder(write.path)
    check_expected(write.expected, old, write.content.hash)
    if old.is_readonly and not write.force:
        raise read_only(write.path)


def check_expected(expected: frozenset[str] | None, row: FileRow, becomes: str = "") -> None:
    """Accept a change only of the content that its writer has seen.

    One that changes nothing any more is fine.

    Raises:
        PreconditionFailed: somebody else has written meanwhile.
    """
    if expected is None or "*" in expected or row.hash in expected or row.hash == becomes:
        return
    raise PreconditionFailed(f"{row.path} has changed since it was read: read it again")


def _folders_for(
    space: WorkspaceRow, done: list[Written], there: dict[str, FileRow], now: Micros
) -> list[FileRow]:
    """The folders that have to be made."""
    made: dict[str, FileRow] = {}
    for each in done:
        for folder in folders_above(each.row.path):
            found = there.get(folder)
            if found is None:
                made[folder] = FileRow(
                    space.id, folder, space.org_id, parent_of(folder), 1, 0, 0, 0, "", now, now
                )
            elif not found.is_directory:
                raise not_a_folder(folder)
    return list(made.values())


def _growth(done: list[Written], there: dict[str, FileRow]) -> int:
    return sum(
        each.row.size_bytes - (there[each.row.path].size_bytes if not each.created else 0) for each in done
    )


def check_room(space: WorkspaceRow, size: int, entries: int, limits: FileLimits) -> None:
    """Accept so many more bytes, and files and folders. Raises TooLarge."""
    if size > 0 and space.size_bytes + size > limits.workspace:
        left = max(0, limits.workspace - space.size_bytes)
        raise TooLarge(
            f"a workspace's files may hold {limits.workspace} bytes together; {left} are left",
            code="workspace_full",
        )
    if entries > 0 and space.file_count + entries > MAX_ENTRIES:
        raise TooLarge(f"a workspace may hold {MAX_ENTRIES} files and folders", code="too_many_files")


async def _update(tx: Tx, rows: Sequence[FileRow]) -> None:
    await tx.run_many(
        "UPDATE files SET is_readonly = ?, is_text = ?, size_bytes = ?, hash = ?, updated_at = ?"
        " WHERE workspace_id = ? AND path = ?",
        [
            (r.is_readonly, r.is_text, r.size_bytes, r.hash, r.updated_at, r.workspace_id, r.path)
            for r in rows
        ],
    )


async def set_readonly(tx: Tx, row: FileRow, readonly: bool, now: Micros) -> FileRow:
    """Set a file's read-only flag, and nothing else."""
    if bool(row.is_readonly) == readonly:
        return row
    new = msgspec.structs.replace(row, is_readonly=int(readonly), updated_at=max(now, row.updated_at + 1))
    await _update(tx, (new,))
    return new


async def _subtree(tx: Tx, space: WorkspaceRow, path: str) -> list[FileRow]:
    """What is at a path and, when that is a folder, in it; empty when nothing is there."""
    root = (await get_entries(tx, space.org_id, space.id, (path,))).get(path)
    if root is None:
        return []
    return [root, *(await list_tree(tx, space.org_id, space.id, path) if root.is_directory else ())]


async def delete_path(
    tx: Tx,
    space: WorkspaceRow,
    path: str,
    *,
    recursive: bool,
    expected: frozenset[str] | None = None,
    now: Micros,
) -> int:
    """Remove a file, or a folder; how many files and folders went, 0 when nothing was there.

    Raises:
        InvalidInput: it is the top.
        Conflict: it is a folder with something in it, and `recursive` was not said.
        Forbidden: it, or something in it, is read-only.
        PreconditionFailed: it has another hash than was expected.
    """
    if path == "/":
        raise InvalidInput("/ itself cannot be deleted", code="invalid_path", field="path")
    rows = await _subtree(tx, space, path)
    if not rows:
        return 0
    check_expected(expected, rows[0])
    if len(rows) > 1 and not recursive:
        raise Conflict(f"{path} is a folder with something in it: say `recursive`", code="folder_not_empty")
    _check_writable(rows)
    await tx.run(
        "DELETE FROM files WHERE workspace_id = ? AND org_id = ? AND (path = ? OR (path >= ? AND path < ?))",
        space.id,
        space.org_id,
        path,
        *below(path),
    )
    await release_contents(tx, space.org_id, {row.hash for row in rows} - {""}, now)
    await count_in_workspace(tx, space, -sum(row.size_bytes for row in rows), -len(rows))
    return len(rows)


async def remove_entries(tx: Tx, space: WorkspaceRow, rows: Sequence[FileRow], now: Micros) -> None:
    """Remove files, and folders that are empty then, which were looked at while the workspace was held."""
    match, paths = among(tx.dialect, "path", "TEXT", [row.path for row in rows])
    if rows:
        await tx.run(
            f"DELETE FROM files WHERE workspace_id = ? AND org_id = ? AND {match}",
            space.id,
            space.org_id,
            paths,
        )
    await release_contents(tx, space.org_id, {row.hash for row in rows} - {""}, now)
    await count_in_workspace(tx, space, -sum(row.size_bytes for row in rows), -len(rows))


def _check_writable(rows: Sequence[FileRow]) -> None:
    for row in rows:
        if row.is_readonly:
            raise read_only(row.path)


async def _moved_rows(
    tx: Tx, space: WorkspaceRow, source: str, target: str, now: Micros
) -> tuple[list[FileRow], list[FileRow], list[FileRow]]:
    """What is at a path, the same as it would be at another one, and the folders to be made above that."""
    if source == "/":
        raise InvalidInput("/ itself cannot be moved or copied", code="invalid_path", field="src_path")
    if is_below(target, source):
        raise InvalidInput("a folder cannot go into itself", code="invalid_path", field="dst_path")
    rows = await _subtree(tx, space, source)
    if not rows:
        raise missing(source)
    there = await get_entries(tx, space.org_id, space.id, (target, *folders_above(target)))
    if target == "/" or target in there:
        raise exists(target)
    moved = []
    for row in rows:
        path = clean_path(target + row.path[len(source) :], "dst_path")
        moved.append(msgspec.structs.replace(row, path=path, parent=parent_of(path)))
    folders = _folders_for(space, [Written(moved[0], created=True)], there, now)
    return rows, moved, folders


async def move_path(
    tx: Tx, space: WorkspaceRow, source: str, target: str, limits: FileLimits, now: Micros
) -> FileRow:
    """Give a file or folder another path; folders above it are made.

    Raises:
        NotFound: nothing is there.
        Conflict: something is at the target, or a folder above it is a file.
        Forbidden: it, or something in it, is read-only.
        InvalidInput: a folder would go into itself, or a path would become too long.
    """
    rows, moved, folders = await _moved_rows(tx, space, source, target, now)
    _check_writable(rows)
    check_room(space, 0, len(folders), limits)
    if folders:
        await tx.run_many(INSERT, [values(row) for row in folders])
    places = [(new.path, new.parent, now, space.id, old.path) for old, new in zip(rows, moved, strict=True)]
    await tx.run_many(
        "UPDATE files SET path = ?, parent = ?, updated_at = ? WHERE workspace_id = ? AND path = ?", places
    )
    await count_in_workspace(tx, space, 0, len(folders))
    return msgspec.structs.replace(moved[0], updated_at=now)


async def copy_path(
    tx: Tx, space: WorkspaceRow, source: str, target: str, limits: FileLimits, now: Micros
) -> FileRow:
    """Copy a file or folder, without its content; the copies can be written to.

    Raises what `move_path` does, and TooLarge.
    """
    _, copies, folders = await _moved_rows(tx, space, source, target, now)
    copies = [msgspec.structs.replace(row, is_readonly=0, created_at=now, updated_at=now) for row in copies]
    size = sum(row.size_bytes for row in copies)
    check_room(space, size, len(copies) + len(folders), limits)
    await tx.run_many(INSERT, [values(row) for row in (*folders, *copies)])
    await count_in_workspace(tx, space, size, len(copies) + len(folders))
    return copies[0]


async def remove_files(tx: Tx, space: WorkspaceRow, now: Micros) -> None:
    """Remove a workspace with all that it holds."""
    rows = await tx.all(
        "SELECT DISTINCT hash FROM files WHERE workspace_id = ? AND org_id = ? AND is_directory = 0",
        space.id,
        space.org_id,
    )
    await tx.run("DELETE FROM files WHERE workspace_id = ? AND org_id = ?", space.id, space.org_id)
    await release_contents(tx, space.org_id, [row[0] for row in rows], now)
    await remove_workspace(tx, space)


def exists(path: str) -> Conflict:
    """The error of a path that is taken."""
    return Conflict(f"there is something at {path} already", code="file_exists")


def not_a_folder(path: str) -> Conflict:
    """The error of a file where a folder was meant."""
    return Conflict(f"{path} is a file, not a folder", code="not_a_folder")


def read_only(path: str) -> Forbidden:
    """The error of a file that must not be changed."""
    return Forbidden(f"{path} is read-only", code="file_read_only")
