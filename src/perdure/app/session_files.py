"""A session's files as its own tools read and change them.

The log tells of a tool's changes with the tool's result, so these use cases append nothing themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec import Struct

from perdure.app.context import Scope, Services
from perdure.app.file_access import OfSession, change_files, content_of_row, sized, workspace_at
from perdure.domain.errors import PreconditionFailed
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
"""How often an edit is made anew on a file that somebody else has changed meanwhile."""


class Edited(Struct, frozen=True):
    """What an edit came to: the file as it is now, its content, and the number of places that changed."""

    written: Written
    content: Content
    places: int


# --- reading ----------------------------------------------------------------


async def find_entry(app: Services, scope: Scope, session_id: SessionId, path: str) -> FileRow | None:
    """What is at a clean path; None when nothing is."""

    async def work(tx: Tx) -> FileRow | None:
        space = await workspace_at(tx, scope, OfSession(session_id))
        return await get_entry(tx, scope.organization_id, space, path)

    return await app.database.read(work)


async def read_entry(app: Services, scope: Scope, session_id: SessionId, path: str) -> FileRow:
    """What is at a clean path. Raises NotFound."""

    async def work(tx: Tx) -> FileRow:
        space = await workspace_at(tx, scope, OfSession(session_id))
        return await need_entry(tx, scope.organization_id, space, path)

    return await app.database.read(work)


async def read_file(app: Services, scope: Scope, session_id: SessionId, path: str) -> tuple[FileRow, bytes]:
    """The file at a clean path, with its content. Raises NotFound, and InvalidInput for a folder."""

    async def work(tx: Tx) -> FileRow:
        space = await workspace_at(tx, scope, OfSession(session_id))
        return await need_file(tx, scope.organization_id, space, path)

    row = await app.database.read(work)
    return row, await content_of_row(app, row)


async def list_entries(
    app: Services, scope: Scope, session_id: SessionId, path: str, *, recursive: bool
) -> list[FileRow]:
    """What is in the folder at a clean path. Raises NotFound, and Conflict for a file."""
    look = list_tree if recursive else list_children

    async def work(tx: Tx) -> list[FileRow]:
        org_id, space = scope.organization_id, await workspace_at(tx, scope, OfSession(session_id))
        if not (await need_entry(tx, org_id, space, path)).is_directory:
            raise not_a_folder(path)
        return await look(tx, org_id, space, path)

    return await app.database.read(work, long=True)


async def read_beginnings(
    app: Services, scope: Scope, session_id: SessionId, paths: Sequence[str], size: int
) -> dict[str, tuple[int, bytes]]:
    """Of those of these text files that are there: the size, and the first bytes, `size` of them at most."""

    async def work(tx: Tx) -> dict[str, tuple[int, bytes]]:
        space = await workspace_at(tx, scope, OfSession(session_id))
        return await read_heads(tx, scope.organization_id, space, paths, size)

    return await app.database.read(work)


# --- changing ---------------------------------------------------------------


async def write_file(app: Services, scope: Scope, session_id: SessionId, write: FileWrite) -> Written:
    """Write a file; the folders above it are made. Raises what `store.file_changes.write_files` does."""
    now = app.now()

    async def change(tx: Tx, space: WorkspaceRow, session: SessionRow | None) -> Written:
        return await changes.write_file(tx, space, write, app.file_limits, now)

    return await change_files(app, scope, OfSession(session_id), change, write.content)


async def edit_file(
    app: Services,
    scope: Scope,
    session_id: SessionId,
    path: str,
    edit: Callable[[FileRow, bytes], tuple[Content, int]],
    expected: frozenset[str] | None,
) -> Edited:
    """Change a file that is there, on top of what it holds: what others write meanwhile is not lost.

    Args:
        edit: the new content, and how many places changed; it may be asked again.
        expected: the hashes of which the file must have one; None: it does not matter.

    Raises:
        PreconditionFailed: it has another hash, or others change it again and again.
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
    """Delete what is at a clean path; how many files and folders went, 0 when nothing was there.

    Raises what `store.file_changes.delete_path` does.
    """
    now = app.now()

    async def change(tx: Tx, space: WorkspaceRow, session: SessionRow | None) -> int:
        return await changes.delete_path(tx, space, path, recursive=recursive, expected=expected, now=now)

    return await change_files(app, scope, OfSession(session_id), change)
