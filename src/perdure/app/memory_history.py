"""The versions of memories' files: lists, differences, redaction."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from perdure.app.context import App
from perdure.app.memories import require_keeper, visible_memory
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict
from perdure.domain.ids import MemoryId, MemoryVersionId
from perdure.domain.line_diffs import diff
from perdure.domain.memories import (
    MemoryDiff,
    MemoryDiffLine,
    MemoryVersion,
)
from perdure.domain.paths import clean_path
from perdure.domain.times import maybe_rfc3339, to_rfc3339
from perdure.store.blobs import read_content
from perdure.store.database import Tx
from perdure.store.memories import (
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
        require_keeper(caller, memory)
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
