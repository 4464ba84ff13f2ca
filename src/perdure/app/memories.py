"""Memories: create, read, list, change, archive, purge; their files and the versions of these."""

from __future__ import annotations

import asyncio

from msgspec import UNSET
from msgspec.structs import replace

from perdure.app import memory_files
from perdure.app.context import App
from perdure.app.file_access import sized
from perdure.app.idempotency import Once, write_once
from perdure.app.memory_files import Writing, check_writable, writing
from perdure.domain.accounts import RANK, Caller
from perdure.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, TooLarge
from perdure.domain.files import Content, Encoding, content_of, decoded
from perdure.domain.ids import MemoryId, MemoryVersionId, OrgId
from perdure.domain.line_diffs import diff
from perdure.domain.memories import (
    LIMITS,
    MAX_MEMORIES,
    Author,
    CreateMemory,
    CreateMemoryFile,
    ManualMemorySource,
    Memory,
    MemoryDiff,
    MemoryDiffLine,
    MemoryFile,
    MemoryFileInfo,
    MemorySourceRequest,
    MemoryVersion,
    UpdateMemory,
    UpdateMemoryFile,
)
from perdure.domain.paths import clean_path
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.store.blobs import read_content
from perdure.store.database import Changes, Tx
from perdure.store.file_changes import FileWrite, check_expected
from perdure.store.files import FileRow, get_entry, list_children, list_tree, missing, need_file
from perdure.store.memories import (
    MemoryRow,
    add_memory,
    count_memories,
    get_memory,
    list_memories,
    memory_named,
    remove_memory,
    update_memory,
)
from perdure.store.memory_versions import (
    MemoryVersionRow,
    get_version,
    is_current,
    list_versions,
    redact_content,
    version_before,
)


def to_memory(row: MemoryRow) -> Memory:
    """Convert the row to its wire format."""
    return Memory(
        id=row.id,
        name=row.name,
        source_type="manual",
        source=ManualMemorySource(),
        is_readonly=row.status != "active",
        sync_status="not_applicable",
        status=row.status,
        created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at),
        scope=row.scope,
        size_bytes=row.size_bytes,
        file_count=row.file_count,
        history_bytes=row.history_bytes,
        description=row.description,
        agent_id=row.agent_id,
        user_id=row.user_id,
        archived_at=maybe_rfc3339(row.archived_at),
    )


async def visible_memory(tx: Tx, caller: Caller, memory_id: MemoryId, *, lock: bool = False) -> MemoryRow:
    """Read a memory. Raises NotFound, also for another user's: the answer does not tell."""
    row = await get_memory(tx, caller.organization_id, memory_id, lock=lock)
    if row.scope == "user" and row.user_id != caller.user_id:
        raise NotFound("memory")
    return row


def _require_keeper(caller: Caller, row: MemoryRow) -> None:
    """Require somebody who may destroy what a memory holds: who made it, its user, or an admin."""
    if caller.user_id in (row.created_by, row.user_id) or RANK[caller.role] >= RANK["admin"]:
        return
    raise Forbidden(
        "only who created the memory, and admins, may remove what it holds for good", code="role_required"
    )


def _check_source(source: MemorySourceRequest | None) -> None:
    if source is not None and source.type != "manual":
        raise InvalidInput(
            f"`source.type`: this server copies no files from {source.type[:50]!r}: leave `source` out, and "
            "write the files yourself",
            code="unsupported_memory_source",
            field="source.type",
        )


async def check_room(tx: Tx, org_id: OrgId) -> None:
    """Check that an organization may have one more memory. Raises Conflict."""
    if await count_memories(tx, org_id) >= MAX_MEMORIES:
        raise Conflict(
            f"an organization has at most {MAX_MEMORIES} memories: purge archived ones",
            code="too_many_memories",
        )


async def create_memory(app: App, caller: Caller, body: CreateMemory, once: Once | None = None) -> Memory:
    """Create a memory of the organization. Raises InvalidInput, and Conflict: the name is taken."""
    _check_source(body.source)
    now = app.now()
    row = MemoryRow(
        MemoryId(app.new_id("memory")),
        caller.organization_id,
        "named",
        body.name,
        body.description,
        None,
        None,
        caller.user_id,
        "active",
        0,
        0,
        0,
        0,
        now,
        now,
    )

    async def work(tx: Tx) -> Memory:
        await check_room(tx, row.org_id)
        if not await add_memory(tx, row):
            raise _name_taken(row.name)
        return to_memory(row)

    return await write_once(app, once, work)


def _name_taken(name: str) -> Conflict:
    return Conflict(f"another memory is already named {name!r}", code="name_taken")


async def all_memories(app: App, caller: Caller, search: str | None, archived: bool) -> list[Memory]:
    """List the memories that the caller sees, newest first."""
    rows = await app.database.read(
        lambda tx: list_memories(tx, caller.organization_id, caller.user_id, search, archived), long=True
    )
    return [to_memory(row) for row in rows]


async def read_memory(app: App, caller: Caller, memory_id: MemoryId) -> Memory:
    """Read a memory. Raises NotFound."""
    return to_memory(await app.database.read(lambda tx: visible_memory(tx, caller, memory_id)))


async def change_memory(app: App, caller: Caller, memory_id: MemoryId, body: UpdateMemory) -> Memory:
    """Change the fields that the body contains. Raises NotFound, InvalidInput and Conflict."""
    if body.source is not UNSET:
        _check_source(body.source)
    given = {name: getattr(body, name) for name in ("name", "description", "status")}
    values: Changes = {name: value for name, value in given.items() if value is not UNSET}
    now = app.now()

    async def work(tx: Tx) -> Memory:
        row = await visible_memory(tx, caller, memory_id, lock=True)
        return to_memory(await _update(tx, row, values, now))

    return await app.database.write(work)


async def _update(tx: Tx, row: MemoryRow, values: Changes, now: Micros) -> MemoryRow:
    changes = {name: value for name, value in values.items() if value != getattr(row, name)}
    if "name" in changes and row.scope != "named":
        raise Conflict(
            "the memories of agents and users keep their name: sessions find them by it",
            code="memory_of_owner",
        )
    if not changes:
        return row
    if "status" in changes:
        changes["archived_at"] = None if changes["status"] == "active" else now
    changes["updated_at"] = max(now, row.updated_at + 1)
    new = replace(row, **changes)
    if new.status == "active" and (new.name != row.name or row.status != "active"):
        owner = row.agent_id if row.scope == "agent" else row.user_id
        if await memory_named(tx, row.org_id, row.scope, owner, new.name) is not None:
            raise _name_taken(new.name)
    await update_memory(tx, row, changes)
    return new


async def delete_memory(app: App, caller: Caller, memory_id: MemoryId, *, purge: bool) -> None:
    """Archive a memory, or remove an archived one for good.

    Raises:
        NotFound: there is no such memory.
        Conflict: it is not archived, and is to be removed.
        Forbidden: the caller may not remove it.
    """
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await visible_memory(tx, caller, memory_id, lock=True)
        if not purge:
            await _update(tx, row, {"status": "archived"}, now)
            return
        _require_keeper(caller, row)
        if row.status == "active":
            raise Conflict(
                "this memory is in use: archive it first, with DELETE without `purge`",
                code="memory_not_archived",
            )
        await remove_memory(tx, row, now)

    await app.database.write(work)


async def sync_memory(app: App, caller: Caller, memory_id: MemoryId) -> Memory:
    """Refuse to copy files from elsewhere. Raises NotFound and InvalidInput."""
    await read_memory(app, caller, memory_id)
    raise InvalidInput(
        "this memory has no source to synchronize with: its files are written here",
        code="unsupported_memory_source",
    )


# --- files ------------------------------------------------------------------


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
    expected = if_match
    if body.expected_hash is not None:
        wanted = body.expected_hash
        both = if_match is None or bool({"*", wanted} & if_match)
        expected = frozenset((wanted,)) if both else frozenset()
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


# --- versions ---------------------------------------------------------------


def to_version(row: MemoryVersionRow, data: bytes | None = None) -> MemoryVersion:
    """Convert the row to its wire format."""
    return MemoryVersion(
        row.id,
        row.memory_id,
        row.path,
        row.version,
        row.sequence,
        row.operation,
        row.size_bytes,
        to_rfc3339(row.created_at),
        row.hash or None,
        row.user_id,
        row.session_id,
        maybe_rfc3339(row.redacted_at),
        row.redacted_by,
        None if data is None else data.decode(),
    )


async def all_versions(
    app: App, caller: Caller, memory_id: MemoryId, path: str | None, before: int | None, limit: int
) -> list[MemoryVersion]:
    """List versions, newest first. Raises NotFound."""
    clean = None if path is None else clean_path(path)

    async def work(tx: Tx) -> list[MemoryVersionRow]:
        memory = await visible_memory(tx, caller, memory_id)
        return await list_versions(tx, memory.org_id, memory.id, clean, before, limit)

    return [to_version(row) for row in await app.database.read(work)]


async def _read(tx: Tx, row: MemoryVersionRow) -> bytes:
    """Read a version's content; of a deletion there is none. Raises Conflict: it is redacted."""
    if row.redacted_at is not None:
        raise Conflict(
            f"version {row.version} of {row.path} is redacted: its content is gone",
            code="memory_version_redacted",
        )
    return await read_content(tx, row.org_id, row.hash, row.size_bytes) if row.hash else b""


async def read_version(
    app: App, caller: Caller, memory_id: MemoryId, version_id: MemoryVersionId
) -> MemoryVersion:
    """Read a version with its content, if it has some that is not redacted. Raises NotFound."""

    async def work(tx: Tx) -> MemoryVersion:
        memory = await visible_memory(tx, caller, memory_id)
        row = await get_version(tx, memory.org_id, memory.id, version_id)
        readable = row.redacted_at is None and row.operation != "delete"
        return to_version(row, await _read(tx, row) if readable else None)

    return await app.database.read(work)


async def diff_version(
    app: App,
    caller: Caller,
    memory_id: MemoryId,
    version_id: MemoryVersionId,
    against: MemoryVersionId | None,
) -> MemoryDiff:
    """Compare a version with another one; without `against`, with the one before it of the same path.

    Raises NotFound, and Conflict if one of them is redacted.
    """

    async def work(tx: Tx) -> tuple[MemoryVersionRow, MemoryVersionRow | None, bytes, bytes]:
        memory = await visible_memory(tx, caller, memory_id)
        row = await get_version(tx, memory.org_id, memory.id, version_id)
        if against is None:
            other = await version_before(tx, row)
        else:
            other = await get_version(tx, memory.org_id, memory.id, against)
        before = b"" if other is None else await _read(tx, other)
        return row, other, before, await _read(tx, row)

    row, other, before, after = await app.database.read(work)
    changes = await asyncio.to_thread(diff, before.decode(), after.decode())
    lines = tuple(MemoryDiffLine(each.sign, each.line, each.skipped) for each in changes)
    return MemoryDiff(row.path, row.version, lines, None if other is None else other.version)


async def redact_version(
    app: App, caller: Caller, memory_id: MemoryId, version_id: MemoryVersionId
) -> MemoryVersion:
    """Remove the content of a version, and of the memory's others that have the same; the rest stays.

    Raises:
        NotFound: there is no such version.
        Forbidden: the caller may not.
        Conflict: a file has this content now.
    """
    now = app.now()

    async def work(tx: Tx) -> MemoryVersion:
        memory = await visible_memory(tx, caller, memory_id, lock=True)
        _require_keeper(caller, memory)
        row = await get_version(tx, memory.org_id, memory.id, version_id)
        if row.redacted_at is not None or not row.hash:
            return to_version(row)
        path = await is_current(tx, row)
        if path is not None:
            raise Conflict(
                f"{path} has this content now: change or delete the file first",
                code="memory_version_current",
            )
        size = await redact_content(tx, row, caller.user_id, now)
        await update_memory(
            tx,
            memory,
            {
                "history_bytes": memory.history_bytes - size,
                "updated_at": max(now, memory.updated_at + 1),
            },
        )
        return to_version(replace(row, redacted_at=now, redacted_by=caller.user_id))

    return await app.database.write(work)
