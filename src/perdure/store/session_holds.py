"""Sessions under legal hold."""

from __future__ import annotations

from perdure.domain.ids import OrgId, SessionId, UserId
from perdure.store.database import Tx


async def is_held(tx: Tx, session_id: SessionId) -> bool:
    """Return whether a session that exists is under legal hold."""
    found = await tx.one(
        "SELECT 1 FROM sessions WHERE id = ? AND held_at IS NOT NULL AND deleted_at IS NULL", session_id
    )
    return found is not None


async def held_sessions(tx: Tx, org_id: OrgId, owner_id: UserId) -> list[SessionId]:
    """Return those of a user's sessions that are under legal hold, oldest first."""
    rows = await tx.all(
        "SELECT id FROM sessions WHERE org_id = ? AND owner_id = ? AND held_at IS NOT NULL"
        " AND deleted_at IS NULL ORDER BY id",
        org_id,
        owner_id,
    )
    return [SessionId(str(each[0])) for each in rows]
