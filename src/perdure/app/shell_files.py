"""The session's files for a shell: read before a command; its changes are written back in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from perdure.app.content_staging import stage_all
from perdure.app.context import Scope, Services
from perdure.app.file_access import OfSession
from perdure.app.file_views import View, mounts_at, prepare, tree_at, view_at
from perdure.app.shell_changes import Changes, Saved, Snapshot
from perdure.app.shell_memories import save_memories, split
from perdure.domain.errors import Conflict, InvalidInput, PerdureError
from perdure.domain.events import FileWrittenData
from perdure.domain.files import Content, FileLimits
from perdure.domain.guards import GuardedFiles, why_guarded
from perdure.domain.ids import SessionId
from perdure.domain.paths import clean_path
from perdure.domain.times import Micros
from perdure.store.blobs import read_contents
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, Written, remove_entries, write_files
from perdure.store.files import FileRow, children_of, get_entries, total_size
from perdure.store.sessions import SessionRow, get_session
from perdure.store.shell_states import read_shell_state, write_shell_state
from perdure.store.workspaces import WorkspaceRow, hold_for_writing, note_external, workspace_size


async def files_size(app: Services, scope: Scope, session_id: SessionId) -> int:
    """The total size of the session's files that a command gets, in bytes."""

    async def work(tx: Tx) -> int:
        view = await view_at(tx, scope, OfSession(session_id), "/")
        memories = sum(each.row.size_bytes for each in view.seen if each.row is not None)
        size, most = await workspace_size(tx, view.org_id, view.space), app.file_limits.file
        own = size if size <= most else await total_size(tx, view.org_id, view.space, most)
        return min(memories + own, app.file_limits.command)

    return await app.database.read(work)


async def before_command(app: Services, scope: Scope, session_id: SessionId) -> tuple[Snapshot, str | None]:
    """Read the session's files, and the state of its shell after the previous command."""
    at = OfSession(session_id)
    await prepare(app, scope, at, "/")

    async def work(tx: Tx) -> tuple[Snapshot, str | None]:
        before = await _load(tx, await view_at(tx, scope, at, "/"), app.file_limits)
        return before, await read_shell_state(tx, scope.organization_id, session_id)

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
    """Save a command's file changes and the shell's state, in one transaction. Contents are stored before it.

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
    mounts = mounts_at(scope, OfSession(session_id))
    await stage_all(app, scope.organization_id, [*kept.written.values()])

    async def work(tx: Tx) -> Saved:
        session = await get_session(tx, scope.organization_id, session_id, lock=True)
        if state is not None:
            await write_shell_state(tx, session.org_id, session.id, state, now)
        if not kept:
            return Saved()
        if mounts is None:
            return await _save(tx, app.file_limits, session, before, kept, now)
        own, shared = split(kept)
        saved = await _save(tx, app.file_limits, session, before, own, now) if own else Saved()
        also = await save_memories(app, tx, session, mounts, before, shared, now) if shared else Saved()
        return Saved((*saved.events, *also.events), (*saved.notes, *also.notes))

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
        f"{path} was not changed: it {why_guarded(path)}, so use write_file, edit_file or delete_file, which "
        "ask a person"
        for path in paths
    )
    return kept, tuple(notes)


async def _load(tx: Tx, view: View, limits: FileLimits) -> Snapshot:
    """Read the files that a command gets. If they are too many bytes, the largest are left out."""
    rows = await tree_at(tx, view, "/")
    taken = _within([row for row in rows if not row.is_directory and row.size_bytes <= limits.file], limits)
    files = [row for row in rows if row.path in taken]
    contents = await read_contents(tx, view.org_id, {row.hash: row.size_bytes for row in files})
    return Snapshot(
        {row.path: contents[row.hash] for row in files},
        {row.path: row.hash for row in files},
        tuple(row.path for row in rows if row.is_directory),
        tuple(row.path for row in rows if not row.is_directory and row.path not in taken),
    )


def _within(files: Sequence[FileRow], limits: FileLimits) -> frozenset[str]:
    """Choose the smallest files that fit into a command's memory; return their paths."""
    taken, left = set[str](), limits.command
    for row in sorted(files, key=lambda row: (row.size_bytes, row.path)):
        left -= row.size_bytes
        if left < 0:
            break
        taken.add(row.path)
    return frozenset(taken)


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
        if path in before.left_out:
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
