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
from perdure.store.database import Tx, Value
from perdure.store.files import COLUMNS, INSERT, FileRow, below, get_entries, is_a_folder, missing
from perdure.store.gone_files import AT_ONCE, let_go
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


_BELOW = "workspace_id = ? AND org_id = ? AND (path = ? OR (path >= ? AND path < ?))"


class _Branch(Struct, frozen=True):
    """A file, or a folder with everything in it: how much it is, and what may keep it from being changed.

    Attributes:
        readonly: the path of its first file that is read-only.
    """

    root: FileRow
    entries: int
    size: int
    readonly: str | None

    def where(self) -> tuple[str, ...]:
        """The arguments of `_BELOW`."""
        return self.root.workspace_id, self.root.org_id, self.root.path, *below(self.root.path)

    def check_writable(self) -> None:
        if self.readonly is not None:
            raise read_only(self.readonly)


async def _branch(tx: Tx, space: WorkspaceRow, path: str) -> _Branch | None:
    """Look at a path and all that is below it; None if nothing exists there.

    The database does it, and changes it then in single statements: rows that pass through Python, of which
    there may be 20,000, keep all other writers of SQLite waiting for several times as long.
    """
    root = (await get_entries(tx, space.org_id, space.id, (path,))).get(path)
    if root is None:
        return None
    found = await tx.one(
        "SELECT COUNT(*), COALESCE(SUM(size_bytes), 0), MIN(CASE WHEN is_readonly = 1 THEN path END)"
        f" FROM files WHERE {_BELOW}",
        space.id,
        space.org_id,
        path,
        *below(path),
    )
    return None if found is None else _Branch(root, found[0], int(found[1]), found[2])


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
    branch = await _branch(tx, space, path)
    if branch is None:
        return 0
    check_expected(expected, branch.root)
    if branch.entries > 1 and not recursive:
        raise Conflict(
            f"{path} is a folder that is not empty: set `recursive` to delete it", code="folder_not_empty"
        )
    branch.check_writable()
    await tx.run(
        "UPDATE blobs SET released_at = ? WHERE org_id = ? AND hash IN"
        f" (SELECT hash FROM files WHERE {_BELOW} AND is_directory = 0)",
        now,
        space.org_id,
        *branch.where(),
    )
    await tx.run(f"DELETE FROM files WHERE {_BELOW}", *branch.where())
    await count_in_workspace(tx, space, -branch.size, -branch.entries)
    return branch.entries


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


async def _moving(
    tx: Tx, space: WorkspaceRow, source: str, target: str, now: Micros
) -> tuple[_Branch, FileRow, list[FileRow]]:
    """Return what is at a path, its row at another path, and the folders to create above that."""
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
    branch = await _branch(tx, space, source)
    if branch is None:
        raise missing(source)
    entries = await get_entries(tx, space.org_id, space.id, (target, *folders_above(target)))
    if target == "/" or target in entries:
        raise exists(target)
    for most in ("LENGTH(path)", "LENGTH(path) - LENGTH(REPLACE(path, '/', ''))"):
        longest = await tx.one(
            f"SELECT path FROM files WHERE {_BELOW} ORDER BY {most} DESC LIMIT 1", *branch.where()
        )
        if longest is not None:
            clean_path(target + longest[0][len(source) :], "dst_path")
    moved = msgspec.structs.replace(branch.root, path=target, parent=parent_of(target))
    return branch, moved, _folders_for(space, [Written(moved, created=True)], entries, now)


_PATH = "CAST(? AS TEXT) || substr(path, ?)"
_PARENT = "CASE WHEN path = ? THEN CAST(? AS TEXT) ELSE CAST(? AS TEXT) || substr(parent, ?) END"
"""The new path and parent of what is moved or copied."""


def _moved(source: str, moved: FileRow) -> tuple[Value, ...]:
    """The arguments of `_PATH` and `_PARENT`."""
    after = len(source) + 1
    return moved.path, after, source, moved.parent, moved.path, after


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
    branch, moved, folders = await _moving(tx, space, source, target, now)
    branch.check_writable()
    check_room(space, 0, len(folders), limits)
    if folders:
        await tx.run_many(INSERT, [values(row) for row in folders])
    await tx.run(
        f"UPDATE files SET path = {_PATH}, parent = {_PARENT}, updated_at = ? WHERE {_BELOW}",
        *_moved(source, moved),
        now,
        *branch.where(),
    )
    await count_in_workspace(tx, space, 0, len(folders))
    return msgspec.structs.replace(moved, updated_at=now)


async def copy_path(
    tx: Tx, space: WorkspaceRow, source: str, target: str, limits: FileLimits, now: Micros
) -> FileRow:
    """Copy a file or folder; the copies share the contents and are not read-only.

    Raises TooLarge, and the errors of `move_path` except Forbidden.
    """
    branch, moved, folders = await _moving(tx, space, source, target, now)
    check_room(space, branch.size, branch.entries + len(folders), limits)
    if folders:
        await tx.run_many(INSERT, [values(row) for row in folders])
    await tx.run(
        f"INSERT INTO files ({COLUMNS}) SELECT workspace_id, {_PATH}, org_id, {_PARENT}, is_directory, 0,"
        f" is_text, size_bytes, hash, ?, ? FROM files WHERE {_BELOW}",
        *_moved(source, moved),
        now,
        now,
        *branch.where(),
    )
    await count_in_workspace(tx, space, branch.size, branch.entries + len(folders))
    return msgspec.structs.replace(moved, is_readonly=0, created_at=now, updated_at=now)


async def remove_files(tx: Tx, space: WorkspaceRow, now: Micros) -> None:
    """Delete a workspace. The files of a large one, which nobody reaches from now on, are removed later."""
    await remove_workspace(tx, space)
    if space.file_count > AT_ONCE:
        await let_go(tx, space.org_id, space.id, now)
        return
    rows = await tx.all(
        "SELECT DISTINCT hash FROM files WHERE workspace_id = ? AND org_id = ? AND is_directory = 0",
        space.id,
        space.org_id,
    )
    await tx.run("DELETE FROM files WHERE workspace_id = ? AND org_id = ?", space.id, space.org_id)
    await release_contents(tx, space.org_id, [row[0] for row in rows], now)


def exists(path: str) -> Conflict:
    """Return the error for a path that is taken."""
    return Conflict(f"{path} already exists", code="file_exists")


def not_a_folder(path: str) -> Conflict:
    """Return the error for a file where a folder is required."""
    return Conflict(f"{path} is a file, not a folder", code="not_a_folder")


def read_only(path: str) -> Forbidden:
    """Return the error for a file that must not be changed."""
    return Forbidden(f"{path} is read-only", code="file_read_only")
