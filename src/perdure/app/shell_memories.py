"""A command's changes of memories: each is written by itself, and those that cannot be written are noted."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.app.context import Services
from perdure.app.file_views import in_memories, mount_of
from perdure.app.mounted_files import delete_one, hold, write_one
from perdure.app.shell_changes import Changes, Saved, Snapshot
from perdure.domain.errors import InvalidInput, PerdureError
from perdure.domain.events import FileWrittenData
from perdure.domain.files import Content
from perdure.domain.memories import Mounts
from perdure.domain.paths import clean_path
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite
from perdure.store.sessions import SessionRow


def split(changes: Changes) -> tuple[Changes, Changes]:
    """Tell the changes of the workspace from those of memories."""
    own, shared = (
        replace(
            changes,
            written={
                path: content for path, content in changes.written.items() if in_memories(path) is mounted
            },
            removed=tuple(path for path in changes.removed if in_memories(path) is mounted),
            removed_folders=tuple(path for path in changes.removed_folders if in_memories(path) is mounted),
            made_folders=tuple(path for path in changes.made_folders if in_memories(path) is mounted),
        )
        for mounted in (False, True)
    )
    return own, shared


async def save_memories(
    app: Services,
    tx: Tx,
    session: SessionRow,
    mounts: Mounts,
    before: Snapshot,
    changes: Changes,
    now: Micros,
) -> Saved:
    """Write a command's changes of memories. The caller has locked the session.

    A file that others have changed since the command began is not overwritten.
    """
    events: list[FileWrittenData] = []
    notes: list[str] = []
    # The memories are locked in the order of their ids, whatever the command changes first.
    touched = sorted({*changes.written, *changes.removed, *changes.made_folders})
    reached = [path for path in touched if _is_writable(mounts, path)]
    await hold(app, tx, session, mounts, reached, now)
    for path in touched:
        content = changes.written.get(path)
        try:
            event = await _save(app, tx, session, mounts, before, path, content, path in changes.removed, now)
        except PerdureError as error:
            if error.retryable:
                raise
            notes.append(f"{path} was not changed: {error.message}")
            continue
        if event is not None:
            events.append(event)
    for path in sorted(changes.removed_folders, reverse=True):
        try:
            (held,) = await hold(app, tx, session, mounts, (path,), now)
            await delete_one(tx, held, recursive=False, expected=None)
        except PerdureError as error:
            if error.retryable:
                raise
            notes.append(f"{path} was not removed: {error.message}")
    return Saved(tuple(events), tuple(notes))


def _is_writable(mounts: Mounts, path: str) -> bool:
    mount = mount_of(mounts, path)
    return mount is not None and mount.mode == "read_write" and path != mount.folder


async def _save(
    app: Services,
    tx: Tx,
    session: SessionRow,
    mounts: Mounts,
    before: Snapshot,
    path: str,
    content: Content | None,
    removed: bool,
    now: Micros,
) -> FileWrittenData | None:
    if clean_path(path) != path:
        raise InvalidInput("its path is not valid in a memory", code="invalid_path")
    (held,) = await hold(app, tx, session, mounts, (path,), now)
    seen = before.hashes.get(path)
    expected = None if seen is None else frozenset((seen,))
    if removed:
        deleted = await delete_one(tx, held, recursive=False, expected=expected)
        return FileWrittenData(path, "delete", False, 0) if deleted else None
    write = FileWrite(path, content, new=seen is None and content is not None, expected=expected)
    written = await write_one(tx, held, write)
    if content is None:
        return None
    return FileWrittenData(path, "write", written.created, written.row.size_bytes)
