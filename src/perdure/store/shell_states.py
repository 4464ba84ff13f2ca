"""Rows of what sessions' shells remember between two commands."""

from __future__ import annotations

from perdure.domain.ids import OrgId, SessionId
from perdure.domain.times import Micros
from perdure.store.database import LOCK_ROW, Tx


async def read_shell_state(tx: Tx, org_id: OrgId, session_id: SessionId) -> str | None:
    found = await tx.one(
        "SELECT snapshot FROM shell_states WHERE session_id = ? AND org_id = ?", session_id, org_id
    )
    return None if found is None else str(found[0])


async def write_shell_state(tx: Tx, org_id: OrgId, session_id: SessionId, snapshot: str, now: Micros) -> None:
    """Keep what a session's shell remembers, unless the session was deleted: nobody would remove it any more.

    Holds the session's row, so it comes before anything that holds its workspace's.
    """
    sql = "SELECT id FROM sessions WHERE id = ? AND org_id = ? AND deleted_at IS NULL"
    if await tx.one(sql + LOCK_ROW[tx.dialect], session_id, org_id) is None:
        return
    await tx.run(
        "INSERT INTO shell_states (session_id, org_id, snapshot, updated_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (session_id) DO UPDATE SET snapshot = excluded.snapshot,"
        " updated_at = excluded.updated_at",
        session_id,
        org_id,
        snapshot,
        now,
    )


async def copy_shell_state(tx: Tx, source: str, target: str) -> None:
    """Give a session what another's shell remembers."""
    await tx.run(
        "INSERT INTO shell_states (session_id, org_id, snapshot, updated_at)"
        " SELECT ?, org_id, snapshot, updated_at FROM shell_states WHERE session_id = ?",
        target,
        source,
    )
