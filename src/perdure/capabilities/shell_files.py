"""The session's files for a shell: read before a command, and what it changed written back in one batch."""

from __future__ import annotations

from msgspec import Struct

from perdure.capabilities.base import ToolContext
from perdure.domain.errors import InvalidInput, PerdureError
from perdure.domain.events import FileWrittenData
from perdure.domain.files import content_of
from perdure.domain.paths import clean_path
from perdure.store.blobs import read_contents
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, Written, delete_path, write_files
from perdure.store.files import FileRow, get_entry, list_children, list_tree
from perdure.store.workspaces import hold_for_writing


class Held(Struct, frozen=True):
    """What the session's files were before the command.

    Attributes:
        files: what each holds, by path.
        hashes: the hash of each content, by path.
        folders: every folder.
    """

    files: dict[str, bytes]
    hashes: dict[str, str]
    folders: tuple[str, ...]


class Changes(Struct, frozen=True):
    """What a command did to the files.

    Attributes:
        made_folders: those with nothing in them; others come along with their files.
    """

    written: dict[str, bytes]
    removed: tuple[str, ...] = ()
    removed_folders: tuple[str, ...] = ()
    made_folders: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.written or self.removed or self.removed_folders or self.made_folders)


class Saved(Struct, frozen=True):
    """What was written, and what could not be, in words for the model."""

    events: tuple[FileWrittenData, ...] = ()
    notes: tuple[str, ...] = ()


async def load(tx: Tx, context: ToolContext) -> Held:
    """Every file of the session."""
    rows = await list_tree(tx, context.org_id, context.workspace_id)
    kept = [row for row in rows if not row.is_directory]
    contents = await read_contents(tx, context.org_id, {row.hash: row.size_bytes for row in kept})
    return Held(
        {row.path: contents[row.hash] for row in kept},
        {row.path: row.hash for row in kept},
        tuple(row.path for row in rows if row.is_directory),
    )


async def save(tx: Tx, context: ToolContext, held: Held, changes: Changes) -> Saved:
    """Write a command's changes. What cannot be written is left as it is, and said; the rest is kept."""
    org_id, place, now = context.org_id, context.workspace_id, context.now()
    notes: list[str] = []
    events: list[FileWrittenData] = []
    for path in changes.removed:
        row = await get_entry(tx, org_id, place, path)
        problem = None if row is None else _fixed(row, held.hashes.get(path))
        if problem:
            notes.append(f"{path} was not removed: {problem}")
        elif row is not None:
            await delete_path(tx, await hold_for_writing(tx, org_id, place), path, recursive=False, now=now)
            events.append(FileWrittenData(path, "delete", False, 0))
    for path in sorted(changes.removed_folders, reverse=True):
        if not await list_children(tx, org_id, place, path):
            await delete_path(tx, await hold_for_writing(tx, org_id, place), path, recursive=False, now=now)
    empty = [path for path in changes.made_folders if await get_entry(tx, org_id, place, path) is None]
    wanted = [*changes.written.items(), *((path, None) for path in empty)]
    writes = [write for path, content in wanted if (write := _write(path, content, notes)) is not None]
    events += [
        FileWrittenData(each.row.path, "write", each.created, each.row.size_bytes)
        for each in await _all(tx, context, writes, notes)
        if not each.row.is_directory
    ]
    return Saved(tuple(events), tuple(notes))


def _fixed(row: FileRow, seen: str | None) -> str | None:
    """Why a file stays."""
    if row.is_readonly:
        return "it is read-only"
    return "it was changed meanwhile" if not row.is_directory and row.hash != seen else None


def _write(path: str, content: bytes | None, notes: list[str]) -> FileWrite | None:
    try:
        kept = clean_path(path) == path
    except InvalidInput:
        kept = False
    if not kept:
        notes.append(f"{path} was not written: its path cannot be kept")
        return None
    return FileWrite(path, None if content is None else content_of(content))


async def _all(tx: Tx, context: ToolContext, writes: list[FileWrite], notes: list[str]) -> list[Written]:
    """Write in one go; where something is in the way of one of them, one by one. A write that is refused has changed nothing."""
    if not writes:
        return []
    try:
        return await _some(tx, context, writes)
    except PerdureError as error:
        if len(writes) == 1:
            notes.append(f"{writes[0].path} was not written: {error.message}")
            return []
    done: list[Written] = []
    for write in writes:
        done += await _all(tx, context, [write], notes)
    return done


async def _some(tx: Tx, context: ToolContext, writes: list[FileWrite]) -> list[Written]:
    space = await hold_for_writing(tx, context.org_id, context.workspace_id)
    return await write_files(tx, space, writes, context.file_limits, context.now())


def hash_content(content: bytes) -> str:
    """The hash by which the session's files are told apart."""
    return content_of(content).hash
