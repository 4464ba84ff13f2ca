"""A session's files, read and changed by its own tools.

These use cases append no events: the engine logs a tool's file changes together with the tool's result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec import Struct

from perdure.app.context import Scope, Services
from perdure.app.file_access import OfSession, change_files, content_of_row, sized, workspace_at
from perdure.app.file_views import children_at, entry_at, find_at, prepare, tree_at, view_at
from perdure.app.mounted_files import Held, change_memory, delete_one, mounts_for, write_one
from perdure.domain.errors import PreconditionFailed, TooLarge
from perdure.domain.files import Content
from perdure.domain.ids import SessionId
from perdure.store import file_changes as changes
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, Written, not_a_folder
from perdure.store.files import FileRow, is_a_folder, read_heads
from perdure.store.sessions import SessionRow
from perdure.store.workspaces import WorkspaceRow

T = TypeVar("T")

EDITS = 5
"""Attempts to edit a file that others change at the same time."""


class Edited(Struct, frozen=True):
    """The result of an edit: the written file, its new content, and the number of replacements."""

    written: Written
    content: Content
    places: int


# --- reading ----------------------------------------------------------------


async def find_entry(app: Services, scope: Scope, session_id: SessionId, path: str) -> FileRow | None:
    """Read the entry at a clean path; None if nothing exists there."""
    at = OfSession(session_id)
    await prepare(app, scope, at, path)

    async def work(tx: Tx) -> FileRow | None:
        return await find_at(tx, await view_at(tx, scope, at, path), path)

    return await app.database.read(work)


async def read_entry(app: Services, scope: Scope, session_id: SessionId, path: str) -> FileRow:
    """Read the entry at a clean path. Raises NotFound."""
    at = OfSession(session_id)
    await prepare(app, scope, at, path)

    async def work(tx: Tx) -> FileRow:
        return await entry_at(tx, await view_at(tx, scope, at, path), path)

    return await app.database.read(work)


async def read_file(app: Services, scope: Scope, session_id: SessionId, path: str) -> tuple[FileRow, bytes]:
    """Read the file at a clean path with its content.

    Raises NotFound, InvalidInput for a folder, and TooLarge for what tools do not hold in memory.
    """
    row = await read_entry(app, scope, session_id, path)
    if row.is_directory:
        raise is_a_folder(path)
    if row.size_bytes > app.file_limits.file:
        raise TooLarge(
            f"{path} has {row.size_bytes} bytes, and tools read files of up to {app.file_limits.file} bytes",
            code="file_too_large",
        )
    return row, await content_of_row(app, row)


async def list_entries(
    app: Services, scope: Scope, session_id: SessionId, path: str, *, recursive: bool
) -> list[FileRow]:
    """List the contents of the folder at a clean path. Raises NotFound, and Conflict for a file."""
    at, list_rows = OfSession(session_id), tree_at if recursive else children_at
    if recursive or path != "/":
        await prepare(app, scope, at, path)

    async def work(tx: Tx) -> list[FileRow]:
        view = await view_at(tx, scope, at, path)
        if not (await entry_at(tx, view, path)).is_directory:
            raise not_a_folder(path)
        return await list_rows(tx, view, path)

    return await app.database.read(work, long=True)


async def read_beginnings(
    app: Services, scope: Scope, session_id: SessionId, paths: Sequence[str], size: int
) -> dict[str, tuple[int, bytes]]:
    """Read the beginnings of several text files of the workspace. Memories are left out.

    Returns the file's size in bytes and its first `size` bytes, by path, for the files that exist.
    """

    async def work(tx: Tx) -> dict[str, tuple[int, bytes]]:
        space = await workspace_at(tx, scope, OfSession(session_id))
        return await read_heads(tx, scope.organization_id, space, paths, size)

    return await app.database.read(work)


# --- changing ---------------------------------------------------------------


async def write_file(app: Services, scope: Scope, session_id: SessionId, write: FileWrite) -> Written:
    """Write a file and create its parent folders.

    A file of a memory is replaced only if the write names its hash: another session may have changed it.

    Raises the errors of `store.file_changes.write_files`.
    """
    now, at = app.now(), OfSession(session_id)
    content = write.content if isinstance(write.content, Content) else None
    of = mounts_for(scope, at, write.path)
    if of is not None:

        async def change_mounted(tx: Tx, held: Held, session: SessionRow) -> Written:
            return await write_one(tx, held, write, blind=False)

        return await change_memory(app, scope, of, write.path, change_mounted)

    async def change(tx: Tx, space: WorkspaceRow, session: SessionRow | None) -> Written:
        return await changes.write_file(tx, space, write, app.file_limits, now)

    return await change_files(app, scope, at, change, content)


async def edit_file(
    app: Services,
    scope: Scope,
    session_id: SessionId,
    path: str,
    edit: Callable[[FileRow, bytes], tuple[Content, int]],
    expected: frozenset[str] | None,
) -> Edited:
    """Edit an existing file without losing concurrent changes: retries if the file changes in between.

    Args:
        edit: computes the new content and the number of replacements; may be called several times.
        expected: the hashes of which the file must have one; None accepts any.

    Raises:
        PreconditionFailed: the file has another hash, or others keep changing it.
        NotFound, InvalidInput, Forbidden, TooLarge: as for a write.
    """
    for left in reversed(range(EDITS)):
        row, data = await read_file(app, scope, session_id, path)
        changes.check_expected(expected, row)
        content, places = await sized(len(data), edit, row, data)
        write = FileWrite(path, content, old=True, expected=frozenset((row.hash,)))
        try:
            return Edited(await write_file(app, scope, session_id, write), content, places)
        except PreconditionFailed:
            if not left:
                raise
    raise AssertionError("unreachable")


async def delete_path(
    app: Services,
    scope: Scope,
    session_id: SessionId,
    path: str,
    *,
    recursive: bool,
    expected: frozenset[str] | None,
) -> int:
    """Delete the entry at a clean path; returns the number of deleted files and folders, which may be 0.

    Raises the errors of `store.file_changes.delete_path`.
    """
    now, at = app.now(), OfSession(session_id)
    of = mounts_for(scope, at, path)
    if of is not None:

        async def change_mounted(tx: Tx, held: Held, session: SessionRow) -> int:
            return await delete_one(tx, held, recursive=recursive, expected=expected)

        return await change_memory(app, scope, of, path, change_mounted)

    async def change(tx: Tx, space: WorkspaceRow, session: SessionRow | None) -> int:
        return await changes.delete_path(tx, space, path, recursive=recursive, expected=expected, now=now)

    return await change_files(app, scope, at, change)
