"""Rows of limits, the counts by the minute that processes share, and counts of open sessions."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from perdure.domain.ids import OrgId, UserId
from perdure.domain.limits import LIMIT_NAMES, Counted, LimitsPair, LimitValues
from perdure.domain.parked import LimitScope
from perdure.domain.times import Micros
from perdure.store.database import Changes, Tx

_CLASS = 0x7065726D
"""Tells the advisory locks of organizations' sessions from others."""


class CountKey(Struct, frozen=True):
    """Whose count it is, and of what. `user_id`: empty for the whole organization."""

    what: Counted
    org_id: OrgId
    user_id: UserId


async def changed_limits(tx: Tx, since: Micros) -> dict[OrgId, dict[LimitScope, LimitValues]]:
    """Return the limits that were set since a time."""
    rows = await tx.all(
        f"SELECT org_id, subject, {', '.join(LIMIT_NAMES)} FROM limits WHERE updated_at >= ?", since
    )
    found: dict[OrgId, dict[LimitScope, LimitValues]] = {}
    for org_id, subject, *values in rows:
        found.setdefault(org_id, {})[subject] = LimitValues(*values)
    return found


async def limits_of(tx: Tx, org_id: OrgId) -> LimitsPair:
    """Return the limits that were set for an organization."""
    rows = await tx.all(f"SELECT subject, {', '.join(LIMIT_NAMES)} FROM limits WHERE org_id = ?", org_id)
    found = {subject: LimitValues(*values) for subject, *values in rows}
    return LimitsPair(found.get("organization", LimitValues()), found.get("user", LimitValues()))


async def set_limits(tx: Tx, org_id: OrgId, scope: LimitScope, changes: Changes, now: Micros) -> None:
    """Change an organization's limits."""
    await tx.run(
        "INSERT INTO limits (org_id, subject, updated_at) VALUES (?, ?, ?) ON CONFLICT (org_id, subject)"
        " DO UPDATE SET updated_at = excluded.updated_at",
        org_id,
        scope,
        now,
    )
    if changes:
        sets = ", ".join(f"{name} = ?" for name in changes)
        await tx.run(
            f"UPDATE limits SET {sets} WHERE org_id = ? AND subject = ?", *changes.values(), org_id, scope
        )


async def share_counts(tx: Tx, process: str, minute: int, counts: Iterable[tuple[CountKey, int]]) -> None:
    """Tell other processes what this one has counted in a minute."""
    for key, amount in counts:
        await tx.run(
            "INSERT INTO minute_counts (minute, process, what, org_id, user_id, amount)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (minute, process, what, org_id, user_id)"
            " DO UPDATE SET amount = excluded.amount",
            minute,
            process,
            key.what,
            key.org_id,
            key.user_id,
            amount,
        )
    await tx.run("DELETE FROM minute_counts WHERE minute < ?", minute - 2)


async def counts_of_others(tx: Tx, process: str, since: int) -> dict[tuple[int, CountKey], int]:
    """Return what other processes have counted since a minute, by minute and key."""
    rows = await tx.all(
        "SELECT minute, what, org_id, user_id, CAST(SUM(amount) AS BIGINT) FROM minute_counts"
        " WHERE minute >= ? AND process <> ? GROUP BY minute, what, org_id, user_id",
        since,
        process,
    )
    return {(row[0], CountKey(*row[1:4])): row[4] for row in rows}


async def lock_sessions(tx: Tx, org_id: OrgId) -> None:
    """Let no other transaction open sessions of the organization until the commit, near its limit."""
    if tx.dialect == "postgres":
        await tx.run(f"SELECT pg_advisory_xact_lock({_CLASS}, hashtext(?))", org_id)


async def open_sessions(tx: Tx, org_id: OrgId) -> int:
    """Return the number of the organization's sessions that are not archived."""
    found = await tx.one(
        "SELECT CAST(COALESCE(SUM(sessions), 0) AS BIGINT) FROM session_totals WHERE org_id = ?", org_id
    )
    return 0 if found is None else int(found[0])


async def open_sessions_of(tx: Tx, org_id: OrgId, owner_id: UserId) -> int:
    """Return the number of a user's sessions that are not archived."""
    found = await tx.one(
        "SELECT COUNT(*) FROM sessions WHERE org_id = ? AND owner_id = ? AND deleted_at IS NULL"
        " AND archived_at IS NULL",
        org_id,
        owner_id,
    )
    return 0 if found is None else int(found[0])


def as_changes(changes: Struct) -> Changes:
    """Return the columns that a body changes."""
    return {
        name: getattr(changes, name) for name in LIMIT_NAMES if getattr(changes, name) is not msgspec.UNSET
    }
