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


async def count_held(tx: Tx, org_id: OrgId, owner_id: UserId) -> int:
    """Return how many of a user's sessions are under legal hold."""
    found = await tx.one(
        "SELECT COUNT(*) FROM sessions WHERE org_id = ? AND owner_id = ? AND held_at IS NOT NULL"
        " AND deleted_at IS NULL",
        org_id,
        owner_id,
    )
    return 0 if found is None else int(found[0])
