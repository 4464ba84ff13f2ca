"""Copies of sessions that nobody sees yet.

Copying a long log in one transaction would keep all other writers waiting. It is copied in parts, to a
session that counts as deleted: no route finds it, and if its process dies, it is removed as deleted sessions
are. The last transaction makes it appear.
"""

from __future__ import annotations

import msgspec

from perdure.domain.errors import Conflict
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import insert, values
from perdure.store.session_counts import count_sessions
from perdure.store.sessions import SessionRow

_INSERT = insert("sessions", SessionRow)


async def add_hidden(tx: Tx, row: SessionRow, now: Micros) -> None:
    """Insert a session that is not to be seen yet."""
    await tx.run(_INSERT, *values(msgspec.structs.replace(row, status="idle", deleted_at=now)))


async def show(tx: Tx, row: SessionRow) -> None:
    """Make a hidden session appear. Raises Conflict: it was removed, because copying took too long."""
    shown = await tx.run(
        "UPDATE sessions SET deleted_at = NULL, status = ? WHERE id = ? AND org_id = ? AND head = ?",
        row.status,
        row.id,
        row.org_id,
        row.head,
    )
    if shown != 1:
        raise Conflict("the copy took too long and was given up: fork the session again", code="fork_expired")
    await count_sessions(tx, row.org_id, 1)
