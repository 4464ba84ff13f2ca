"""Rows of sessions that only their user reads: the tree has seen that user's memory.

The row is of the session at the top of a tree, and holds for the tree.
"""

from __future__ import annotations

from perdure.domain.ids import OrgId, SessionId, UserId
from perdure.domain.times import Micros
from perdure.store.database import Tx

_OF = (
    "SELECT c.user_id FROM sessions s JOIN confidential_sessions c"
    " ON c.session_id = COALESCE(s.root_session_id, s.id) WHERE s.id = ?"
)


async def reader_of(tx: Tx, session_id: SessionId) -> UserId | None:
    """Return the only user who reads a session; None if everybody in its organization does."""
    found = await tx.one(_OF, session_id)
    return None if found is None else UserId(found[0])


async def note_reader(tx: Tx, org_id: OrgId, root_id: SessionId, user_id: UserId, now: Micros) -> None:
    """Note that only this user reads the tree of a session from now on."""
    await tx.run(
        "INSERT INTO confidential_sessions (session_id, org_id, user_id, created_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        root_id,
        org_id,
        user_id,
        now,
    )


async def others_have_some(tx: Tx, org_id: OrgId, user_id: UserId) -> bool:
    """Whether the organization has sessions that this user must not read."""
    sql = "SELECT 1 FROM confidential_sessions WHERE org_id = ? AND (user_id < ? OR user_id > ?) LIMIT 1"
    return await tx.one(sql, org_id, user_id, user_id) is not None


def open_to(table: str, identity: str = "id") -> str:
    """Return the condition that a user reads rows of sessions, for one argument: the user's id.

    Args:
        table: the name of the table in the statement.
        identity: its column with the session's id.
    """
    return (
        f"NOT EXISTS (SELECT 1 FROM confidential_sessions c WHERE"
        f" c.session_id = COALESCE({table}.root_session_id, {table}.{identity}) AND c.user_id <> ?)"
    )
