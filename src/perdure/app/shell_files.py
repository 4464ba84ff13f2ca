"""The session's files for a shell: read before a command; its changes are written back in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import Scope, Services
from perdure.app.file_access import OfSession, workspace_at
from perdure.domain.errors import Conflict, InvalidInput, PerdureError
from perdure.domain.events import FileWrittenData
from perdure.domain.files import Content, FileLimits
from perdure.domain.guards import GuardedFiles
from perdure.domain.ids import OrgId, SessionId, WorkspaceId
from perdure.domain.paths import clean_path
from perdure.domain.times import Micros
from perdure.store.blobs import read_contents
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, Written, remove_entries, write_files
from perdure.store.files import FileRow, children_of, get_entries, list_tree, total_size
from perdure.store.sessions import SessionRow, get_session
from perdure.store.shell_states import read_shell_state, write_shell_state
from perdure.store.workspaces import WorkspaceRow, hold_for_writing, note_external, workspace_size


class Snapshot(Struct, frozen=True):
    """The session's files before the command.

    Attributes:
        files: each file's content, by path.
        hashes: each content's hash, by path.
        folders: every folder.
        left_out: the paths of files that are too large for a command.
    """

    files: dict[str, bytes]
    hashes: dict[str, str]
    folders: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """Tell the model which files the command could not see."""
        return [f"{path} was left out: it is too large for a command" for path in self.left_out]


class Changes(Struct, frozen=True):
    """A command's changes to the files.

    Attributes:
        made_folders: new empty folders; other folders are implied by their files.
        unseen: files that the shell could not see, and must not replace.
    """

    written: dict[str, Content]
    removed: tuple[str, ...] = ()
    removed_folders: tuple[str, ...] = ()
    made_folders: tuple[str, ...] = ()
    unseen: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.written or self.removed or self.removed_folders or self.made_folders)


class Saved(Struct, frozen=True):
    """The written changes as events, and notes for the model on the changes that failed."""

    events: tuple[FileWrittenData, ...] = ()
    notes: tuple[str, ...] = ()


async def files_size(app: Services, scope: Scope, session_id: SessionId) -> int:
    """The total size of the session's files that a command gets, in bytes."""

    async def work(tx: Tx) -> int:
        org_id = scope.organization_id
        space = await workspace_at(tx, scope, OfSession(session_id))
        size = await workspace_size(tx, org_id, space)
        most = app.file_limits.file
        return size if size <= most else await total_size(tx, org_id, space, most)

    return await app.database.read(work)


async def before_command(app: Services, scope: Scope, session_id: SessionId) -> tuple[Snapshot, str | None]:
    """Read the session's files, and the state of its shell after the previous command."""

    async def work(tx: Tx) -> tuple[Snapshot, str | None]:
        org_id = scope.organization_id
        space = await workspace_at(tx, scope, OfSession(session_id))
        before = await _load(tx, org_id, space, app.file_limits.file)
        return before, await read_shell_state(tx, org_id, session_id)

    return await app.database.read(work, long=True)


async def after_command(
    app: Services,
    scope: Scope,
    session_id: SessionId,
    before: Snapshot,
    changes: Changes,
    state: str | None,
    guarded: GuardedFiles | None = None,
) -> Saved:
    """Save a command's file changes and the shell's state, in one transaction.

    A change that cannot be written is skipped and noted. A file that others have changed since the command
    began is not overwritten.

    Args:
        before: the files as the command saw them.
        state: the shell's new state; None leaves the stored state unchanged.
        guarded: files that a command must not change, because that needs an approval of its own: whoever
            approves a command does not see which files it writes.

    Raises:
        NotFound: the session was deleted meanwhile.
    """
    now = app.now()
    kept, refused = (changes, ()) if guarded is None else _without(changes, guarded)

    async def work(tx: Tx) -> Saved:
        session = await get_session(tx, scope.organization_id, session_id, lock=True)
        if state is not None:
            await write_shell_state(tx, session.org_id, session.id, state, now)
        return await _save(tx, app.file_limits, session, before, kept, now) if kept else Saved()

    saved = await app.database.write(work)
    return replace(saved, notes=(*refused, *saved.notes)) if refused else saved


def _without(changes: Changes, guarded: GuardedFiles) -> tuple[Changes, tuple[str, ...]]:
    """The changes without those of guarded files, and notes on the latter."""
    paths = [path for path in (*changes.written, *changes.removed) if guarded.has(path)]
    if not paths:
        return changes, ()
    kept = replace(
        changes,
        written={path: content for path, content in changes.written.items() if path not in paths},
        removed=tuple(path for path in changes.removed if path not in paths),
    )
    notes = (
        f"{path} was not changed: agents take it for instructions, so use write_file, edit_file or "
        "delete_file, which ask a person"
        for path in paths
    )
    return kept, tuple(notes)


async def _load(tx: Tx, org_id: OrgId, workspace_id: WorkspaceId, most: int) -> Snapshot:
    rows = await list_tree(tx, org_id, workspace_id)
    files = [row for row in rows if not row.is_directory and row.size_bytes <= most]
    contents = await read_contents(tx, org_id, {row.hash: row.size_bytes for row in files})
    return Snapshot(
        {row.path: contents[row.hash] for row in files},
        {row.path: row.hash for row in files},
        tuple(row.path for row in rows if row.is_directory),
        tuple(row.path for row in rows if row.size_bytes > most),
    )


async def _save(
    tx: Tx, limits: FileLimits, session: SessionRow, before: Snapshot, changes: Changes, now: Micros
) -> Saved:
    """Write a command's changes. The caller holds the session's row."""
    try:
        space = await hold_for_writing(tx, session.org_id, session.workspace())
        await note_external(tx, space, session.external_sources())
    except Conflict as error:
        return Saved(notes=(f"no file was changed: {error.message}",))
    current = await get_entries(
        tx, space.org_id, space.id, (*changes.removed, *changes.written, *changes.made_folders)
    )
    notes: list[str] = []
    removed = await _remove(tx, space, before, changes, current, notes, now)
    writes = _writes(before, changes, current, notes)
    events = [FileWrittenData(row.path, "delete", False, 0) for row in removed]
    events += [
        FileWrittenData(each.row.path, "write", each.created, each.row.size_bytes)
        for each in await _write_all(tx, space, limits, writes, notes, now)
        if not each.row.is_directory
    ]
    return Saved(tuple(events), tuple(notes))


async def _remove(
    tx: Tx,
    space: WorkspaceRow,
    before: Snapshot,
    changes: Changes,
    current: dict[str, FileRow],
    notes: list[str],
    now: Micros,
) -> list[FileRow]:
    """Remove the files and folders that the command removed; returns the removed files."""
    removed: list[FileRow] = []
    for path in changes.removed:
        row = current.get(path)
        problem = None if row is None else _removal_problem(row, before.hashes.get(path))
        if problem:
            notes.append(f"{path} was not removed: {problem}")
        elif row is not None:
            removed.append(row)
    removed_paths = {row.path for row in removed}
    folders = await get_entries(tx, space.org_id, space.id, changes.removed_folders)
    children = await children_of(tx, space.org_id, space.id, folders)
    emptied: list[FileRow] = []
    for path in sorted(folders, reverse=True):  # subfolders come before their parents
        if folders[path].is_directory and removed_paths.issuperset(children.get(path, ())):
            removed_paths.add(path)
            emptied.append(folders[path])
    await remove_entries(tx, space, [*removed, *emptied], now)
    return removed


def _removal_problem(row: FileRow, seen: str | None) -> str | None:
    """Why a file cannot be removed; None if it can."""
    if row.is_readonly:
        return "it is read-only"
    return "it was changed meanwhile" if row.is_directory or row.hash != seen else None


def _writes(
    before: Snapshot, changes: Changes, current: dict[str, FileRow], notes: list[str]
) -> list[FileWrite]:
    """The writes to attempt, without those that are known to fail; `notes` gets the reasons."""
    candidates: list[tuple[str, Content | None]] = [*changes.written.items()]
    candidates += [(path, None) for path in changes.made_folders if path not in current]
    writes = []
    for path, content in candidates:
        problem = "its path is not valid in a workspace" if not _is_clean(path) else None
        if path in changes.unseen or path in before.left_out:
            problem = "the shell cannot see its content"
        elif content is not None and _is_changed(current.get(path), before.hashes.get(path), content.hash):
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


def _is_changed(row: FileRow | None, seen: str | None, new: str) -> bool:
    """Whether another writer has created, changed or removed a file since the command read it."""
    if row is None or row.is_directory:
        return seen is not None
    return row.hash not in (seen, new)


async def _write_all(
    tx: Tx,
    workspace: WorkspaceRow,
    limits: FileLimits,
    writes: Sequence[FileWrite],
    notes: list[str],
    now: Micros,
) -> list[Written]:
    """Write all files at once. If one of them fails, write each half separately, down to the failing one.

    A refused batch has changed nothing.
    """
    if not writes:
        return []
    # Read the workspace again, because the first half has changed its counters.
    space = await hold_for_writing(tx, workspace.org_id, workspace.id)
    try:
        return await write_files(tx, space, writes, limits, now)
    except PerdureError as error:
        if error.retryable:
            raise
        if len(writes) == 1:
            notes.append(f"{writes[0].path} was not written: {error.message}")
            return []
    half = len(writes) // 2
    return [
        *await _write_all(tx, space, limits, writes[:half], notes, now),
        *await _write_all(tx, space, limits, writes[half:], notes, now),
    ]
