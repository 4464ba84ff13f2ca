"""The session's files for a shell: read before a command, and what it changed written back in one batch."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from perdure.app.context import Scope, Services
from perdure.app.file_access import OfSession, workspace_at
from perdure.domain.errors import Conflict, InvalidInput, PerdureError
from perdure.domain.events import FileWrittenData
from perdure.domain.files import Content, FileLimits
from perdure.domain.ids import OrgId, SessionId, WorkspaceId
from perdure.domain.paths import clean_path
from perdure.domain.times import Micros
from perdure.store.blobs import read_contents
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, Written, remove_entries, write_files
from perdure.store.files import FileRow, children_of, get_entries, list_tree
from perdure.store.sessions import SessionRow, get_session
from perdure.store.shell_states import read_shell_state, write_shell_state
from perdure.store.workspaces import WorkspaceRow, hold_for_writing, workspace_size


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
        unseen: files that it could not see, and so must not replace.
    """

    written: dict[str, Content]
    removed: tuple[str, ...] = ()
    removed_folders: tuple[str, ...] = ()
    made_folders: tuple[str, ...] = ()
    unseen: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.written or self.removed or self.removed_folders or self.made_folders)


class Saved(Struct, frozen=True):
    """What was written, and what could not be, in words for the model."""

    events: tuple[FileWrittenData, ...] = ()
    notes: tuple[str, ...] = ()


async def files_size(app: Services, scope: Scope, session_id: SessionId) -> int:
    """Bytes that the session's files hold together."""

    async def work(tx: Tx) -> int:
        org_id = scope.organization_id
        return await workspace_size(tx, org_id, await workspace_at(tx, scope, OfSession(session_id)))

    return await app.database.read(work)


async def before_command(app: Services, scope: Scope, session_id: SessionId) -> tuple[Held, str | None]:
    """Every file of the session, and what its shell remembers of the command before."""

    async def work(tx: Tx) -> tuple[Held, str | None]:
        org_id = scope.organization_id
        held = await _load(tx, org_id, await workspace_at(tx, scope, OfSession(session_id)))
        return held, await read_shell_state(tx, org_id, session_id)

    return await app.database.read(work, long=True)


async def after_command(
    app: Services, scope: Scope, session_id: SessionId, held: Held, changes: Changes, state: str | None
) -> Saved:
    """Keep a command's traces, files and what the shell remembers, all in one transaction.

    What cannot be written is left as it is, and said; the rest is kept. A file that somebody else has changed
    since the command began stays as they left it.

    Args:
        state: what the shell remembers now; None leaves it as it was.

    Raises:
        NotFound: the session was deleted meanwhile.
    """
    now = app.now()

    async def work(tx: Tx) -> Saved:
        session = await get_session(tx, scope.organization_id, session_id, lock=True)
        if state is not None:
            await write_shell_state(tx, session.org_id, session.id, state, now)
        return await _save(tx, app.file_limits, session, held, changes, now) if changes else Saved()

    return await app.database.write(work)


async def _load(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId) -> Held:
    rows = await list_tree(tx, org_id, workspace_id)
    kept = [row for row in rows if not row.is_directory]
    contents = await read_contents(tx, org_id, {row.hash: row.size_bytes for row in kept})
    return Held(
        {row.path: contents[row.hash] for row in kept},
        {row.path: row.hash for row in kept},
        tuple(row.path for row in rows if row.is_directory),
    )


async def _save(
    tx: Tx, limits: FileLimits, session: SessionRow, held: Held, changes: Changes, now: Micros
) -> Saved:
    """Write a command's changes; the session's row is held."""
    try:
        space = await hold_for_writing(tx, session.org_id, session.workspace())
    except Conflict as error:
        return Saved(notes=(f"no file was changed: {error.message}",))
    there = await get_entries(
        tx, space.org_id, space.id, (*changes.removed, *changes.written, *changes.made_folders)
    )
    notes: list[str] = []
    removed = await _remove(tx, space, held, changes, there, notes, now)
    writes = _writes(held, changes, there, notes)
    events = [FileWrittenData(row.path, "delete", False, 0) for row in removed]
    events += [
        FileWrittenData(each.row.path, "write", each.created, each.row.size_bytes)
        for each in await _all(tx, space, limits, writes, notes, now)
        if not each.row.is_directory
    ]
    return Saved(tuple(events), tuple(notes))


async def _remove(
    tx: Tx,
    space: WorkspaceRow,
    held: Held,
    changes: Changes,
    there: dict[str, FileRow],
    notes: list[str],
    now: Micros,
) -> list[FileRow]:
    """Remove what the command removed; the files among it."""
    removed: list[FileRow] = []
    for path in changes.removed:
        row = there.get(path)
        problem = None if row is None else _fixed(row, held.hashes.get(path))
        if problem:
            notes.append(f"{path} was not removed: {problem}")
        elif row is not None:
            removed.append(row)
    gone = {row.path for row in removed}
    folders = await get_entries(tx, space.org_id, space.id, changes.removed_folders)
    children = await children_of(tx, space.org_id, space.id, folders)
    emptied: list[FileRow] = []
    for path in sorted(folders, reverse=True):  # what is in a folder comes before it
        if folders[path].is_directory and gone.issuperset(children.get(path, ())):
            gone.add(path)
            emptied.append(folders[path])
    await remove_entries(tx, space, [*removed, *emptied], now)
    return removed


def _fixed(row: FileRow, seen: str | None) -> str | None:
    """Why a file stays."""
    if row.is_readonly:
        return "it is read-only"
    return "it was changed meanwhile" if row.is_directory or row.hash != seen else None


def _writes(held: Held, changes: Changes, there: dict[str, FileRow], notes: list[str]) -> list[FileWrite]:
    """What may be written, as far as it can be seen from here."""
    wanted: list[tuple[str, Content | None]] = [*changes.written.items()]
    wanted += [(path, None) for path in changes.made_folders if path not in there]
    writes = []
    for path, content in wanted:
        problem = "its path cannot be kept" if not _is_clean(path) else None
        if path in changes.unseen:
            problem = "the shell cannot see what it holds"
        elif content is not None and _is_changed(there.get(path), held.hashes.get(path), content.hash):
            problem = "it was changed meanwhile"
        if problem:
            notes.append(f"{path} was not written: {problem}")
        else:
            writes.append(FileWrite(path, content))
    return writes


def _is_clean(path: str) -> bool:
    try:
        return clean_path(path) == path
    except InvalidInput:
        return False


def _is_changed(row: FileRow | None, seen: str | None, becomes: str) -> bool:
    """Whether somebody else has written, made or removed a file since it was read."""
    if row is None or row.is_directory:
        return seen is not None
    return row.hash not in (seen, becomes)


async def _all(
    tx: Tx,
    held: WorkspaceRow,
    limits: FileLimits,
    writes: Sequence[FileWrite],
    notes: list[str],
    now: Micros,
) -> list[Written]:
    """Write in one go; where something is in the way of one of them, by halves.

    A write that is refused has changed nothing.
    """
    if not writes:
        return []
    space = await hold_for_writing(tx, held.org_id, held.id)  # as the half before has left it
    try:
        return await write_files(tx, space, writes, limits, now)
    except PerdureError as error:
        if len(writes) == 1:
            notes.append(f"{writes[0].path} was not written: {error.message}")
            return []
    half = len(writes) // 2
    return [
        *await _all(tx, space, limits, writes[:half], notes, now),
        *await _all(tx, space, limits, writes[half:], notes, now),
    ]
