"""Changes of a workspace's files.

Each function takes the workspace's row, locked by the caller, so that its checks stay true until the commit.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.domain.errors import Conflict, Forbidden, InvalidInput, PreconditionFailed, TooLarge
from perdure.domain.files import MAX_ENTRIES, Content, FileLimits, Uploaded, too_large
from perdure.domain.paths import clean_path, folders_above, is_below, parent_of
from perdure.domain.times import Micros
from perdure.store.blobs import keep_contents, release_contents
from perdure.store.database import Tx
from perdure.store.files import INSERT, FileRow, below, get_entries, is_a_folder, list_tree, missing
from perdure.store.rows import among, values
from perdure.store.uploads import link_content
from perdure.store.workspaces import WorkspaceRow, count_in_workspace, remove_workspace


class FileWrite(Struct, frozen=True):
    """A file to write, or a folder to create.

    Attributes:
        content: the new content; None for a folder.
        new: whether the path must not exist yet.
        old: whether the path must exist already.
        expected: the hashes of which the file must have one, `*` for any; None skips the check.
        readonly: the new read-only flag; None keeps the present one.
        force: whether to overwrite a read-only file.
        uploaded: whether the limit is that of uploads.
    """

    path: str
    content: Content | Uploaded | None
    new: bool = False
    old: bool = False
    expected: frozenset[str] | None = None
    readonly: bool | None = None
    force: bool = False
    uploaded: bool = False


class Written(Struct, frozen=True):
    """A file after a write, and whether the write created it."""

    row: FileRow
    created: bool


async def write_file(
    tx: Tx, space: WorkspaceRow, write: FileWrite, limits: FileLimits, now: Micros
) -> Written:
    """Write one file; see `write_files`."""
    return (await write_files(tx, space, (write,), limits, now))[0]


async def write_files(
    tx: Tx, space: WorkspaceRow, writes: Sequence[FileWrite], limits: FileLimits, now: Micros
) -> list[Written]:
    """Write all of these files or none, each path once; create missing folders above them.

    Raises:
        Conflict: a path that must be new exists, or a folder above it is a file.
        NotFound: a path that must exist does not.
        InvalidInput: a file would replace a folder.
        Forbidden: a file is read-only.
        PreconditionFailed: a file's hash is not an expected one.
        TooLarge: a limit is exceeded.
    """
    paths = {path for write in writes for path in (write.path, *folders_above(write.path))}
    before = await get_entries(tx, space.org_id, space.id, paths)
    done = [_written(space, write, before.get(write.path), limits, now) for write in writes]
    after = before | {written.row.path: written.row for written in done}
    folders = _folders_for(space, done, after, now)
    growth, created = _growth(done, before), [written.row for written in done if written.created]
    check_room(space, growth, len(folders) + len(created), limits)
    contents = [write.content for write in writes]
    await keep_contents(tx, space.org_id, [each for each in contents if isinstance(each, Content)], now)
    for each in contents:
        if isinstance(each, Uploaded):
            await link_content(tx, space.org_id, each, now)
    added = [*folders, *created]
    if added:
        await tx.run_many(INSERT, [values(row) for row in added])
    changed = [written.row for written in done if not written.created]
    if changed:
        await _update(tx, changed)
    released = {before[row.path].hash for row in changed} - {row.hash for row in changed}
    await release_contents(tx, space.org_id, released - {""}, now)
    await count_in_workspace(tx, space, growth, len(added))
    return done


def _written(
    space: WorkspaceRow, write: FileWrite, old: FileRow | None, limits: FileLimits, now: Micros
) -> Written:
    """Check a write, and return the row as it is afterwards."""
    path, content = write.path, write.content
    if path == "/":
        raise is_a_folder(path) if not write.new else exists(path)
    if old is None and (write.old or write.expected is not None):
        if write.expected is not None and not write.old:
            raise PreconditionFailed(f"{path} no longer exists: write it without an expected hash")
        raise missing(path)
    if old is not None:
        _check_change(write, old)
    if content is not None:
        check_size(content.size_bytes, limits, uploaded=write.uploaded)
    row = FileRow(
        space.id,
        path,
        space.org_id,
        parent_of(path),
        int(content is None),
        0,
        int(content is not None and content.is_text),
        0 if content is None else content.size_bytes,
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


def check_size(size: int, limits: FileLimits, *, uploaded: bool) -> None:
    """Check that a file may have so many bytes. Raises TooLarge."""
    most = limits.upload if uploaded else limits.file
    if size > most:
        raise too_large(most)


async def check_upload(
    tx: Tx, space: WorkspaceRow, path: str, expected: frozenset[str] | None, limits: FileLimits
) -> int:
    """Check that a file could be written, before it arrives; return how many bytes it may have.

    A hash is compared at the end only: a repeated request may find its own content. Raises the errors of
    `write_files`.
    """
    before = await get_entries(tx, space.org_id, space.id, (path, *folders_above(path)))
    old = before.get(path)
    nothing = Content(b"", "", is_text=True)
    write = FileWrite(path, nothing, expected=expected if old is None else None)
    done = _written(space, write, old, limits, space.updated_at)
    folders = _folders_for(space, [done], before, space.updated_at)
    check_room(space, 0, len(folders) + int(done.created), limits)
    room = limits.workspace - space.size_bytes + (0 if old is None else old.size_bytes)
    return max(0, min(room, limits.upload))


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
    """Check that the file still has a content that the writer has read.

    Args:
        expected: the accepted hashes, `*` for any; None skips the check.
        becomes: the hash after the change; a file that already has it passes.

    Raises:
        PreconditionFailed: the file has changed since the writer read it.
    """
    if expected is None or "*" in expected or row.hash in expected or row.hash == becomes:
        return
    raise PreconditionFailed(f"{row.path} has changed since it was read: read it again")


def _folders_for(
    space: WorkspaceRow, done: list[Written], entries: dict[str, FileRow], now: Micros
) -> list[FileRow]:
    """Return the rows of the missing folders above these files. Raises Conflict if one is a file."""
    folders: dict[str, FileRow] = {}
    for written in done:
        for path in folders_above(written.row.path):
            entry = entries.get(path)
            if entry is None:
                folders[path] = FileRow(
                    space.id, path, space.org_id, parent_of(path), 1, 0, 0, 0, "", now, now
                )
            elif not entry.is_directory:
                raise not_a_folder(path)
    return list(folders.values())


def _growth(done: list[Written], before: dict[str, FileRow]) -> int:
    """Return the bytes by which these writes enlarge the workspace."""
    old_size = sum(before[written.row.path].size_bytes for written in done if not written.created)
    return sum(written.row.size_bytes for written in done) - old_size


def check_room(space: WorkspaceRow, size: int, entries: int, limits: FileLimits) -> None:
    """Check that a workspace has room for more bytes, and for more files and folders. Raises TooLarge."""
    if size > 0 and space.size_bytes + size > limits.workspace:
        left = max(0, limits.workspace - space.size_bytes)
        raise TooLarge(
            f"a workspace holds at most {limits.workspace} bytes: {left} are free, {size} more are needed",
            code="workspace_full",
        )
    if entries > 0 and space.file_count + entries > MAX_ENTRIES:
        raise TooLarge(f"a workspace holds at most {MAX_ENTRIES} files and folders", code="too_many_files")


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
    """Set only a file's read-only flag."""
    if bool(row.is_readonly) == readonly:
        return row
    new = msgspec.structs.replace(row, is_readonly=int(readonly), updated_at=max(now, row.updated_at + 1))
    await _update(tx, (new,))
    return new


async def _subtree(tx: Tx, space: WorkspaceRow, path: str) -> list[FileRow]:
    """Return the entry at a path and everything below it; nothing if the path does not exist."""
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
    """Delete a file or a folder.

    Returns:
        The number of files and folders that were deleted; 0 if the path did not exist.

    Raises:
        InvalidInput: the path is the root.
        Conflict: the folder is not empty, and `recursive` is False.
        Forbidden: the file, or one in the folder, is read-only.
        PreconditionFailed: the file's hash is not an expected one.
    """
    if path == "/":
        raise InvalidInput("the root folder / cannot be deleted", code="invalid_path", field="path")
    rows = await _subtree(tx, space, path)
    if not rows:
        return 0
    check_expected(expected, rows[0])
    if len(rows) > 1 and not recursive:
        raise Conflict(
            f"{path} is a folder that is not empty: set `recursive` to delete it", code="folder_not_empty"
        )
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
    """Delete files, and folders that this leaves empty, which the caller read under the workspace's lock."""
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
    """Return the rows at a path, the same rows at another path, and the folders to create above that."""
    if source == "/":
        raise InvalidInput(
            "the root folder / cannot be moved or copied", code="invalid_path", field="src_path"
        )
    if is_below(target, source):
        raise InvalidInput(
            f"{source} cannot be moved or copied into itself, to {target}",
            code="invalid_path",
            field="dst_path",
        )
    rows = await _subtree(tx, space, source)
    if not rows:
        raise missing(source)
    entries = await get_entries(tx, space.org_id, space.id, (target, *folders_above(target)))
    if target == "/" or target in entries:
        raise exists(target)
    moved = []
    for row in rows:
        path = clean_path(target + row.path[len(source) :], "dst_path")
        moved.append(msgspec.structs.replace(row, path=path, parent=parent_of(path)))
    folders = _folders_for(space, [Written(moved[0], created=True)], entries, now)
    return rows, moved, folders


async def move_path(
    tx: Tx, space: WorkspaceRow, source: str, target: str, limits: FileLimits, now: Micros
) -> FileRow:
    """Move a file or folder to another path; create missing folders above that.

    Raises:
        NotFound: nothing exists at the source.
        Conflict: the target exists, or a folder above it is a file.
        Forbidden: the file, or one in the folder, is read-only.
        InvalidInput: the folder would move into itself, or a path would become too long.
    """
    rows, moved, folders = await _moved_rows(tx, space, source, target, now)
    _check_writable(rows)
    check_room(space, 0, len(folders), limits)
    if folders:
        await tx.run_many(INSERT, [values(row) for row in folders])
    new_paths = [
        (new.path, new.parent, now, space.id, old.path) for old, new in zip(rows, moved, strict=True)
    ]
    await tx.run_many(
        "UPDATE files SET path = ?, parent = ?, updated_at = ? WHERE workspace_id = ? AND path = ?", new_paths
    )
    await count_in_workspace(tx, space, 0, len(folders))
    return msgspec.structs.replace(moved[0], updated_at=now)


async def copy_path(
    tx: Tx, space: WorkspaceRow, source: str, target: str, limits: FileLimits, now: Micros
) -> FileRow:
    """Copy a file or folder; the copies share the contents and are not read-only.

    Raises TooLarge, and the errors of `move_path` except Forbidden.
    """
    _, copies, folders = await _moved_rows(tx, space, source, target, now)
    copies = [msgspec.structs.replace(row, is_readonly=0, created_at=now, updated_at=now) for row in copies]
    size = sum(row.size_bytes for row in copies)
    check_room(space, size, len(copies) + len(folders), limits)
    await tx.run_many(INSERT, [values(row) for row in (*folders, *copies)])
    await count_in_workspace(tx, space, size, len(copies) + len(folders))
    return copies[0]


async def remove_files(tx: Tx, space: WorkspaceRow, now: Micros) -> None:
    """Delete a workspace with all its files."""
    rows = await tx.all(
        "SELECT DISTINCT hash FROM files WHERE workspace_id = ? AND org_id = ? AND is_directory = 0",
        space.id,
        space.org_id,
    )
    await tx.run("DELETE FROM files WHERE workspace_id = ? AND org_id = ?", space.id, space.org_id)
    await release_contents(tx, space.org_id, [row[0] for row in rows], now)
    await remove_workspace(tx, space)


def exists(path: str) -> Conflict:
    """Return the error for a path that is taken."""
    return Conflict(f"{path} already exists", code="file_exists")


def not_a_folder(path: str) -> Conflict:
    """Return the error for a file where a folder is required."""
    return Conflict(f"{path} is a file, not a folder", code="not_a_folder")


def read_only(path: str) -> Forbidden:
    """Return the error for a file that must not be changed."""
    return Forbidden(f"{path} is read-only", code="file_read_only")
