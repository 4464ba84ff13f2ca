"""The files of memories, for callers of the API."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.app import memory_files
from perdure.app.context import App
from perdure.app.file_access import sized
from perdure.app.files import OpenFile, expected_by_both, opened
from perdure.app.idempotency import Once, write_once
from perdure.app.memories import visible_memory
from perdure.app.memory_files import Writing, check_writable, writing
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput, TooLarge
from perdure.domain.files import Content, Encoding, content_of, decoded
from perdure.domain.ids import MemoryId
from perdure.domain.memories import (
    LIMITS,
    Author,
    CreateMemoryFile,
    MemoryFile,
    MemoryFileInfo,
    UpdateMemoryFile,
)
from perdure.domain.paths import clean_path
from perdure.domain.times import Micros, to_rfc3339
from perdure.store.blobs import read_content
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, check_expected
from perdure.store.files import FileRow, get_entry, list_children, list_tree, missing, need_file


def to_info(row: FileRow) -> MemoryFileInfo:
    """Describe a file or folder."""
    return MemoryFileInfo(
        row.path,
        bool(row.is_directory),
        row.size_bytes,
        to_rfc3339(row.created_at),
        to_rfc3339(row.updated_at),
        row.hash or None,
    )


def _file(row: FileRow, data: bytes) -> MemoryFile:
    made, changed = to_rfc3339(row.created_at), to_rfc3339(row.updated_at)
    return MemoryFile(row.path, data.decode(), "text", row.size_bytes, made, changed, row.hash)


async def list_folder(
    app: App, caller: Caller, memory_id: MemoryId, path: str, *, recursive: bool
) -> list[MemoryFileInfo]:
    """List a folder. Raises NotFound."""
    found = await read_path(app, caller, memory_id, path, recursive=recursive)
    return found if isinstance(found, list) else []


async def read_path(
    app: App, caller: Caller, memory_id: MemoryId, path: str, *, recursive: bool = False
) -> MemoryFile | list[MemoryFileInfo]:
    """Read a file, or list a folder. Raises NotFound."""
    clean = clean_path(path)
    list_rows = list_tree if recursive else list_children

    async def work(tx: Tx) -> tuple[FileRow, bytes, list[FileRow]]:
        memory = await visible_memory(tx, caller, memory_id)
        row = await get_entry(tx, memory.org_id, memory.place(), clean)
        if row is None:
            raise missing(clean)
        if row.is_directory:
            return row, b"", await list_rows(tx, memory.org_id, memory.place(), clean)
        return row, await read_content(tx, row.org_id, row.hash, row.size_bytes), []

    row, data, rows = await app.database.read(work)
    return [to_info(each) for each in rows] if row.is_directory else _file(row, data)


async def open_file(app: App, caller: Caller, memory_id: MemoryId, path: str) -> OpenFile:
    """Open a file to read it part by part. Raises NotFound, and InvalidInput for a folder."""
    clean = clean_path(path)

    async def work(tx: Tx) -> FileRow:
        memory = await visible_memory(tx, caller, memory_id)
        return await need_file(tx, memory.org_id, memory.place(), clean)

    return opened(app, await app.database.read(work))


async def stat_path(app: App, caller: Caller, memory_id: MemoryId, path: str) -> MemoryFileInfo:
    """Describe a file or folder. Raises NotFound."""
    clean = clean_path(path)

    async def work(tx: Tx) -> FileRow:
        memory = await visible_memory(tx, caller, memory_id)
        row = await get_entry(tx, memory.org_id, memory.place(), clean)
        if row is None:
            raise missing(clean)
        return (
            replace(row, created_at=memory.created_at, updated_at=memory.updated_at) if clean == "/" else row
        )

    return to_info(await app.database.read(work))


async def _content(text: str | None, encoding: Encoding | None) -> Content:
    body = text or ""
    return await sized(len(body), lambda: content_of(decoded(body, encoding or "text", LIMITS.file)))


async def _hold(app: App, tx: Tx, caller: Caller, memory_id: MemoryId, now: Micros) -> Writing:
    row = await visible_memory(tx, caller, memory_id, lock=True)
    check_writable(row)
    return writing(app, row, Author(row.org_id, caller.user_id), now)


async def create_path(
    app: App,
    caller: Caller,
    memory_id: MemoryId,
    path: str,
    body: CreateMemoryFile,
    once: Once | None = None,
) -> MemoryFileInfo:
    """Create a file or folder where nothing exists yet."""
    clean, now = clean_path(path), app.now()
    if body.is_directory and body.content is not None:
        raise InvalidInput("a folder cannot have content", field="is_directory")
    content = None if body.is_directory else await _content_of(body.content, body.encoding)

    async def work(tx: Tx) -> MemoryFileInfo:
        at = await _hold(app, tx, caller, memory_id, now)
        (written,) = await memory_files.write_files(tx, at, (FileWrite(clean, content, new=True),))
        return to_info(written.row)

    return await write_once(app, once, work)


async def _content_of(text: str | None, encoding: Encoding | None) -> Content:
    """Decode a body's content. Raises InvalidInput and TooLarge."""
    try:
        return await _content(text, encoding)
    except TooLarge:
        raise memory_files.too_large() from None


async def update_path(
    app: App,
    caller: Caller,
    memory_id: MemoryId,
    path: str,
    body: UpdateMemoryFile,
    if_match: frozenset[str] | None,
) -> MemoryFile:
    """Change the text of a file. Raises PreconditionFailed if it has not the hash that the caller read."""
    clean, now = clean_path(path), app.now()
    expected = expected_by_both(if_match, body.expected_hash)
    content = None if body.content is None else await _content_of(body.content, body.encoding)

    async def work(tx: Tx) -> MemoryFile:
        at = await _hold(app, tx, caller, memory_id, now)
        if content is None:
            row = await need_file(tx, at.row.org_id, at.row.place(), clean)
            check_expected(expected, row)
            return _file(row, await read_content(tx, row.org_id, row.hash, row.size_bytes))
        write = FileWrite(clean, content, old=True, expected=expected)
        (written,) = await memory_files.write_files(tx, at, (write,))
        return _file(written.row, content.data)

    return await app.database.write(work)


async def delete_path(
    app: App,
    caller: Caller,
    memory_id: MemoryId,
    path: str,
    *,
    recursive: bool,
    if_match: frozenset[str] | None,
) -> None:
    """Delete a file or folder. Raises NotFound, and Conflict for a folder that is not empty."""
    clean, now = clean_path(path), app.now()

    async def work(tx: Tx) -> None:
        at = await _hold(app, tx, caller, memory_id, now)
        deleted = await memory_files.delete_path(tx, at, clean, recursive=recursive, expected=if_match)
        if not deleted:
            raise missing(clean)

    await app.database.write(work)
