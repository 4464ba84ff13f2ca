"""Deletion of sessions: they are hidden at once, and their logs are purged later."""

from __future__ import annotations

from perdure.domain.ids import ErasureId, OrgId, SessionId, UserId
from perdure.domain.times import Micros
from perdure.store.database import Purged, Tx
from perdure.store.erasures import Tally, erasing
from perdure.store.session_counts import count_sessions
from perdure.store.session_remains import PURGED, remove_at_once, remove_later
from perdure.store.sessions import SessionRow

KEPT = 3_600_000_000
"""Microseconds between a session's deletion and the removal of its log."""


async def mark_deleted(tx: Tx, row: SessionRow, now: Micros, erasure_id: ErasureId | None = None) -> None:
    """Hide a locked session from every route and fence its runner; a purge removes its log later.

    Args:
        erasure_id: the erasure that it belongs to, which counts what is removed.
    """
    await tx.run(
        "UPDATE sessions SET deleted_at = ?, epoch = epoch + 1, status = 'idle', wake_at = NULL,"
        " parked = NULL, resting = 0, queued = NULL, erasure_id = ?,"
        " news = CASE WHEN task_id IS NULL OR ended IS NOT NULL THEN news ELSE head END"
        " WHERE id = ? AND org_id = ?",
        now,
        erasure_id,
        row.id,
        row.org_id,
    )
    if row.archived_at is None:
        await count_sessions(tx, row.org_id, -1)
    if erasure_id is None:
        await remove_at_once(tx, row, now, None)
        return
    async with erasing(tx, row.org_id, erasure_id) as tally:
        await remove_at_once(tx, row, now, tally)


async def purge_deleted(tx: Tx, before: Micros, after: Micros, limit: int = 20, batch: int = 500) -> Purged:
    """Remove one batch of what is left of sessions that were deleted before an instant.

    Args:
        before: an instant in microseconds.
        after: an instant that is yet to come: the clock has gone back since a deletion after it.
        limit: the most sessions to look at.
        batch: the most events to remove of each; `PURGED` bounds their bytes together.
    """
    rows = await tx.all(
        "SELECT id, org_id FROM sessions WHERE (deleted_at < ? OR deleted_at > ?) AND news IS NULL"
        " AND erasure_id IS NULL LIMIT ?",
        before,
        after,
        limit,
    )
    return await _purge(tx, [(row[0], row[1]) for row in rows], batch, None)


async def purge_erased(
    tx: Tx, org_id: OrgId, erasure_id: ErasureId, limit: int = 20, batch: int = 500
) -> Purged:
    """Remove one batch of what is left of the deleted sessions of an erasure, and count it."""
    rows = await tx.all(
        "SELECT id, org_id FROM sessions WHERE erasure_id = ? AND deleted_at IS NOT NULL AND news IS NULL"
        " ORDER BY id LIMIT ?",
        erasure_id,
        limit,
    )
    async with erasing(tx, org_id, erasure_id) as tally:
        return await _purge(tx, [(row[0], row[1]) for row in rows], batch, tally)


async def _purge(tx: Tx, sessions: list[tuple[SessionId, OrgId]], batch: int, tally: Tally | None) -> Purged:
    gone, room = 0, PURGED
    for session_id, org_id in sessions:
        size, waits = await remove_later(tx, org_id, session_id, room, batch, tally)
        gone += not waits
        room -= size
        if room <= 0:
            break
    return Purged(gone, gone > 0)


async def mark_below(tx: Tx, erasure_id: ErasureId) -> int:
    """Let an erasure have deleted sessions below its own, and copies of them that are being made."""
    own = "SELECT id FROM sessions WHERE erasure_id = ?"
    return await tx.run(
        "UPDATE sessions SET erasure_id = ? WHERE deleted_at IS NOT NULL AND erasure_id IS NULL"
        f" AND (parent_session_id IN ({own}) OR forked_from_id IN ({own}))",
        erasure_id,
        erasure_id,
        erasure_id,
    )


async def living_below(tx: Tx, erasure_id: ErasureId, limit: int) -> list[SessionId]:
    """Return sessions of sub-agents that are not deleted although the session above them is erased."""
    rows = await tx.all(
        "SELECT c.id FROM sessions c JOIN sessions p ON p.id = c.parent_session_id WHERE p.erasure_id = ?"
        " AND c.deleted_at IS NULL AND c.task_id IS NOT NULL ORDER BY c.id LIMIT ?",
        erasure_id,
        limit,
    )
    return [row[0] for row in rows]


async def orphans(tx: Tx, limit: int) -> list[tuple[OrgId, SessionId]]:
    """Return sessions of sub-agents whose parent is deleted, and whose task nobody remembers any more."""
    rows = await tx.all(
        "SELECT c.org_id, c.id FROM sessions p JOIN sessions c ON c.parent_session_id = p.id"
        " WHERE p.deleted_at IS NOT NULL AND c.deleted_at IS NULL AND c.task_id IS NOT NULL LIMIT ?",
        limit,
    )
    return [(row[0], row[1]) for row in rows]


async def erasure_above(tx: Tx, row: SessionRow) -> ErasureId | None:
    """Return the erasure that the session above a session belongs to; None if there is none."""
    if row.parent_session_id is None:
        return None
    found = await tx.one("SELECT erasure_id FROM sessions WHERE id = ?", row.parent_session_id)
    return None if found is None else found[0]


async def erased_ids(tx: Tx, erasure_id: ErasureId) -> set[SessionId]:
    """Return the sessions of an erasure that are not purged yet."""
    return {row[0] for row in await tx.all("SELECT id FROM sessions WHERE erasure_id = ?", erasure_id)}


async def deleted_owner(tx: Tx, org_id: OrgId, session_id: SessionId) -> UserId | None:
    """Return who owns a session that is deleted, and not purged yet; None if there is none."""
    found = await tx.one(
        "SELECT owner_id FROM sessions WHERE id = ? AND org_id = ? AND deleted_at IS NOT NULL",
        session_id,
        org_id,
    )
    return None if found is None else found[0]


async def claim_deleted(tx: Tx, erasure_id: ErasureId, session_id: SessionId) -> None:
    """Let an erasure have a deleted session, unless another one has it."""
    await tx.run(
        "UPDATE sessions SET erasure_id = ? WHERE id = ? AND deleted_at IS NOT NULL AND erasure_id IS NULL",
        erasure_id,
        session_id,
    )


async def news_of_erased(tx: Tx, erasure_id: ErasureId, limit: int) -> list[SessionId]:
    """Return sessions of an erasure whose parents have not heard of their end."""
    rows = await tx.all(
        "SELECT id FROM sessions WHERE erasure_id = ? AND news IS NOT NULL ORDER BY id LIMIT ?",
        erasure_id,
        limit,
    )
    return [row[0] for row in rows]
