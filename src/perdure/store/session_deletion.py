"""Deletion of sessions: they are hidden at once, and their logs are purged later."""

from __future__ import annotations

from perdure.domain.times import Micros
from perdure.store.budget_lists import remove_budgets_of
from perdure.store.database import Purged, Tx
from perdure.store.events import oldest_events
from perdure.store.session_counts import count_sessions
from perdure.store.sessions import SessionRow


async def mark_deleted(tx: Tx, row: SessionRow, now: Micros) -> None:
    """Hide a session from every route and fence its runner; `purge_deleted` removes its log later."""
    await tx.run(
        "UPDATE sessions SET deleted_at = ?, epoch = epoch + 1, status = 'idle', wake_at = NULL,"
        " parked = NULL, resting = 0, queued = NULL,"
        " news = CASE WHEN task_id IS NULL OR ended IS NOT NULL THEN news ELSE head END"
        " WHERE id = ? AND org_id = ?",
        now,
        row.id,
        row.org_id,
    )
    for table in (
        "pins",
        "drafts",
        "standing_approvals",
        "key_values",
        "secrets",
        "sql_databases",
        "schedules",
        "shell_states",
        "client_messages",
        "callbacks",
        "input_requests",
        "feedback",
        "task_waits",
        "budget_waits",
        "participants",
        "trace_turns",
    ):
        await tx.run(f"DELETE FROM {table} WHERE session_id = ? AND org_id = ?", row.id, row.org_id)
    await tx.run("DELETE FROM budget_waits WHERE session_id = ?", row.id)
    await remove_budgets_of(tx, row.org_id, row.id)
    if row.archived_at is None:
        await count_sessions(tx, row.org_id, -1)


PURGED = 4 * 1024 * 1024
"""Bytes of events that one batch removes, unless a single event is larger. On SQLite all writes wait for the
batch."""


async def purge_deleted(tx: Tx, before: Micros, after: Micros, limit: int = 20, batch: int = 500) -> Purged:
    """Remove one batch of the logs of sessions that were deleted before an instant.

    Args:
        before: an instant in microseconds.
        after: an instant that is yet to come: the clock has gone back since a deletion after it.
        limit: the most sessions to look at.
        batch: the most events to remove of each; `PURGED` bounds their bytes together.
    """
    gone, room = 0, PURGED
    deleted = "SELECT id FROM sessions WHERE (deleted_at < ? OR deleted_at > ?) AND news IS NULL LIMIT ?"
    for (session_id,) in await tx.all(deleted, before, after, limit):
        oldest = await oldest_events(tx, session_id, room, batch)
        if oldest is None:
            gone += await tx.run("DELETE FROM sessions WHERE id = ?", session_id)
            await tx.run("DELETE FROM confidential_sessions WHERE session_id = ?", session_id)
            continue
        last, size = oldest
        gone += await tx.run("DELETE FROM events WHERE session_id = ? AND sequence <= ?", session_id, last)
        room -= size
        if room <= 0:
            break
    return Purged(gone, gone > 0)
