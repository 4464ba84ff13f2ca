"""Legal holds: sessions that nobody may delete or erase, with all sessions below them."""

from __future__ import annotations

from perdure.app.context import App
from perdure.app.sessions import read_details
from perdure.domain.accounts import Caller, require
from perdure.domain.errors import Conflict
from perdure.domain.ids import SessionId
from perdure.domain.sessions import Session
from perdure.store.database import Tx
from perdure.store.session_changes import update_session
from perdure.store.session_holds import is_held
from perdure.store.sessions import SessionRow, get_session


async def hold_session(app: App, caller: Caller, session_id: SessionId, *, held: bool) -> Session:
    """Put a session under legal hold, or release it. Idempotent; admins only.

    Raises:
        Conflict: `not_a_root_session`: a sub-agent's session is held with the session at the top of its tree.
        Forbidden, NotFound.
    """
    require(caller, "admin")
    now = app.now()

    async def work(tx: Tx) -> Session:
        row = await get_session(tx, caller.organization_id, session_id, lock=True)
        if row.root_session_id is not None:
            raise Conflict(
                f"a hold is for a whole tree of sessions: hold the one at its top, {row.root_session_id}",
                code="not_a_root_session",
            )
        if (row.held_at is not None) != held:
            row = await update_session(tx, row, {"held_at": now if held else None}, now)
        return await read_details(app, tx, caller, row)

    return await app.database.write(work)


async def check_not_held(tx: Tx, row: SessionRow) -> None:
    """Refuse to delete a locked session that is under legal hold, or below one. Raises Conflict."""
    top = row.root_session_id
    if row.held_at is not None or (top and await is_held(tx, top)):
        held = row.id if top is None else f"{top}, at the top of this one's tree,"
        raise Conflict(
            f"the session {held} is under legal hold: an admin has to release it first", code="session_held"
        )
