"""Sessions with work to do, for the worker and the sweep."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from perdure.domain.ids import OrgId, SessionId
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import among


class ActiveSession(Struct, frozen=True):
    """A session with a turn that runs or should run; whoever works on it changes its epoch or its head."""

    org_id: OrgId
    id: SessionId
    epoch: int
    head: int


async def active_sessions(tx: Tx, limit: int = 20_000) -> list[ActiveSession]:
    """Return the active sessions that do not rest. No time is compared: clocks go back and jump."""
    rows = await tx.all(
        "SELECT org_id, id, epoch, head FROM sessions WHERE status = 'active' AND resting = 0"
        " AND deleted_at IS NULL ORDER BY org_id, created_at, id LIMIT ?",
        limit,
    )
    return [ActiveSession(*row) for row in rows]


async def due(tx: Tx, now: Micros, limit: int = 200) -> list[tuple[OrgId, SessionId]]:
    """Return parked sessions whose wake-up time has passed, as (organization, session)."""
    return await _parked(tx, "wake_at <= ? ORDER BY wake_at", now, limit)


async def ahead(tx: Tx, now: Micros, limit: int = 200) -> list[tuple[OrgId, SessionId]]:
    """Return resting sessions that were changed in the future, as (organization, session).

    A clock was ahead then, so that a turn that it has parked would wait for too long. Those that wait longest
    come first: ours has parked others since, whose rows stay ahead of it.
    """
    later = "status = 'active' AND resting = 1 AND updated_at > ? ORDER BY wake_at DESC"
    return await _parked(tx, later, now, limit)


async def _parked(tx: Tx, which: str, now: Micros, limit: int) -> list[tuple[OrgId, SessionId]]:
    """Return sessions with a wake-up time. `which`: a condition with one `?`, and an order."""
    sql = f"SELECT org_id, id FROM sessions WHERE wake_at IS NOT NULL AND deleted_at IS NULL AND {which}"
    rows = await tx.all(f"{sql} LIMIT ?", now, limit)
    return [(row[0], row[1]) for row in rows]


async def epochs_of(tx: Tx, session_ids: Sequence[SessionId]) -> dict[SessionId, int]:
    """Return the epochs of these sessions, without deleted ones.

    A runner has lost its claim if its own epoch is older or the session is missing here.
    """
    if not session_ids:
        return {}
    chosen, ids = among(tx.dialect, "id", "TEXT", session_ids)
    rows = await tx.all(f"SELECT id, epoch FROM sessions WHERE deleted_at IS NULL AND {chosen}", ids)
    return {row[0]: row[1] for row in rows}


async def heads_of(tx: Tx, session_ids: Sequence[SessionId]) -> dict[SessionId, int]:
    """Return the heads of these sessions' logs, without deleted ones."""
    chosen, ids = among(tx.dialect, "id", "TEXT", session_ids)
    rows = await tx.all(f"SELECT id, head FROM sessions WHERE deleted_at IS NULL AND {chosen}", ids)
    return {row[0]: row[1] for row in rows}
