"""A session's files, read and changed by its own tools.

These use cases append no events: the engine logs a tool's file changes together with the tool's result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec import Struct

from perdure.app.context import Scope, Services
from perdure.app.file_access import OfSession, change_files, content_of_row, sized, workspace_at
from perdure.domain.errors import PreconditionFailed, TooLarge
from perdure.domain.files import Content
from perdure.domain.ids import SessionId
from perdure.store import file_changes as changes
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, Written, not_a_folder
from perdure.store.files import (
    FileRow,
    get_entry,
    list_children,
    list_tree,
    need_entry,
    need_file,
    read_heads,
)
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

    async def work(tx: Tx) -> FileRow | None:
        space = await workspace_at(tx, scope, OfSession(session_id))
        return await get_entry(tx, scope.organization_id, space, path)

    return await app.database.read(work)


async def read_entry(app: Services, scope: Scope, session_id: SessionId, path: str) -> FileRow:
    """Read the entry at a clean path. Raises NotFound."""

    async def work(tx: Tx) -> FileRow:
        space = await workspace_at(tx, scope, OfSession(session_id))
        return await need_entry(tx, scope.organization_id, space, path)

    return await app.database.read(work)


async def read_file(app: Services, scope: Scope, session_id: SessionId, path: str) -> tuple[FileRow, bytes]:
    """Read the file at a clean path with its content.

    Raises NotFound, InvalidInput for a folder, and TooLarge for what tools do not hold in memory.
    """

    async def work(tx: Tx) -> FileRow:
        space = await workspace_at(tx, scope, OfSession(session_id))
        return await need_file(tx, scope.organization_id, space, path)

    row = await app.database.read(work)
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
    list_rows = list_tree if recursive else list_children

    async def work(tx: Tx) -> list[FileRow]:
        org_id, space = scope.organization_id, await workspace_at(tx, scope, OfSession(session_id))
        if not (await need_entry(tx, org_id, space, path)).is_directory:
            raise not_a_folder(path)
        return await list_rows(tx, org_id, space, path)

    return await app.database.read(work, long=True)


async def read_beginnings(
    app: Services, scope: Scope, session_id: SessionId, paths: Sequence[str], size: int
) -> dict[str, tuple[int, bytes]]:
    """Read the beginnings of several text files.

    Returns the file's size in bytes and its first `size` bytes, by path, for the files that exist.
    """

    async def work(tx: Tx) -> dict[str, tuple[int, bytes]]:
        space = await workspace_at(tx, scope, OfSession(session_id))
        return await read_heads(tx, scope.organization_id, space, paths, size)

    return await app.database.read(work)


# --- changing ---------------------------------------------------------------


async def write_file(app: Services, scope: Scope, session_id: SessionId, write: FileWrite) -> Written:
    """Write a file and create its parent folders. Raises the errors of `store.file_changes.write_files`."""
    now, content = app.now(), write.content if isinstance(write.content, Content) else None

    async def change(tx: Tx, space: WorkspaceRow, session: SessionRow | None) -> Written:
        return await changes.write_file(tx, space, write, app.file_limits, now)

    return await change_files(app, scope, OfSession(session_id), change, content)


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
    now = app.now()

    async def change(tx: Tx, space: WorkspaceRow, session: SessionRow | None) -> int:
        return await changes.delete_path(tx, space, path, recursive=recursive, expected=expected, now=now)

    return await change_files(app, scope, OfSession(session_id), change)
