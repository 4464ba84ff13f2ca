"""What a session's files are: its workspace, and the memories that are mounted in it.

While a session has memories, the folder `/memories` is theirs: what the workspace has there is hidden.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.app.confidential import is_withheld, mark_confidential, withheld
from perdure.app.context import Scope, Services
from perdure.app.file_access import OfSession, Readable, workspace_at
from perdure.app.memory_files import as_mounted
from perdure.domain.data_flow import MAX_SOURCE
from perdure.domain.errors import NotFound
from perdure.domain.ids import AgentId, MemoryId, OrgId, UserId, WorkspaceId
from perdure.domain.memories import ROOT, MemoryMount, Mounts
from perdure.domain.paths import is_below, parent_of
from perdure.store.database import Tx
from perdure.store.files import (
    FileRow,
    get_entry,
    list_children,
    list_tree,
    missing,
)
from perdure.store.memories import MemoryRow, get_memory, memory_named


class Seen(Struct, frozen=True):
    """A mounted memory; `row` is None until it is first written."""

    mount: MemoryMount
    row: MemoryRow | None

    @property
    def folder(self) -> str:
        return self.mount.folder


class View(Struct, frozen=True):
    """The files at or below a path.

    Attributes:
        space: the workspace.
        mounted: whether `/memories` is the memories'.
        seen: the memories that are concerned, sorted by name.
    """

    org_id: OrgId
    space: WorkspaceId
    mounted: bool = False
    seen: tuple[Seen, ...] = ()


def mounts_at(scope: Scope, at: Readable) -> Mounts | None:
    """The memories in these files; None if there are none."""
    if not isinstance(at, OfSession):
        return None
    return scope.own_memories(at.session_id) or at.mounts


def in_memories(path: str) -> bool:
    """Whether a clean path is in the folder of the memories, or that folder."""
    return path == ROOT or is_below(path, ROOT)


def mount_of(mounts: Mounts, path: str) -> MemoryMount | None:
    """The mount that a clean path below `/memories` is in; None if there is none that the viewer sees."""
    return next(
        (each for each in mounts.visible() if path == each.folder or is_below(path, each.folder)), None
    )


def not_mounted(mounts: Mounts, path: str) -> NotFound:
    """The error for a path below `/memories` that no memory has."""
    names = ", ".join(each.folder for each in mounts.visible()) or "none"
    return NotFound(f"memory at {path}. There are: {names}", code="memory_not_mounted")


async def memory_of(tx: Tx, org_id: OrgId, mounts: Mounts, mount: MemoryMount) -> MemoryRow | None:
    """Read the memory of a mount; None if it does not exist (yet), or is archived."""
    if mount.scope == "named" and mount.memory_id is not None:
        try:
            row = await get_memory(tx, org_id, MemoryId(mount.memory_id))
        except NotFound:
            return None
        return row if row.scope == "named" and row.status == "active" else None
    return await memory_named(tx, org_id, mount.scope, owner_of(mounts, mount), mount.name)


def owner_of(mounts: Mounts, mount: MemoryMount) -> AgentId | UserId | None:
    """The agent or the user whose memory a mount is of; None for one that is named."""
    if mount.scope == "named":
        return None
    return mounts.agent_id if mount.scope == "agent" else mounts.owner_id


async def view_at(tx: Tx, scope: Scope, at: Readable, path: str) -> View:
    """Look at files, at or below a clean path. Raises NotFound."""
    view = View(scope.organization_id, await workspace_at(tx, scope, at))
    mounts = mounts_at(scope, at)
    if mounts is None or (path != "/" and not in_memories(path)):
        return view
    return View(view.org_id, view.space, True, await _seen(tx, view.org_id, mounts, path))


async def _seen(tx: Tx, org_id: OrgId, mounts: Mounts, path: str) -> tuple[Seen, ...]:
    one = mount_of(mounts, path)
    concerned = mounts.visible() if path in ("/", ROOT) else () if one is None else (one,)
    personal = mounts.in_turn and any(each.scope == "user" for each in concerned)
    if personal and await is_withheld(tx, mounts.session_id):
        if one is not None:
            raise withheld()
        concerned = tuple(each for each in concerned if each.scope != "user")
    found = [Seen(each, await memory_of(tx, org_id, mounts, each)) for each in concerned]
    # A memory of the organization does not come into being by itself.
    return tuple(each for each in found if each.row is not None or each.mount.scope != "named")


async def prepare(app: Services, scope: Scope, at: Readable, path: str) -> None:
    """Note what a tool is about to read of memories, at or below a clean path: call it before the read.

    What it reads enters the session's log. So a session that has a user's memory is that user's alone from
    now on, and the sources outside that a memory can have text from are noted.
    """
    mounts = mounts_at(scope, at)
    if mounts is None or not mounts.in_turn or (path != "/" and not in_memories(path)):
        return
    org_id = scope.organization_id
    seen = await app.database.read(lambda tx: _seen(tx, org_id, mounts, path))
    rows = [each.row for each in seen if each.row is not None]
    sources = [(row, source) for row in rows for source in row.sources()]
    if sources:
        row, first = sources[0]
        mounts.heard(f"the memory {row.name}, of a session that has read {first.source}"[:MAX_SOURCE])
    if isinstance(at, OfSession) and any(row.scope == "user" for row in rows):
        await mark_confidential(app, org_id, at.session_id)


# --- reading ----------------------------------------------------------------


async def find_at(tx: Tx, view: View, path: str) -> FileRow | None:
    """Return the entry at a clean path; None if nothing exists there."""
    if not view.mounted or not in_memories(path):
        return await get_entry(tx, view.org_id, view.space, path)
    if path == ROOT:
        return _folder(view, ROOT)
    for each in view.seen:
        if path == each.folder:
            return _folder(view, path, each.row)
        if is_below(path, each.folder) and each.row is not None:
            inner = path.removeprefix(each.folder)
            row = await get_entry(tx, view.org_id, each.row.place(), inner)
            return None if row is None else as_mounted(row, each.folder, view.space)
    return None


async def entry_at(tx: Tx, view: View, path: str) -> FileRow:
    """Return the entry at a clean path. Raises NotFound."""
    found = await find_at(tx, view, path)
    if found is None:
        raise missing(path)
    return found


async def children_at(tx: Tx, view: View, folder: str) -> list[FileRow]:
    """Return a folder's direct children, sorted by path."""
    if view.mounted and in_memories(folder):
        if folder == ROOT:
            return [_folder(view, each.folder, each.row) for each in view.seen]
        return await _of_memory(tx, view, folder, recursive=False)
    rows = await list_children(tx, view.org_id, view.space, folder)
    if not view.mounted or folder != "/":
        return rows
    return sorted([*(row for row in rows if row.path != ROOT), _folder(view, ROOT)], key=lambda row: row.path)


async def tree_at(tx: Tx, view: View, folder: str) -> list[FileRow]:
    """Return everything below a folder at any depth, sorted by path."""
    if not view.mounted:
        return await list_tree(tx, view.org_id, view.space, folder)
    if folder != ROOT and in_memories(folder):
        return await _of_memory(tx, view, folder, recursive=True)
    rows: list[FileRow] = []
    for each in view.seen:
        rows.append(_folder(view, each.folder, each.row))
        rows += await _of_memory(tx, view, each.folder, recursive=True)
    if folder == ROOT:
        return rows
    own = await list_tree(tx, view.org_id, view.space, folder)
    kept = [row for row in own if not in_memories(row.path)]
    return sorted([*kept, _folder(view, ROOT), *rows], key=lambda row: row.path)


async def _of_memory(tx: Tx, view: View, folder: str, *, recursive: bool) -> list[FileRow]:
    for each in view.seen:
        if each.row is None or not (folder == each.folder or is_below(folder, each.folder)):
            continue
        inner = folder.removeprefix(each.folder) or "/"
        list_rows = list_tree if recursive else list_children
        rows = await list_rows(tx, view.org_id, each.row.place(), inner)
        return [as_mounted(row, each.folder, view.space) for row in rows]
    return []


def _folder(view: View, path: str, row: MemoryRow | None = None) -> FileRow:
    made, changed = (0, 0) if row is None else (row.created_at, row.updated_at)
    return FileRow(view.space, path, view.org_id, parent_of(path), 1, 0, 0, 0, "", made, changed)
