"""Archived sessions, which lists and the organization's session count leave out."""

from __future__ import annotations

from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.session_changes import update_session
from perdure.store.session_counts import count_sessions
from perdure.store.sessions import SessionRow


async def set_archived(tx: Tx, row: SessionRow, now: Micros, *, archived: bool) -> SessionRow:
    """Archive a session whose row is locked, or bring it back. A session stays archived since the first time.

    Returns:
        The updated row.
    """
    if (row.archived_at is not None) == archived:
        return row
    await count_sessions(tx, row.org_id, -1 if archived else 1)
    return await update_session(tx, row, {"archived_at": now if archived else None}, now)
