"""Changes of the memories in a session's files.

The session's row is locked first, then its workspace if that is concerned, and the memories last, in the
order of their ids.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec import Struct

from perdure.app import memory_files
from perdure.app.confidential import close_to_others
from perdure.app.context import Scope, Services
from perdure.app.file_access import At, OfSession
from perdure.app.file_views import (
    in_memories,
    memory_of,
    mount_of,
    mounts_at,
    not_mounted,
    owner_of,
)
from perdure.app.idempotency import Once, write_once
from perdure.app.memories import check_room
from perdure.app.memory_files import Writing, as_mounted, writing
from perdure.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, PreconditionFailed
from perdure.domain.files import Content
from perdure.domain.ids import AgentId, MemoryId, SessionId, UserId, WorkspaceId
from perdure.domain.memories import LIMITS, Author, MemoryMount, Mounts
from perdure.domain.paths import clean_path
from perdure.domain.times import Micros
from perdure.store import file_changes as changes
from perdure.store.blobs import read_content
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, Written
from perdure.store.files import FileRow, get_entry, missing, need_file
from perdure.store.memories import MemoryRow, add_memory, get_memory, update_memory
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow, get_session
from perdure.store.workspaces import hold_for_writing, note_external

T = TypeVar("T")


class Held(Struct, frozen=True):
    """A memory in a session's files that is being changed, and the path in it.

    Attributes:
        folder: where the session has it.
        path: the path in the memory.
    """

    writing: Writing
    folder: str
    path: str
    space: WorkspaceId

    def shown(self, row: FileRow) -> FileRow:
        """The row as the session sees it."""
        return as_mounted(row, self.folder, self.space)


def mounts_for(scope: Scope, at: At, *paths: str) -> tuple[SessionId, Mounts] | None:
    """The session and its memories if one of these clean paths is in one; None if the workspace has all."""
    mounts = mounts_at(scope, at)
    if mounts is None or not isinstance(at, OfSession) or not any(map(in_memories, paths)):
        return None
    return at.session_id, mounts


def writable_mount(mounts: Mounts, path: str) -> MemoryMount:
    """The mount that a clean path is in. Raises NotFound, and Forbidden if the session only reads it."""
    mount = mount_of(mounts, path)
    if mount is None:
        raise not_mounted(mounts, path)
    if mount.mode == "read_only":
        raise Forbidden(f"{mount.folder} is mounted read-only", code="memory_read_only")
    if path == mount.folder:
        raise InvalidInput(f"{path} is a whole memory: name a file in it", code="invalid_path", field="path")
    return mount


async def hold(
    app: Services, tx: Tx, session: SessionRow, mounts: Mounts, paths: Sequence[str], now: Micros
) -> list[Held]:
    """Lock the memories that these paths are in, and make those of an agent or a user that do not exist.

    The caller has locked the session.

    Raises:
        NotFound: no memory is there.
        Forbidden: it is mounted read-only.
    """
    found = [(path, writable_mount(mounts, path)) for path in paths]
    ids = [(await _found_or_made(app, tx, session, mounts, mount, now)).id for _, mount in found]
    rows = {each: await get_memory(tx, session.org_id, each, lock=True) for each in sorted(set(ids))}
    for each in rows.values():
        await _note_session(tx, session, each, now)
    author = Author(session.org_id, mounts.viewer, session.id)
    return [
        Held(
            writing(app, rows[identifier], author, now),
            mount.folder,
            path.removeprefix(mount.folder),
            session.workspace(),
        )
        for (path, mount), identifier in zip(found, ids, strict=True)
    ]


async def _found_or_made(
    app: Services, tx: Tx, session: SessionRow, mounts: Mounts, mount: MemoryMount, now: Micros
) -> MemoryRow:
    row = await memory_of(tx, session.org_id, mounts, mount)
    if row is not None:
        return row
    if mount.scope == "named":
        raise NotFound(f"memory {mount.memory_id or mount.name}", code="memory_not_found")
    await check_room(tx, session.org_id)
    owner = owner_of(mounts, mount)
    made = MemoryRow(
        MemoryId(app.new_id("memory")),
        session.org_id,
        mount.scope,
        mount.name,
        None,
        AgentId(str(owner)) if mount.scope == "agent" else None,
        UserId(str(owner)) if mount.scope == "user" else None,
        mounts.viewer,
        "active",
        0,
        0,
        0,
        0,
        now,
        now,
    )
    await add_memory(tx, made)
    # Another session may have made it first.
    return await memory_of(tx, session.org_id, mounts, mount) or made


async def _note_session(tx: Tx, session: SessionRow, row: MemoryRow, now: Micros) -> None:
    """Note in the memory what its text can come from, and that the session has seen a user's memory."""
    sources = session.external_sources()
    if sources and row.external is None:
        await update_memory(tx, row, {"external": to_json(sources)})
    if row.scope == "user":
        await close_to_others(tx, session, now)


Change = Callable[[Tx, Held, SessionRow], Awaitable[T]]


async def change_memory(
    app: Services,
    scope: Scope,
    of: tuple[SessionId, Mounts],
    path: str,
    change: Change[T],
    once: Once | None = None,
) -> T:
    """Change the memory that a path of a session's files is in, in one transaction.

    Raises:
        NotFound: the session does not exist, or no memory is there.
        Forbidden: the memory is mounted read-only.
    """
    session_id, mounts = of
    now = app.now()

    async def work(tx: Tx) -> T:
        session = await get_session(tx, scope.organization_id, session_id, lock=True)
        (held,) = await hold(app, tx, session, mounts, (path,), now)
        return await change(tx, held, session)

    return await write_once(app, once, work)


async def write_one(tx: Tx, held: Held, write: FileWrite, *, blind: bool = True) -> Written:
    """Write a file of a memory, whose path in `write` is the session's.

    Args:
        blind: whether a file may be replaced without naming its hash.

    Raises:
        PreconditionFailed: the file exists, and the write does not name what it replaces.
    """
    row = held.writing.row
    if not blind and write.expected is None and write.content is not None:
        known = await get_entry(tx, row.org_id, row.place(), held.path)
        if known is not None and not known.is_directory and known.hash != write.content.hash:
            raise PreconditionFailed(
                f"{write.path} exists, and other sessions may have changed it: read it, and give its hash as "
                "expected_hash",
                code="memory_hash_required",
            )
    inner = FileWrite(held.path, write.content, write.new, write.old, write.expected)
    (written,) = await memory_files.write_files(tx, held.writing, (inner,))
    return Written(held.shown(written.row), written.created)


async def delete_one(tx: Tx, held: Held, *, recursive: bool, expected: frozenset[str] | None) -> int:
    """Delete a path of a memory; return the number of files and folders, which may be 0."""
    return await memory_files.delete_path(tx, held.writing, held.path, recursive=recursive, expected=expected)


# --- between memories and the workspace -------------------------------------


async def transfer(
    app: Services,
    tx: Tx,
    session: SessionRow,
    mounts: Mounts,
    source: str,
    target: str,
    *,
    move: bool,
    now: Micros,
) -> FileRow:
    """Copy or move a file into, out of or within memories. The caller has locked the session.

    Raises:
        NotFound: nothing is there.
        InvalidInput: the source is a folder.
        Conflict: the target exists.
        Forbidden: what would change is read-only.
    """
    space = await hold_for_writing(tx, session.org_id, session.workspace())
    await note_external(tx, space, session.external_sources())
    row, memory = await _source(tx, session, mounts, source)
    changed = [path for path in ((source,) if move else ()) if in_memories(path)]
    changed += [target] if in_memories(target) else []
    held = dict(zip(changed, await hold(app, tx, session, mounts, changed, now), strict=True))
    if row.size_bytes > LIMITS.file and target in held:
        raise memory_files.too_large()
    data = await read_content(tx, row.org_id, row.hash, row.size_bytes)
    write = FileWrite(target, Content(data, row.hash, bool(row.is_text)), new=True)
    if memory is not None and memory.scope == "user":
        await close_to_others(tx, session, now)
    if target in held:
        done = (await write_one(tx, held[target], write)).row
    else:
        sources = () if memory is None else memory.sources()
        await note_external(tx, space, sources)
        done = (await changes.write_file(tx, space, write, app.file_limits, now)).row
    if move:
        await _remove(app, tx, session, mounts, source, held.get(source), now)
    return done


async def _source(tx: Tx, session: SessionRow, mounts: Mounts, path: str) -> tuple[FileRow, MemoryRow | None]:
    """The file to copy, and the memory that it is in."""
    if not in_memories(path):
        return _file(await need_file(tx, session.org_id, session.workspace(), path)), None
    mount = mount_of(mounts, path)
    if mount is None:
        raise not_mounted(mounts, path)
    memory = await memory_of(tx, session.org_id, mounts, mount)
    if memory is None:
        raise missing(path)
    inner = clean_path(path.removeprefix(mount.folder) or "/")
    found = await get_entry(tx, session.org_id, memory.place(), inner)
    if found is None:
        raise missing(path)
    return _file(found), memory


def _file(row: FileRow) -> FileRow:
    if row.is_directory:
        raise Conflict(
            "folders cannot be copied or moved into, out of or within memories: do it file by file",
            code="memory_folder",
        )
    return row


async def _remove(
    app: Services,
    tx: Tx,
    session: SessionRow,
    mounts: Mounts,
    source: str,
    held: Held | None,
    now: Micros,
) -> None:
    """Delete what was moved. What was written before has changed the totals: the rows are read again."""
    if held is not None:
        (again,) = await hold(app, tx, session, mounts, (source,), now)
        await delete_one(tx, again, recursive=False, expected=None)
        return
    space = await hold_for_writing(tx, session.org_id, session.workspace())
    await changes.delete_path(tx, space, source, recursive=False, now=now)
