"""A session, as read and named by its own tools; and the check that a session exists."""

from __future__ import annotations

from perdure.app.context import Scope, Services
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import SessionId
from perdure.domain.sessions import MAX_TITLE, clean_title
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow, get_session, update_session


async def check_session(tx: Tx, scope: Scope, session_id: SessionId) -> None:
    """Check before a read that the session exists. Raises NotFound.

    Costs no query in the session's own tools.
    """
    if scope.own_workspace(session_id) is None:
        await get_session(tx, scope.organization_id, session_id)


async def read_own_session(app: Services, scope: Scope, session_id: SessionId) -> SessionRow:
    """Read the session's row. Raises NotFound: the session was deleted meanwhile."""
    return await app.database.read(lambda tx: get_session(tx, scope.organization_id, session_id))


async def name_own_session(app: Services, scope: Scope, session_id: SessionId, title: str) -> str:
    """Set the session's title; returns the title as it is stored.

    Raises:
        InvalidInput: the title is empty or too long, or contains characters that are not allowed.
        NotFound: the session was deleted meanwhile.
    """
    clean = clean_title(title.strip())
    if not clean or len(clean) > MAX_TITLE:
        raise InvalidInput(f"the title must have 1 to {MAX_TITLE} characters", field="title")
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_session(tx, scope.organization_id, session_id)
        await update_session(tx, row, {"title": clean}, now)

    await app.database.write(work)
    return clean
