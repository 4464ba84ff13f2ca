"""Counts of what erasures do not reach. Some look at many rows: keep them off the event loop."""

from __future__ import annotations

from perdure.domain.ids import OrgId, SessionId, UserId
from perdure.store.database import Tx, Value


async def calls_of_tree(tx: Tx, org_id: OrgId, session_id: SessionId) -> int:
    """Count the model calls of a session and those below it."""
    return await _count(tx, "model_calls WHERE org_id = ? AND root_session_id = ?", org_id, session_id)


async def calls_of_user(tx: Tx, org_id: OrgId, user_id: UserId) -> int:
    """Count the model calls of a user's sessions."""
    return await _count(tx, "model_calls WHERE org_id = ? AND user_id = ?", org_id, user_id)


async def forks_of(tx: Tx, org_id: OrgId, session_id: SessionId) -> int:
    """Count the forks of a session that exist."""
    where = "sessions WHERE org_id = ? AND forked_from_id = ? AND deleted_at IS NULL"
    return await _count(tx, where, org_id, session_id)


async def versions_of_session(tx: Tx, org_id: OrgId, session_id: SessionId) -> int:
    """Count the versions of memories' files that a session wrote."""
    return await _count(tx, "memory_versions WHERE org_id = ? AND session_id = ?", org_id, session_id)


async def versions_of_user(tx: Tx, org_id: OrgId, user_id: UserId) -> int:
    """Count the versions of files that a user wrote in memories other than its own."""
    where = (
        "memory_versions v WHERE v.org_id = ? AND v.user_id = ? AND NOT EXISTS (SELECT 1 FROM memories m"
        " WHERE m.id = v.memory_id AND m.scope = 'user' AND m.user_id = v.user_id)"
    )
    return await _count(tx, where, org_id, user_id)


async def sessions_joined(tx: Tx, org_id: OrgId, user_id: UserId) -> int:
    """Count the sessions of others that a user has joined."""
    return await _count(tx, "participants WHERE org_id = ? AND subject = ?", org_id, user_id)


async def has_shared_images(tx: Tx, org_id: OrgId) -> bool:
    """Whether the organization has images that belong to no session."""
    sql = "SELECT 1 FROM images WHERE org_id = ? AND session_id IS NULL LIMIT 1"
    return await tx.one(sql, org_id) is not None


async def _count(tx: Tx, rows: str, *args: Value) -> int:
    found = await tx.one(f"SELECT COUNT(*) FROM {rows}", *args)
    return 0 if found is None else int(found[0])
