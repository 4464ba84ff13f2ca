"""What people note about sessions: pins and the archive."""

from __future__ import annotations

from perdure.app.context import App
from perdure.app.session_ends import end_if_child
from perdure.app.session_room import check_room_for_session
from perdure.app.sessions import read_details
from perdure.domain.accounts import Caller
from perdure.domain.ids import SessionId
from perdure.domain.sessions import Session
from perdure.store.database import Tx
from perdure.store.pins import clear_pin, set_pin
from perdure.store.session_archive import set_archived
from perdure.store.sessions import get_session


async def pin_session(app: App, caller: Caller, session_id: SessionId, *, pinned: bool) -> None:
    """Pin or unpin a session for the caller. Idempotent."""
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_session(tx, caller.organization_id, session_id)
        if pinned:
            await set_pin(tx, row, caller.user_id, now)
        else:
            await clear_pin(tx, row, caller.user_id)

    await app.database.write(work)


async def archive_session(app: App, caller: Caller, session_id: SessionId, *, archived: bool) -> Session:
    """Archive a session for the whole organization, or bring it back. Idempotent.

    An archived session works as before; only lists leave it out. A message of a client brings it back. A
    sub-agent's session that has not ended is cancelled: nobody looks after it any more.
    """
    now = app.now()

    async def work(tx: Tx) -> Session:
        row = await get_session(tx, caller.organization_id, session_id, lock=True)
        if row.archived_at is not None and not archived:
            await check_room_for_session(app, tx, row.org_id, row.owner_id)
        return await read_details(app, tx, caller, await set_archived(tx, row, now, archived=archived))

    session = await app.database.write(work)
    if archived and session.task_id is not None:
        await end_if_child(app, caller.organization_id, session_id, "its session was archived")
    return session
