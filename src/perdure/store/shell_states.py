"""Rows of the state that sessions' shells keep between commands."""

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
    """Store the state of a session's shell, unless the session was deleted: nothing would remove it later.

    Locks the session's row, so call it before anything that locks the workspace's.
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
    """Copy the state of a session's shell to another session."""
    await tx.run(
        "INSERT INTO shell_states (session_id, org_id, snapshot, updated_at)"
        " SELECT ?, org_id, snapshot, updated_at FROM shell_states WHERE session_id = ?",
        target,
        source,
    )
