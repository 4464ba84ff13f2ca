"""Rows of pins: the sessions that users keep at the top of their lists."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.domain.ids import SessionId, UserId
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow


async def set_pin(tx: Tx, row: SessionRow, user_id: UserId, now: Micros) -> None:
    """Pin a session for a user. Idempotent."""
    await tx.run(
        "INSERT INTO pins (session_id, user_id, org_id, created_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        row.id,
        user_id,
        row.org_id,
        now,
    )


async def clear_pin(tx: Tx, row: SessionRow, user_id: UserId) -> None:
    """Unpin a session for a user. Idempotent."""
    await tx.run("DELETE FROM pins WHERE session_id = ? AND user_id = ?", row.id, user_id)


async def pinned_among(tx: Tx, user_id: UserId, session_ids: Sequence[SessionId]) -> set[SessionId]:
    """Return those of these sessions that the user has pinned."""
    if not session_ids:
        return set()
    marks = ", ".join("?" * len(session_ids))
    rows = await tx.all(
        f"SELECT session_id FROM pins WHERE user_id = ? AND session_id IN ({marks})", user_id, *session_ids
    )
    return {row[0] for row in rows}
