"""What is older than an organization keeps it: its settings, what is due, and counts of what was deleted.

To keep a further kind of rows for a time, add it to `RETENTION_KINDS` and the structs in
`domain/retention.py`, and to `ROWS` here.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.ids import OrgId, SessionId
from perdure.domain.retention import RetentionDays, RetentionKind
from perdure.domain.times import Micros
from perdure.store.audit_erasure import delete_audit_entries_before
from perdure.store.database import Purged, Tx, Value
from perdure.store.images import remove_image

DAY = 86_400_000_000
"""Microseconds of a day."""
REPORTED = 90
"""Days for which counts of deleted things are kept."""
PAGE = 1_000
"""Sessions that one look goes through."""


class SessionRule(Struct, frozen=True):
    """Which sessions are due.

    Attributes:
        since: the column whose age counts.
        where: a condition of the row `s` that costs little.
        deep: a condition that looks at other rows; `?` stands for the instant.
    """

    since: str
    where: str
    deep: str


class RowRule(Struct, frozen=True):
    """Rows that are due by their `created_at`: of a table with the columns `org_id` and `id`."""

    table: str
    where: str


_FREE = "s.deleted_at IS NULL AND s.held_at IS NULL AND s.erasure_id IS NULL"
_RESTS = f"{_FREE} AND s.status IN ('started', 'idle') AND s.parked IS NULL AND s.queued IS NULL"
_TOP = "s.task_id IS NULL"
_QUIET_BELOW = (
    "NOT EXISTS (SELECT 1 FROM tasks t WHERE t.root_session_id = s.id AND t.finished_at IS NULL)"
    " AND NOT EXISTS (SELECT 1 FROM schedules d WHERE d.session_id = s.id AND d.next_at IS NOT NULL)"
    " AND NOT EXISTS (SELECT 1 FROM sessions c WHERE c.root_session_id = s.id AND c.deleted_at IS NULL"
    " AND (c.updated_at >= ? OR c.status NOT IN ('started', 'idle')))"
)
_UNCHANGED_BELOW = (
    "NOT EXISTS (SELECT 1 FROM sessions c WHERE c.root_session_id = s.id AND c.deleted_at IS NULL"
    " AND c.updated_at >= ?)"
)
_LEAF = (
    "NOT EXISTS (SELECT 1 FROM sessions c WHERE c.parent_session_id = s.id AND c.deleted_at IS NULL)"
    " AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.session_id = s.id AND t.finished_at IS NULL)"
    " AND NOT EXISTS (SELECT 1 FROM sessions r WHERE r.id = s.root_session_id AND r.held_at IS NOT NULL)"
)
SESSIONS: dict[RetentionKind, SessionRule] = {
    "idle_sessions": SessionRule("updated_at", f"{_TOP} AND {_RESTS}", _QUIET_BELOW),
    "chat_sessions": SessionRule("updated_at", f"{_TOP} AND {_RESTS} AND s.source = 'chat'", _QUIET_BELOW),
    "api_sessions": SessionRule("updated_at", f"{_TOP} AND {_RESTS} AND s.source = 'api'", _QUIET_BELOW),
    "archived_sessions": SessionRule(
        "archived_at", f"{_TOP} AND {_RESTS} AND s.archived_at IS NOT NULL", _QUIET_BELOW
    ),
    "waiting_sessions": SessionRule(
        "updated_at",
        f"{_TOP} AND {_FREE} AND s.status IN ('waiting_for_tool_results', 'paused')",
        _UNCHANGED_BELOW,
    ),
    "subagent_sessions": SessionRule(
        "updated_at",
        f"s.task_id IS NOT NULL AND s.ended IS NOT NULL AND s.news IS NULL AND {_RESTS}",
        _LEAF,
    ),
}
ROWS: dict[RetentionKind, RowRule] = {
    "images": RowRule("images", "x.session_id IS NULL"),
    "audit_entries": RowRule("audit_entries", "1 = 1"),
    "model_calls": RowRule("model_calls", "NOT EXISTS (SELECT 1 FROM sessions s WHERE s.id = x.session_id)"),
}


async def days_of(tx: Tx, org_id: OrgId) -> RetentionDays:
    """Return the days that were set for an organization."""
    rows = await tx.all("SELECT kind, days FROM retention WHERE org_id = ?", org_id)
    known = {kind: days for kind, days in rows if kind in SESSIONS or kind in ROWS}
    return RetentionDays(**known)


async def set_days(tx: Tx, org_id: OrgId, changes: dict[RetentionKind, int | None], now: Micros) -> None:
    """Change an organization's days; None: the server's."""
    for kind, days in sorted(changes.items()):
        if days is None:
            await tx.run("DELETE FROM retention WHERE org_id = ? AND kind = ?", org_id, kind)
            continue
        await tx.run(
            "INSERT INTO retention (org_id, kind, days, updated_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (org_id, kind) DO UPDATE SET days = excluded.days,"
            " updated_at = excluded.updated_at",
            org_id,
            kind,
            days,
            now,
        )


async def organizations_with_days(tx: Tx) -> list[OrgId]:
    """Return the organizations that have set days."""
    return [row[0] for row in await tx.all("SELECT DISTINCT org_id FROM retention")]


async def all_organization_ids(tx: Tx) -> list[OrgId]:
    """Return all organizations."""
    return [row[0] for row in await tx.all("SELECT id FROM organizations ORDER BY id")]


def _due(rule: SessionRule, before: Micros) -> tuple[str, tuple[Micros, ...]]:
    """The condition that a session `s` is due, and its arguments."""
    sql = f"s.{rule.since} < ? AND {rule.where} AND {rule.deep}"
    return sql, (before,) * sql.count("?")


async def due_sessions(
    tx: Tx, org_id: OrgId, kind: RetentionKind, before: Micros, after: tuple[Micros, str]
) -> tuple[list[SessionId], tuple[Micros, str] | None]:
    """Return the sessions that are due among the next ones by age.

    Args:
        before: an instant in microseconds: sessions that have changed since are kept.
        after: (created_at, id) of the last session that was looked at; (-1, "") to begin.

    Returns:
        Also the last session that was looked at; None if none is left.
    """
    old = "s.org_id = ? AND s.deleted_at IS NULL AND s.created_at < ? AND (s.created_at, s.id) > (?, ?)"
    args: tuple[Value, ...] = (org_id, before, *after)
    due, instants = _due(SESSIONS[kind], before)
    last = await tx.one(
        f"SELECT s.created_at, s.id FROM sessions s WHERE {old} ORDER BY s.created_at, s.id"
        f" LIMIT 1 OFFSET {PAGE - 1}",
        *args,
    )
    until = "" if last is None else " AND (s.created_at, s.id) <= (?, ?)"
    rows = await tx.all(
        f"SELECT s.id FROM sessions s WHERE {old}{until} AND {due} ORDER BY s.created_at, s.id",
        *args,
        *(() if last is None else (last[0], last[1])),
        *instants,
    )
    return [row[0] for row in rows], None if last is None else (last[0], last[1])


async def is_due(tx: Tx, session_id: SessionId, kind: RetentionKind, before: Micros) -> bool:
    """Return whether a session, whose row is locked, is still due."""
    due, instants = _due(SESSIONS[kind], before)
    found = await tx.one(f"SELECT 1 FROM sessions s WHERE s.id = ? AND {due}", session_id, *instants)
    return found is not None


async def delete_rows(
    tx: Tx, org_id: OrgId, kind: RetentionKind, before: Micros, now: Micros, limit: int = 500
) -> Purged:
    """Delete a batch of the rows of a kind that are due, the oldest first, and count them."""
    if kind == "audit_entries":
        gone = await delete_audit_entries_before(tx, org_id, before, limit)
        await count_deleted(tx, org_id, kind, gone, now)
        return Purged(gone, gone == limit)
    rule = ROWS[kind]
    rows = await tx.all(
        f"SELECT x.id FROM {rule.table} x WHERE x.org_id = ? AND x.created_at < ? AND {rule.where}"
        " ORDER BY x.created_at, x.id LIMIT ?",
        org_id,
        before,
        limit,
    )
    gone = 0
    for (row_id,) in rows:
        if kind == "images":
            gone += await remove_image(tx, org_id, row_id, now)
        else:
            gone += await tx.run(f"DELETE FROM {rule.table} WHERE id = ? AND org_id = ?", row_id, org_id)
    await count_deleted(tx, org_id, kind, gone, now)
    return Purged(gone, len(rows) == limit)


async def preview_of(tx: Tx, org_id: OrgId, kind: RetentionKind, before: Micros) -> tuple[int, Micros | None]:
    """Return how many of a kind are due, and the time of the oldest of them."""
    args: tuple[Value, ...] = (org_id, before)
    if kind in SESSIONS:
        rule = SESSIONS[kind]
        due, instants = _due(rule, before)
        args = (org_id, *instants)
        sql = f"SELECT COUNT(*), MIN(s.{rule.since}) FROM sessions s WHERE s.org_id = ? AND {due}"
    else:
        rows = ROWS[kind]
        sql = (
            f"SELECT COUNT(*), MIN(x.created_at) FROM {rows.table} x"
            f" WHERE x.org_id = ? AND x.created_at < ? AND {rows.where}"
        )
    found = await tx.one(sql, *args)
    return (0, None) if found is None else (int(found[0]), found[1])


async def count_deleted(tx: Tx, org_id: OrgId, kind: RetentionKind, deleted: int, now: Micros) -> None:
    """Add to the counts of what was deleted today."""
    if deleted:
        await tx.run(
            "INSERT INTO retention_days (org_id, kind, day, deleted) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (org_id, kind, day) DO UPDATE SET"
            " deleted = retention_days.deleted + excluded.deleted",
            org_id,
            kind,
            now // DAY,
            deleted,
        )


async def deleted_counts(tx: Tx, org_id: OrgId, now: Micros) -> list[tuple[int, str, int]]:
    """Return (day since the Unix epoch, kind, deleted) of the last `REPORTED` days, newest first."""
    rows = await tx.all(
        "SELECT day, kind, deleted FROM retention_days WHERE org_id = ? AND day > ? ORDER BY day DESC, kind",
        org_id,
        now // DAY - REPORTED,
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def purge_counts(tx: Tx, now: Micros) -> Purged:
    """Remove old counts of what was deleted."""
    gone = await tx.run("DELETE FROM retention_days WHERE day <= ?", now // DAY - REPORTED)
    return Purged(gone, more=False)
