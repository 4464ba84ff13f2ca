"""Changes of a memory's files. Each leaves a version.

Each function takes the memory's row, locked by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import Services
from perdure.domain.errors import Conflict, InvalidInput, TooLarge
from perdure.domain.ids import MemoryVersionId, WorkspaceId
from perdure.domain.memories import (
    LIMITS,
    MAX_ALL_VERSIONS,
    MAX_FILES,
    MAX_HISTORY,
    MAX_VERSIONS,
    Author,
    Operation,
)
from perdure.domain.paths import folders_above, parent_of
from perdure.domain.texts import size_text
from perdure.domain.times import Micros
from perdure.store import file_changes as changes
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, Written
from perdure.store.files import FileRow, get_entries, list_tree
from perdure.store.memories import MemoryRow, update_memory
from perdure.store.memory_versions import MemoryVersionRow, add_versions, last_versions


class Writing(Struct, frozen=True):
    """A memory that is being changed.

    Attributes:
        row: its row, which the caller has locked.
        now: the time of the change, in microseconds.
        new_id: makes the id of a version.
    """

    row: MemoryRow
    author: Author
    now: Micros
    new_id: Callable[[], MemoryVersionId]


def writing(app: Services, row: MemoryRow, author: Author, now: Micros) -> Writing:
    """Begin a change of a memory, whose row the caller has locked."""
    return Writing(row, author, now, lambda: MemoryVersionId(app.new_id("memver")))


class _Left(Struct, frozen=True):
    """What a change leaves at a path; `hash` is empty if nothing."""

    path: str
    operation: Operation
    hash: str = ""
    size_bytes: int = 0


def check_writable(row: MemoryRow) -> None:
    """Check that a memory can be changed. Raises Conflict."""
    if row.status != "active":
        raise Conflict(
            "this memory is archived: its files are read-only until its `status` is `active` again",
            code="memory_archived",
        )


async def write_files(tx: Tx, at: Writing, writes: Sequence[FileWrite]) -> list[Written]:
    """Write all of these files or none, and note a version of each whose content changes.

    Everything is checked before anything is written: whoever catches the error has changed nothing.

    Raises:
        InvalidInput: a file is not text.
        Conflict: the memory is archived, or a file or the memory has too many versions.
        TooLarge: a limit is exceeded.
        NotFound, Forbidden, PreconditionFailed: as for any file.
    """
    check_writable(at.row)
    for write in writes:
        if write.content is not None and not write.content.is_text:
            raise InvalidInput(
                f"{write.path} is not text: memories hold text files only", code="memory_text_only"
            )
    paths = {path for write in writes for path in (write.path, *folders_above(write.path))}
    before = await get_entries(tx, at.row.org_id, at.row.place(), paths)
    _check_entries(at.row, len(paths - before.keys()))
    kept = {path: row.hash for path, row in before.items() if not row.is_directory}
    left = [
        _Left(
            each.path, "update" if each.path in kept else "create", each.content.hash, each.content.size_bytes
        )
        for each in writes
        if each.content is not None and kept.get(each.path) != each.content.hash
    ]
    versions = await _versions(tx, at, left)
    try:
        done = await changes.write_files(tx, at.row.as_workspace(), writes, LIMITS, at.now)
    except TooLarge as error:
        raise _of_memory(error) from None
    old = sum(before[each.row.path].size_bytes for each in done if not each.created)
    size = sum(each.row.size_bytes for each in done) - old
    await _note(tx, at, versions, size, len(paths - before.keys()))
    return done


def _check_entries(row: MemoryRow, more: int) -> None:
    if more > 0 and row.file_count + more > MAX_FILES:
        raise TooLarge(
            f"a memory holds at most {MAX_FILES} files and folders: delete some", code="memory_full"
        )


def _of_memory(error: TooLarge) -> TooLarge:
    """The error of a limit, with the memory's own words."""
    if error.code == "workspace_full":
        return TooLarge(
            f"the files of a memory may have {LIMITS.workspace} bytes together: delete some",
            code="memory_full",
        )
    return too_large() if error.code == "file_too_large" else error


def too_large() -> TooLarge:
    """The error of a file that is over the limit of memories."""
    return TooLarge(
        f"a file of a memory may have at most {size_text(LIMITS.file)}: split it",
        code="memory_file_too_large",
    )


async def delete_path(
    tx: Tx, at: Writing, path: str, *, recursive: bool, expected: frozenset[str] | None
) -> int:
    """Delete a file or a folder, and note it; return the number of files and folders, which may be 0.

    Raises Conflict, and the errors of `store.file_changes.delete_path`.
    """
    check_writable(at.row)
    place, org_id = at.row.place(), at.row.org_id
    known = (await get_entries(tx, org_id, place, (path,))).get(path)
    below = await list_tree(tx, org_id, place, path) if known is not None and known.is_directory else []
    rows = [] if known is None else [known, *below]
    deleted = await changes.delete_path(
        tx, at.row.as_workspace(), path, recursive=recursive, expected=expected, now=at.now
    )
    if deleted:
        left = [_Left(row.path, "delete") for row in rows if not row.is_directory]
        versions = await _versions(tx, at, left)
        await _note(tx, at, versions, -sum(row.size_bytes for row in rows), -deleted)
    return deleted


async def _versions(tx: Tx, at: Writing, left: Sequence[_Left]) -> list[MemoryVersionRow]:
    """The versions that a change leaves. A deletion always has room for them. Raises Conflict."""
    row = at.row
    known = await last_versions(tx, row.org_id, row.id, [each.path for each in left]) if left else {}
    full = next((each for each in left if each.hash and known.get(each.path, 0) >= MAX_VERSIONS), None)
    if full is not None:
        raise Conflict(
            f"{full.path} has {MAX_VERSIONS} versions, which is the most: continue in another file",
            code="too_many_memory_versions",
        )
    if any(each.hash for each in left) and row.version_count + len(left) > MAX_ALL_VERSIONS:
        raise Conflict(
            f"this memory has {row.version_count} versions of its files, and may have {MAX_ALL_VERSIONS}: "
            "continue in another memory",
            code="memory_history_full",
        )
    history = sum(each.size_bytes for each in left)
    if history and row.history_bytes + history > MAX_HISTORY:
        raise Conflict(
            f"the versions of this memory's files may have {MAX_HISTORY} bytes together: redact some that "
            "nobody needs, or continue in another memory",
            code="memory_history_full",
        )
    return [
        MemoryVersionRow(
            at.new_id(),
            row.org_id,
            row.id,
            row.version_count + index,
            each.path,
            known.get(each.path, 0) + 1,
            each.operation,
            each.hash,
            each.size_bytes,
            at.author.user_id,
            at.author.session_id,
            at.now,
        )
        for index, each in enumerate(left, 1)
    ]


async def _note(tx: Tx, at: Writing, versions: list[MemoryVersionRow], size: int, entries: int) -> None:
    """Add the versions, and count them and the files.

    Args:
        size, entries: by how much the bytes, and the files and folders of the memory have grown.
    """
    row = at.row
    if versions:
        await add_versions(tx, versions)
    await update_memory(
        tx,
        row,
        {
            "size_bytes": row.size_bytes + size,
            "file_count": row.file_count + entries,
            "history_bytes": row.history_bytes + sum(each.size_bytes for each in versions),
            "version_count": row.version_count + len(versions),
            "updated_at": max(at.now, row.updated_at + 1),
        },
    )


def as_mounted(row: FileRow, folder: str, space: WorkspaceId) -> FileRow:
    """A row of a memory's file as a session sees it, below the folder that the memory is mounted as."""
    path = folder if row.path == "/" else folder + row.path
    return replace(row, workspace_id=space, path=path, parent=parent_of(path))
