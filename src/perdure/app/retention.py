"""Retention: reading and changing it, what it would delete, and the deletion of sessions that are due."""

from __future__ import annotations

from datetime import date, timedelta

from perdure.app.accounts import own_organization
from perdure.app.context import App, Services
from perdure.app.purges import PURGES
from perdure.app.searches import search
from perdure.app.session_ends import remove_session
from perdure.domain.accounts import Caller, require
from perdure.domain.errors import Conflict, NotFound
from perdure.domain.ids import ErasureId, OrgId, SessionId
from perdure.domain.retention import (
    DeletedCount,
    KeptFor,
    PreviewedKind,
    Retention,
    RetentionKind,
    RetentionPreview,
    UpdateRetention,
)
from perdure.domain.times import Micros, maybe_rfc3339
from perdure.store.accounts import OrganizationRow
from perdure.store.database import Tx
from perdure.store.retention import (
    DAY,
    count_deleted,
    days_of,
    deleted_counts,
    is_due,
    preview_of,
    set_days,
)
from perdure.store.sessions import SessionRow

_HOUR = 3_600_000_000
_EPOCH = date(1970, 1, 1)


async def read_retention(app: App, caller: Caller, org_id: OrgId) -> Retention:
    """Return how long one of the caller's organizations keeps what it has. Raises NotFound."""

    async def work(tx: Tx) -> Retention:
        row, _ = await own_organization(tx, caller, org_id)
        return await _retention(app, tx, row)

    return await app.database.read(work)


async def change_retention(app: App, caller: Caller, org_id: OrgId, body: UpdateRetention) -> Retention:
    """Change the days that the body names; owners only: data is deleted by them.

    Raises:
        Forbidden, NotFound.
    """
    now = app.now()

    async def work(tx: Tx) -> Retention:
        row, role = await own_organization(tx, caller, org_id)
        require(Caller(row.id, caller.user_id, role), "owner")
        await set_days(tx, row.id, body.changes(), now)
        return await _retention(app, tx, row)

    return await app.database.write(work)


async def _retention(app: Services, tx: Tx, row: OrganizationRow) -> Retention:
    own = await days_of(tx, row.id)
    deleted = await deleted_counts(tx, row.id, app.now())
    return Retention(
        own,
        own.over(app.retention),
        tuple(
            KeptFor(each.kind, max(1, each.kept // _HOUR) if each.kept else 0, each.since) for each in PURGES
        ),
        tuple(
            DeletedCount((_EPOCH + timedelta(days=day)).isoformat(), kind, count)
            for day, kind, count in deleted
        ),
    )


async def preview_retention(
    app: App, caller: Caller, org_id: OrgId, body: UpdateRetention
) -> RetentionPreview:
    """Return what retention would delete now, with these changes; admins only. Nothing is stored.

    Raises:
        Forbidden, NotFound.
        Unavailable: the organization has too much to look at.
    """

    async def check(tx: Tx) -> OrganizationRow:
        row, role = await own_organization(tx, caller, org_id)
        require(Caller(row.id, caller.user_id, role), "admin")
        return row

    org = await app.database.read(check)
    own = await app.database.read(lambda tx: days_of(tx, org.id))
    days, now = body.applied(own).over(app.retention).limited(), app.now()

    async def work(tx: Tx) -> RetentionPreview:
        kinds = []
        for kind, count in days.items():
            items, oldest = await preview_of(tx, org.id, kind, now - count * DAY)
            kinds.append(PreviewedKind(kind, count, items, maybe_rfc3339(oldest)))
        return RetentionPreview(tuple(kinds))

    return await search(app, Caller(org.id, caller.user_id), work)


class _NotDue(Exception):
    """The session has changed since it was due."""


async def delete_due(
    app: Services, org_id: OrgId, session_id: SessionId, kind: RetentionKind, before: Micros
) -> bool:
    """Delete a session if it is still due; return whether it was.

    Args:
        before: an instant in microseconds: it has not changed since then.
    """

    async def first(tx: Tx, row: SessionRow) -> ErasureId | None:
        if not await is_due(tx, row.id, kind, before):
            raise _NotDue
        await count_deleted(tx, org_id, kind, 1, app.now())
        return None

    try:
        await remove_session(app, org_id, session_id, first)
    except (_NotDue, NotFound, Conflict):
        return False
    return True
