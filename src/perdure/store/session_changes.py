"""Changes of sessions outside the projection of their logs, which disturb no running turn."""

from __future__ import annotations

import msgspec

from perdure.domain.errors import NotFound, StaleHead
from perdure.domain.times import Micros
from perdure.store.audit_changes import note_seen
from perdure.store.database import Changes, Tx
from perdure.store.rows import assignments
from perdure.store.session_details import SessionDetails
from perdure.store.sessions import COLUMNS, LATER, SessionRow


async def update_session(tx: Tx, row: SessionRow, changes: Changes, now: Micros) -> SessionRow:
    """Update columns. Raises NotFound."""
    found = await tx.one(
        f"UPDATE sessions SET {_sets(changes)}, {LATER}"
        f" WHERE id = ? AND org_id = ? AND deleted_at IS NULL RETURNING {COLUMNS}",
        *changes.values(),
        now,
        now,
        row.id,
        row.org_id,
    )
    if found is None:
        raise NotFound("session")
    return SessionRow(*found)


async def update_as_read(tx: Tx, details: SessionDetails, changes: Changes, now: Micros) -> SessionRow:
    """Update columns with the transaction's last statement.

    Raises:
        StaleHead: the row has changed since it was read.
    """
    row = details.row
    new = msgspec.structs.replace(row, **changes, updated_at=max(now, row.updated_at + 1))
    if row.root_session_id is None:
        note_seen(tx, msgspec.structs.asdict(row), private=details.reader_id is not None)
    sql = (
        f"UPDATE sessions SET {_sets(changes)}, updated_at = ?"
        " WHERE id = ? AND org_id = ? AND updated_at = ? AND deleted_at IS NULL"
    )
    args = (*changes.values(), new.updated_at, row.id, row.org_id, row.updated_at)
    if not await tx.append(sql, args):
        raise StaleHead
    return new


def _sets(changes: Changes) -> str:
    """Return what an UPDATE sets for changes outside the projection."""
    sets = assignments(changes)
    if "title" in changes or "tags" in changes:
        sets += ", search_slot = NULL"  # the search index still has the old title and tags
    return sets
