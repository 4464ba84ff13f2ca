"""Entries about changes that the caller's role did not allow."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.audits import Origin
from perdure.domain.ids import SessionId
from perdure.domain.times import Micros
from perdure.store.audit_changes import Stored, names_of
from perdure.store.audit_entries import Maker, add_rows, is_private, session_of_row
from perdure.store.audit_tables import Watched
from perdure.store.confidential import reader_of
from perdure.store.database import Tx

_KEEP = {"sqlite": "", "postgres": " FOR KEY SHARE"}
"""Has an erasure that removes the session wait for the commit, so that it removes the entry, too."""


class Denied(Struct, frozen=True):
    """What a request was about that was denied, as far as the request says it.

    Attributes:
        watched: the kind of entity that it would have changed.
        action: what it would have done.
        entity_id: the id or the name of the entity; of one that would have been new, what it would be in.
        name: the name that a new entity would have had.
        session_id: the session that the request names; it need not exist.
    """

    watched: Watched
    action: str
    entity_id: str
    name: str | None = None
    session_id: SessionId | None = None


async def add_denied(tx: Tx, origin: Origin, denied: Denied, now: Micros) -> None:
    """Add the entry of a change that the caller's role did not allow.

    It is an entry of the session that it is about, and is erased with it.
    """
    watched, entity_id, name = denied.watched, denied.entity_id, denied.name
    session_id = await _known(tx, origin, denied.session_id)
    found = await _row_of(tx, origin, denied)
    if found is not None:
        entity_id = watched.id.format(**found)
        hidden = not watched.name or await is_private(tx, watched, found)
        name = None if hidden or found[watched.name] is None else str(found[watched.name])
        session_id = session_id or await _known(
            tx, origin, await session_of_row(tx, watched, found, origin.org_id)
        )
    elif session_id is not None and await reader_of(tx, session_id) is not None:
        name = None  # as of what is made in it
    maker = Maker(origin, await names_of(tx, origin), now)
    row = maker.row(origin.org_id, watched.type, entity_id, name=name, session_id=session_id)
    await add_rows(tx, [replace(row, action=denied.action, outcome="denied", rows_changed=0)])


async def _known(tx: Tx, origin: Origin, session_id: SessionId | None) -> SessionId | None:
    """Return the session if the organization has it."""
    if session_id is None:
        return None
    sql = f"SELECT 1 FROM sessions WHERE id = ? AND org_id = ?{_KEEP[tx.dialect]}"
    found = await tx.one(sql, session_id, origin.org_id)
    return None if found is None else session_id


async def _row_of(tx: Tx, origin: Origin, denied: Denied) -> Stored | None:
    """Return the row of the entity, by its id or its name; None if it is none of the organization's."""
    watched = denied.watched
    if watched.key != ("id",) or not watched.org:
        return None
    mine = f"SELECT {', '.join(watched.columns)} FROM {watched.table} WHERE {watched.org} = ?"
    row = await tx.one(f"{mine} AND id = ?", origin.org_id, denied.entity_id)
    if row is None and watched.name == "name" and "status" in watched.shown:
        named = f"{mine} AND name = ? AND status = 'active' LIMIT 2"
        rows = await tx.all(named, origin.org_id, denied.entity_id)
        row = rows[0] if len(rows) == 1 else None
    return None if row is None else dict(zip(watched.columns, row, strict=True))
