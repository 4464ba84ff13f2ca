"""What a session leaves in the database, table by table, and how it is removed.

A deletion removes most of it at once, in its transaction (`remove_at_once`). The log, and what others may
still need for a moment, goes later and in batches (`remove_later`): an hour later for a deletion, and as soon
as possible for an erasure, which also counts it.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.ids import OrgId, SessionId
from perdure.domain.times import Micros
from perdure.store.audit_erasure import remove_entries_of_session
from perdure.store.blobs import ERASED as ERASED_CONTENT
from perdure.store.budget_lists import remove_budgets_of
from perdure.store.content_holds import drop_holds
from perdure.store.database import LOCK_ROW, Tx
from perdure.store.erasures import Tally
from perdure.store.events import oldest_events
from perdure.store.file_changes import remove_files
from perdure.store.images import remove_images_of
from perdure.store.sessions import SessionRow
from perdure.store.tasks import remove_task
from perdure.store.tool_lists import drop_tool_lists
from perdure.store.workspaces import orphaned_workspace


class Place(Struct, frozen=True):
    """A table whose rows belong to sessions.

    Attributes:
        size: the bytes of a row, as an SQL expression.
        kind: what a receipt calls it; None: as the table.
    """

    table: str
    size: str = "0"
    kind: str | None = None


AT_ONCE: tuple[Place, ...] = (
    Place("pins"),
    Place("drafts", "LENGTH(text)"),
    Place("standing_approvals"),
    Place("key_values", "LENGTH(value)"),
    Place("secrets", "LENGTH(sealed)"),
    Place("sql_databases", "size_bytes"),
    Place("schedules", "LENGTH(message)"),
    Place("shell_states", "LENGTH(snapshot)"),
    Place("client_messages"),
    Place("callbacks"),
    Place("input_requests", "LENGTH(sealed)"),
    Place("feedback", "COALESCE(LENGTH(comment), 0)"),
    Place("task_waits"),
    Place("budget_waits"),
    Place("participants"),
    Place("trace_turns"),
)
"""Removed with the deletion, so that nothing of a deleted session acts any more."""

ERASED: tuple[Place, ...] = (
    Place("idempotency", "LENGTH(body)", "idempotency_answers"),
    Place("webhook_deliveries"),
    Place("webhook_lines"),
)
"""Removed by an erasure only. After a deletion, answers tell repeated requests from new ones for a day, and
deliveries say for a week what became of events."""

PURGED = 4 * 1024 * 1024
"""Bytes of events that one batch removes, unless a single event is larger. On SQLite all writes wait for the
batch."""
TASKS = 100
"""The most tasks that one batch removes."""


async def remove_at_once(tx: Tx, row: SessionRow, now: Micros, tally: Tally | None) -> None:
    """Remove what a session, whose row is locked and marked as deleted, must not leave for a moment.

    Args:
        tally: counts it, for an erasure.
    """
    await _remove_rows(tx, AT_ONCE, row.org_id, row.id, tally)
    if tally is not None:
        await _count(tx, tally, "budgets", "budgets WHERE subject_id = ? AND org_id = ?", "0", row)
        await _count(tx, tally, "tool_lists", _OWN.format("tool_lists"), "size_bytes", row)
        held = "content_holds WHERE owner = ? AND org_id = ?"
        await _count(tx, tally, "attachments", held, "size_bytes", row)
        await _count(tx, tally, "tasks", _OWN.format("tasks"), "LENGTH(task)", row)
        await _count(tx, tally, "images", _OWN.format("images"), "size_bytes", row)
        now = ERASED_CONTENT
    await remove_budgets_of(tx, row.org_id, row.id)
    await drop_tool_lists(tx, row.org_id, row.id, now)
    await drop_holds(tx, row.org_id, row.id, now)
    await remove_images_of(tx, row.org_id, row.id, now)
    space = await orphaned_workspace(tx, row.org_id, row.id, row.workspace())
    if space is not None:
        if tally is not None:
            tally.add("files", space.file_count, space.size_bytes)
        await remove_files(tx, space, now)


async def remove_later(
    tx: Tx, org_id: OrgId, session_id: SessionId, room: int, batch: int, tally: Tally | None
) -> tuple[int, bool]:
    """Remove a batch of what is left of a deleted session; its row last.

    Args:
        room: bytes of events to remove at most, unless a single one is larger.
        batch: the most events.
        tally: counts what is removed, for an erasure.

    Returns:
        The bytes of the events, and whether nothing can be removed now: the session is gone, or has to wait.
    """
    found = await tx.one(
        f"SELECT news FROM sessions WHERE id = ? AND deleted_at IS NOT NULL{LOCK_ROW[tx.dialect]}", session_id
    )
    if found is None or found[0] is not None:
        return 0, True
    oldest = await oldest_events(tx, session_id, room, batch)
    if oldest is not None:
        last, size = oldest
        gone = await tx.run("DELETE FROM events WHERE session_id = ? AND sequence <= ?", session_id, last)
        if tally is not None:
            tally.add("events", gone, size)
        return size, False
    tasks = await tx.all(
        "SELECT id, wish IS NOT NULL FROM tasks WHERE session_id = ? LIMIT ?", session_id, TASKS
    )
    for task_id, wished in tasks:
        if not wished:  # what is wished for its child is yet to be done
            await remove_task(tx, org_id, task_id)
    if tasks:
        return 0, all(wished for _, wished in tasks)
    # A draft may be written for a moment after the deletion.
    await tx.run("DELETE FROM drafts WHERE session_id = ?", session_id)
    if tally is not None:
        await _remove_rows(tx, ERASED, org_id, session_id, tally)
        await remove_entries_of_session(tx, org_id, session_id, tally)
        tally.add("sessions", 1)
    await tx.run("DELETE FROM confidential_sessions WHERE session_id = ?", session_id)
    await tx.run("DELETE FROM sessions WHERE id = ?", session_id)
    return 0, False


_OWN = "{} WHERE session_id = ? AND org_id = ?"


async def _remove_rows(
    tx: Tx, places: tuple[Place, ...], org_id: OrgId, session_id: SessionId, tally: Tally | None
) -> None:
    for place in places:
        size = 0
        if tally is not None:
            found = await tx.one(
                f"SELECT COALESCE(SUM({place.size}), 0) FROM {place.table}"
                " WHERE session_id = ? AND org_id = ?",
                session_id,
                org_id,
            )
            size = 0 if found is None else int(found[0])
        gone = await tx.run(
            f"DELETE FROM {place.table} WHERE session_id = ? AND org_id = ?", session_id, org_id
        )
        if tally is not None:
            tally.add(place.kind or place.table, gone, size)


async def _count(tx: Tx, tally: Tally, kind: str, rows: str, size: str, row: SessionRow) -> None:
    found = await tx.one(f"SELECT COUNT(*), COALESCE(SUM({size}), 0) FROM {rows}", row.id, row.org_id)
    if found is not None:
        tally.add(kind, int(found[0]), int(found[1]))
