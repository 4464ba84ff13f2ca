"""Files over HTTP, addressed by workspace or by session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec import UNSET, Struct
from msgspec.structs import asdict

from perdure.app.at_head import append_aside
from perdure.app.context import App, Scope, Services
from perdure.app.file_access import At, change_files, content_of_row, sized
from perdure.app.file_search import grep
from perdure.app.file_views import children_at, entry_at, tree_at, view_at
from perdure.app.idempotency import Once, write_once
from perdure.app.mounted_files import Held, change_memory, delete_one, mounts_for, transfer, write_one
from perdure.app.session_mounts import with_mounts
from perdure.app.storage import without_secrets
from perdure.domain.accounts import Caller
from perdure.domain.errors import Forbidden, InvalidInput, PreconditionFailed
from perdure.domain.events import EventContext, FileWrittenData, NewEvent
from perdure.domain.files import (
    Content,
    CreateFile,
    DeletedFile,
    Encoding,
    FileInfo,
    FileLimits,
    FileStat,
    GrepFiles,
    GrepMatch,
    GrepResult,
    GrepResults,
    SessionFile,
    UpdateFile,
    content_of,
    decoded,
    encoded,
)
from perdure.domain.ids import SessionId
from perdure.domain.memories import Mounts
from perdure.domain.paging import Listing
from perdure.domain.paths import clean_path, file_id, name_of
from perdure.domain.times import Micros, to_rfc3339
from perdure.store import file_changes as changes
from perdure.store.blobs import PART, parts_of, read_part
from perdure.store.database import Tx
from perdure.store.files import FileRow, is_a_folder, need_file
from perdure.store.sessions import SessionRow, get_session
from perdure.store.workspaces import WorkspaceRow

T = TypeVar("T")

MAX_LINES = 1_000
"""Matching lines in one answer."""
MANY = 500
"""Entries above which a list is converted in a thread rather than on the event loop."""
PREVIEWED = 1_000_000
"""Bytes of a file that a preview shows."""


class OpenFile(Struct, frozen=True):
    """A file to send. Its parts are immutable and stay readable, however slowly the client reads."""

    row: FileRow
    read: Callable[[int], Awaitable[bytes]]

    @property
    def parts(self) -> int:
        return parts_of(self.row.size_bytes)


async def changing(
    app: Services,
    scope: Scope,
    at: At,
    work: Callable[[Tx, WorkspaceRow], Awaitable[tuple[T, FileWrittenData | None]]],
    content: Content | None = None,
    once: Once | None = None,
) -> T:
    """Change files and append the `file.written` event to the session's log, in one transaction."""
    now = app.now()

    async def change(tx: Tx, space: WorkspaceRow, session: SessionRow | None) -> T:
        result, data = await work(tx, space)
        if data is not None and session is not None:
            events = [NewEvent(data, EventContext(), now)]
            await append_aside(app, tx, session, await without_secrets(app, tx, session, events), now)
        return result

    return await change_files(app, scope, at, change, content, once)


async def changing_memory(
    app: App,
    caller: Caller,
    of: tuple[SessionId, Mounts],
    path: str,
    work: Callable[[Tx, Held], Awaitable[tuple[T, FileWrittenData | None]]],
    once: Once | None = None,
) -> T:
    """As `changing`, for a path in a memory."""
    now = app.now()

    async def change(tx: Tx, held: Held, session: SessionRow) -> T:
        result, data = await work(tx, held)
        if data is not None:
            events = [NewEvent(data, EventContext(), now)]
            await append_aside(app, tx, session, await without_secrets(app, tx, session, events), now)
        return result

    return await change_memory(app, caller, of, path, change, once)


def _unprotected(is_readonly: bool | None) -> None:
    if is_readonly:
        raise Forbidden(
            "files of memories cannot be made read-only: mount the memory read-only",
            code="memory_no_readonly",
        )


# --- shapes -----------------------------------------------------------------


def _stat(row: FileRow) -> FileStat:
    return FileStat(
        row.path,
        name_of(row.path),
        bool(row.is_directory),
        bool(row.is_readonly),
        row.size_bytes,
        to_rfc3339(row.created_at),
        to_rfc3339(row.updated_at),
        row.hash or None,
    )


def _info(row: FileRow) -> FileInfo:
    return FileInfo(
        file_id(row.workspace_id, row.path),
        SessionId(f"session_{row.workspace_id[-32:]}"),
        row.path,
        name_of(row.path),
        bool(row.is_directory),
        bool(row.is_readonly),
        row.size_bytes,
        to_rfc3339(row.created_at),
        to_rfc3339(row.updated_at),
        row.hash or None,
    )


def describe(row: FileRow) -> SessionFile:
    """Describe a file without its content."""
    return _file(row)


def _infos(rows: Sequence[FileRow]) -> tuple[FileInfo, ...]:
    return tuple(map(_info, rows))


def _file(row: FileRow, content: str | None = None) -> SessionFile:
    encoding: Encoding = "text" if row.is_text else "base64"
    return SessionFile(**asdict(_info(row)), content=content, encoding=UNSET if content is None else encoding)


async def _content(app: Services, text: str | None, encoding: Encoding | None) -> Content:
    """Decode a body's content. Raises InvalidInput and TooLarge."""
    body = text or ""

    def decode() -> Content:
        return content_of(decoded(body, encoding or "text", app.file_limits.file))

    return await sized(len(body), decode)


# --- reading ----------------------------------------------------------------


async def list_folder(app: App, caller: Caller, at: At, path: str, *, recursive: bool) -> Listing[FileInfo]:
    """List a folder's contents. Raises NotFound."""
    folder = clean_path(path)
    at = await with_mounts(app, caller, at, folder)
    list_rows = tree_at if recursive else children_at

    async def work(tx: Tx) -> list[FileRow]:
        return await list_rows(tx, await view_at(tx, caller, at, folder), folder)

    rows = await app.database.read(work, long=True)
    # Hashing ids and formatting times takes 0.2 s for a full workspace.
    return Listing(await asyncio.to_thread(_infos, rows) if len(rows) > MANY else _infos(rows))


async def read_path(
    app: App, caller: Caller, at: At, path: str, *, recursive: bool
) -> SessionFile | OpenFile | Listing[FileInfo]:
    """Read a file with its content, open a large one, or list a folder's contents. Raises NotFound."""
    clean = clean_path(path)
    at = await with_mounts(app, caller, at, clean)
    row = await _read_entry(app, caller, at, clean)
    if row.is_directory:
        return await list_folder(app, caller, at, clean, recursive=recursive)
    if row.size_bytes > PART:
        return opened(app, row)
    data = await content_of_row(app, row)
    return _file(row, await sized(len(data), encoded, data, bool(row.is_text)))


async def stat_path(app: App, caller: Caller, at: At, path: str) -> FileStat:
    """Describe the file or folder at a path. Raises NotFound."""
    clean = clean_path(path)
    return _stat(await _read_entry(app, caller, await with_mounts(app, caller, at, clean), clean))


async def _read_entry(app: App, caller: Caller, at: At, clean: str) -> FileRow:
    async def work(tx: Tx) -> FileRow:
        return await entry_at(tx, await view_at(tx, caller, at, clean), clean)

    return await app.database.read(work)


async def open_file(app: App, caller: Caller, at: At, path: str) -> OpenFile:
    """Open a file to read it part by part. Raises NotFound, and InvalidInput for a folder."""
    clean = clean_path(path)
    row = await _read_entry(app, caller, await with_mounts(app, caller, at, clean), clean)
    if row.is_directory:
        raise is_a_folder(clean)
    return opened(app, row)


def opened(app: Services, row: FileRow) -> OpenFile:
    """Open the file of a row."""

    async def read(part: int) -> bytes:
        return await app.database.read(lambda tx: read_part(tx, row.org_id, row.hash, part), long=True)

    return OpenFile(row, read)


async def grep_files(app: App, caller: Caller, at: At, body: GrepFiles) -> GrepResults:
    """Search text files for matching lines. Raises InvalidInput and NotFound."""
    at = await with_mounts(app, caller, at, "/")
    search = await grep(app, caller, at, body.pattern, glob=body.path_pattern, limit=MAX_LINES)
    results = tuple(
        GrepResult(file.path, tuple(GrepMatch(file.path, line.number, line.text) for line in file.lines))
        for file in search.files
    )
    return GrepResults(results, search.truncated is not None)


# --- changing ---------------------------------------------------------------


async def create_path(
    app: App, caller: Caller, at: At, path: str, body: CreateFile, once: Once | None = None
) -> SessionFile:
    """Create a file or folder at a path where nothing exists yet."""
    clean, now = clean_path(path), app.now()
    if body.is_directory and (body.content is not None or body.is_readonly):
        raise InvalidInput("a folder cannot have content or be read-only", field="is_directory")
    content = None if body.is_directory else await _content(app, body.content, body.encoding)
    write = changes.FileWrite(clean, content, new=True, readonly=body.is_readonly)
    at = await with_mounts(app, caller, at, clean)
    if (of := mounts_for(caller, at, clean)) is not None:
        _unprotected(body.is_readonly)

        async def in_memory(tx: Tx, held: Held) -> tuple[SessionFile, FileWrittenData]:
            row = (await write_one(tx, held, write)).row
            return _file(row), FileWrittenData(clean, "write", True, row.size_bytes)

        return await changing_memory(app, caller, of, clean, in_memory, once)

    async def work(tx: Tx, space: WorkspaceRow) -> tuple[SessionFile, FileWrittenData]:
        row = (await changes.write_file(tx, space, write, app.file_limits, now)).row
        return _file(row), FileWrittenData(clean, "write", True, row.size_bytes)

    return await changing(app, caller, at, work, content, once)


async def update_path(
    app: App, caller: Caller, at: At, path: str, body: UpdateFile, if_match: frozenset[str] | None
) -> SessionFile:
    """Change a file's content, its read-only flag, or both.

    A body that clears the flag may also change the content of a read-only file.
    """
    clean, now = clean_path(path), app.now()
    expected = expected_by_both(if_match, body.expected_hash)
    content = None if body.content is None else await _content(app, body.content, body.encoding)
    at = await with_mounts(app, caller, at, clean)
    if (of := mounts_for(caller, at, clean)) is not None:
        _unprotected(body.is_readonly)
        if content is None:
            raise InvalidInput("`content` is missing: nothing else can change in a memory", field="content")
        change = changes.FileWrite(clean, content, old=True, expected=expected)

        async def in_memory(tx: Tx, held: Held) -> tuple[SessionFile, FileWrittenData]:
            row = (await write_one(tx, held, change)).row
            return _file(row), FileWrittenData(clean, "write", False, row.size_bytes)

        return await changing_memory(app, caller, of, clean, in_memory)

    async def work(tx: Tx, space: WorkspaceRow) -> tuple[SessionFile, FileWrittenData | None]:
        if content is None:
            row = await need_file(tx, space.org_id, space.id, clean)
            changes.check_expected(expected, row)
            row = (
                row
                if body.is_readonly is None
                else await changes.set_readonly(tx, row, body.is_readonly, now)
            )
            return _file(row), None
        write = changes.FileWrite(
            clean,
            content,
            old=True,
            expected=expected,
            readonly=body.is_readonly,
            force=body.is_readonly is False,
        )
        row = (await changes.write_file(tx, space, write, app.file_limits, now)).row
        return _file(row), FileWrittenData(clean, "write", False, row.size_bytes)

    return await changing(app, caller, at, work, content)


def expected_by_both(if_match: frozenset[str] | None, expected: str | None) -> frozenset[str] | None:
    """Combine the hashes that the header and the body expect: both must match."""
    if expected is None:
        return if_match
    return frozenset((expected,)) if if_match is None or {"*", expected} & if_match else frozenset()


async def delete_path(
    app: App, caller: Caller, at: At, path: str, *, recursive: bool, if_match: frozenset[str] | None
) -> DeletedFile:
    """Delete a file or folder. It is not an error if nothing exists at the path, unless `if_match` is set."""
    clean, now = clean_path(path), app.now()

    def result(deleted: int) -> tuple[DeletedFile, FileWrittenData | None]:
        if not deleted and if_match is not None:
            raise PreconditionFailed(f"{clean} no longer exists")
        return DeletedFile(deleted > 0), FileWrittenData(clean, "delete", False, 0) if deleted else None

    at = await with_mounts(app, caller, at, clean)
    if (of := mounts_for(caller, at, clean)) is not None:

        async def in_memory(tx: Tx, held: Held) -> tuple[DeletedFile, FileWrittenData | None]:
            return result(await delete_one(tx, held, recursive=recursive, expected=if_match))

        return await changing_memory(app, caller, of, clean, in_memory)

    async def work(tx: Tx, space: WorkspaceRow) -> tuple[DeletedFile, FileWrittenData | None]:
        return result(
            await changes.delete_path(tx, space, clean, recursive=recursive, expected=if_match, now=now)
        )

    return await changing(app, caller, at, work)


async def move_path(app: App, caller: Caller, at: At, source: str, target: str) -> SessionFile:
    """Move a file or folder to another path."""
    return await _transfer(app, caller, at, source, target, changes.move_path, "move")


async def copy_path(
    app: App, caller: Caller, at: At, source: str, target: str, once: Once | None = None
) -> SessionFile:
    """Copy a file or folder."""
    return await _transfer(app, caller, at, source, target, changes.copy_path, "write", once)


_Transfer = Callable[[Tx, WorkspaceRow, str, str, FileLimits, Micros], Awaitable[FileRow]]


async def _transfer(
    app: App,
    caller: Caller,
    at: At,
    source: str,
    target: str,
    transfer: _Transfer,
    operation: str,
    once: Once | None = None,
) -> SessionFile:
    src, dst, now = clean_path(source, "src_path"), clean_path(target, "dst_path"), app.now()
    at = await with_mounts(app, caller, at, src, dst)
    if (of := mounts_for(caller, at, src, dst)) is not None:
        return await _across(app, caller, of, src, dst, operation == "move", once)

    async def work(tx: Tx, space: WorkspaceRow) -> tuple[SessionFile, FileWrittenData]:
        row = await transfer(tx, space, src, dst, app.file_limits, now)
        return _file(row), FileWrittenData(dst, operation, True, row.size_bytes)

    return await changing(app, caller, at, work, once=once)


async def _across(
    app: App,
    caller: Caller,
    of: tuple[SessionId, Mounts],
    source: str,
    target: str,
    move: bool,
    once: Once | None,
) -> SessionFile:
    """Copy or move a file into, out of or within memories."""
    session_id, mounts = of
    now = app.now()

    async def work(tx: Tx) -> SessionFile:
        session = await get_session(tx, caller.organization_id, session_id, lock=True)
        row = await transfer(app, tx, session, mounts, source, target, move=move, now=now)
        data = FileWrittenData(target, "move" if move else "write", True, row.size_bytes)
        events = await without_secrets(app, tx, session, [NewEvent(data, EventContext(), now)])
        await append_aside(app, tx, session, events, now)
        return _file(row)

    return await write_once(app, once, work)
