"""Rows that say who has to do with a session besides everybody.

A row is of the session at the top of a tree, holds for the tree, and is never changed. Either the tree has
seen a user's memory, and is that user's alone; or somebody else has written in it, and it never sees that
memory. Which of them comes first counts: both are the same row.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.ids import OrgId, SessionId, UserId
from perdure.domain.times import Micros
from perdure.store.database import Tx

VISITED = ""
"""In the place of a user: somebody else than the owner has written in the session."""
_OF = (
    "SELECT s.owner_id, COALESCE(s.root_session_id, s.id), c.user_id FROM sessions s"
    " LEFT JOIN confidential_sessions c ON c.session_id = COALESCE(s.root_session_id, s.id) WHERE s.id = ?"
)


class Openness(Struct, frozen=True):
    """Who reads a session, and writes in it.

    Attributes:
        root_id: the session at the top of its tree.
        reader_id: the only user who reads it; None if everybody in its organization does.
        visited: whether somebody else than its owner has written in the tree.
    """

    owner_id: UserId
    root_id: SessionId
    reader_id: UserId | None
    visited: bool


async def openness_of(tx: Tx, session_id: SessionId, org_id: OrgId | None = None) -> Openness | None:
    """Return who has to do with a session; None if it does not exist.

    Args:
        org_id: its organization; None for any.
    """
    where, args = (_OF, [session_id]) if org_id is None else (f"{_OF} AND s.org_id = ?", [session_id, org_id])
    found = await tx.one(where, *args)
    if found is None:
        return None
    owner_id, root_id, user_id = found
    reader_id = UserId(user_id) if user_id else None
    return Openness(UserId(owner_id), SessionId(root_id), reader_id, user_id == VISITED)


async def reader_of(tx: Tx, session_id: SessionId) -> UserId | None:
    """Return the only user who reads a session; None if everybody in its organization does."""
    found = await openness_of(tx, session_id)
    return None if found is None else found.reader_id


async def note_reader(tx: Tx, org_id: OrgId, root_id: SessionId, user_id: UserId, now: Micros) -> bool:
    """Note that only this user reads the tree of a session from now on.

    With VISITED as the user, note that somebody else has written in it. Returns whether that holds now: what
    was noted before stays.
    """
    await tx.run(
        "INSERT INTO confidential_sessions (session_id, org_id, user_id, created_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        root_id,
        org_id,
        user_id,
        now,
    )
    found = await tx.one("SELECT user_id FROM confidential_sessions WHERE session_id = ?", root_id)
    return found is not None and found[0] == user_id


async def others_have_some(tx: Tx, org_id: OrgId, user_id: UserId) -> bool:
    """Whether the organization has sessions that this user must not read."""
    sql = (
        "SELECT 1 FROM confidential_sessions WHERE org_id = ?"
        f" AND ((user_id > '{VISITED}' AND user_id < ?) OR user_id > ?) LIMIT 1"
    )
    return await tx.one(sql, org_id, user_id, user_id) is not None


def open_to(table: str, identity: str = "id") -> str:
    """Return the condition that a user reads rows of sessions, for one argument: the user's id.

    Args:
        table: the name of the table in the statement.
        identity: its column with the session's id.
    """
    return (
        f"NOT EXISTS (SELECT 1 FROM confidential_sessions c WHERE"
        f" c.session_id = COALESCE({table}.root_session_id, {table}.{identity})"
        f" AND c.user_id <> '{VISITED}' AND c.user_id <> ?)"
    )
