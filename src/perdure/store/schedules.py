"""Rows of schedules."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from perdure.domain.errors import NotFound
from perdure.domain.ids import OrgId, ScheduleId, SessionId
from perdure.domain.schedules import ScheduleKind
from perdure.domain.times import Micros
from perdure.store.database import Changes, Tx
from perdure.store.rows import assignments, columns, insert, values
from perdure.store.sessions import IN_TURN, LATER


class ScheduleRow(Struct, frozen=True):
    """A schedule. `next_at` is None for one that is disabled or finished; the scheduler reads only others."""

    id: ScheduleId
    org_id: OrgId
    session_id: SessionId
    name: str | None
    message: str
    kind: ScheduleKind
    cron: str | None
    at: Micros | None
    timezone: str
    enabled: int
    next_at: Micros | None
    last_fired_at: Micros | None
    fire_count: int
    created_at: Micros
    updated_at: Micros


_ROW = columns(ScheduleRow)


async def add_schedule(tx: Tx, row: ScheduleRow) -> None:
    await tx.run(insert("schedules", ScheduleRow), *values(row))


async def get_schedule(tx: Tx, session_id: SessionId, schedule_id: ScheduleId) -> ScheduleRow:
    """Return a session's schedule. Raises NotFound."""
    found = await tx.one(
        f"SELECT {_ROW} FROM schedules WHERE id = ? AND session_id = ?", schedule_id, session_id
    )
    if found is None:
        raise NotFound("schedule")
    return ScheduleRow(*found)


async def list_schedules(tx: Tx, session_id: SessionId) -> list[ScheduleRow]:
    """Return a session's schedules, oldest first."""
    rows = await tx.all(
        f"SELECT {_ROW} FROM schedules WHERE session_id = ? ORDER BY created_at, id", session_id
    )
    return [ScheduleRow(*row) for row in rows]


async def update_schedule(tx: Tx, schedule_id: ScheduleId, changes: Changes) -> None:
    await tx.run(f"UPDATE schedules SET {assignments(changes)} WHERE id = ?", *changes.values(), schedule_id)


async def delete_schedule(tx: Tx, session_id: SessionId, schedule_id: ScheduleId) -> bool:
    """Delete a schedule; return whether it existed."""
    return await tx.run("DELETE FROM schedules WHERE id = ? AND session_id = ?", schedule_id, session_id) == 1


DUE = 100
"""Schedules that are read at a time."""


async def due_schedules(tx: Tx, now: Micros) -> list[ScheduleRow]:
    """Return up to `DUE` schedules that are due, the longest overdue first.

    Those of a session that is in a turn wait for its end, and are left out: they would fill the list.
    """
    rows = await tx.all(
        f"SELECT {_ROW} FROM schedules WHERE next_at IS NOT NULL AND next_at <= ? AND NOT EXISTS"
        " (SELECT 1 FROM sessions WHERE sessions.id = schedules.session_id AND sessions.deleted_at IS NULL"
        f" AND sessions.status IN ({', '.join('?' * len(IN_TURN))})) ORDER BY next_at LIMIT ?",
        now,
        *IN_TURN,
        DUE,
    )
    return [ScheduleRow(*row) for row in rows]


async def misdated_schedules(tx: Tx, changed: Micros, after: ScheduleId | None) -> list[ScheduleRow]:
    """Return up to `DUE` repeated schedules that were last changed after an instant that is yet to come.

    The clock has gone back since, so their next firing may be far off.

    Args:
        changed: the instant.
        after: the id of the last schedule of the part before this one.
    """
    rows = await tx.all(
        f"SELECT {_ROW} FROM schedules WHERE next_at IS NOT NULL AND cron IS NOT NULL AND updated_at > ?"
        " AND id > ? ORDER BY id LIMIT ?",
        changed,
        after or "",
        DUE,
    )
    return [ScheduleRow(*row) for row in rows]


async def move_firing(tx: Tx, row: ScheduleRow, next_at: Micros) -> bool:
    """Move the next firing by a compare-and-set; `updated_at` still grows."""
    touched = await tx.run(
        "UPDATE schedules SET next_at = ?, updated_at = updated_at + 1 WHERE id = ? AND next_at = ?",
        next_at,
        row.id,
        row.next_at,
    )
    return touched == 1


async def take_firing(tx: Tx, row: ScheduleRow, next_at: Micros | None, now: Micros) -> bool:
    """Claim a firing by a compare-and-set on `next_at`; return False if another process claimed it."""
    touched = await tx.run(
        "UPDATE schedules SET next_at = ?, enabled = ?, last_fired_at = ?, fire_count = fire_count + 1,"
        f" {LATER} WHERE id = ? AND next_at = ?",
        next_at,
        int(next_at is not None),
        now,
        now,
        now,
        row.id,
        row.next_at,
    )
    return touched == 1


async def active_counts(tx: Tx, session_ids: Sequence[SessionId]) -> dict[SessionId, int]:
    """Return the number of enabled schedules of each of these sessions; sessions without any are missing."""
    if not session_ids:
        return {}
    marks = ", ".join("?" * len(session_ids))
    rows = await tx.all(
        f"SELECT session_id, COUNT(*) FROM schedules WHERE enabled = 1 AND session_id IN ({marks})"
        " GROUP BY session_id",
        *session_ids,
    )
    return {row[0]: row[1] for row in rows}
