"""Sessions that only their owner reads.

What a session has read of a user's memory is in its log, and can be in every answer after that. Every member
of an organization reads its sessions; so a session that has seen a user's memory, or is created with one, is
closed to all others, with its sub-agents and its forks.
"""

from __future__ import annotations

from perdure.app.context import Services
from perdure.domain.accounts import Caller
from perdure.domain.errors import NotFound
from perdure.domain.ids import OrgId, SessionId, UserId, WorkspaceId
from perdure.domain.workspaces import session_of
from perdure.store.confidential import note_reader, reader_of
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow, get_session


async def mark_confidential(app: Services, org_id: OrgId, session_id: SessionId) -> None:
    """Close the tree of a session to all but its owner. Raises NotFound."""
    if await app.database.read(lambda tx: reader_of(tx, session_id)) is not None:
        return
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_session(tx, org_id, session_id)
        await close_to_others(tx, row, now)

    await app.database.write(work)


async def close_to_others(tx: Tx, row: SessionRow, now: int) -> None:
    """Close the tree of a session to all but its owner, in the caller's transaction."""
    await note_reader(tx, row.org_id, row.root_session_id or row.id, row.owner_id, now)


async def check_reader(app: Services, caller: Caller, session_id: SessionId) -> None:
    """Check that a session is not closed to the caller.

    Raises:
        NotFound: it has seen another user's memory.
    """
    if caller.token_id is None:
        return  # without a login there is one user
    _check(caller, await app.database.read(lambda tx: reader_of(tx, session_id)))


async def check_row(tx: Tx, caller: Caller, row: SessionRow) -> None:
    """As `check_reader`, in the caller's transaction."""
    _check(caller, await reader_of(tx, row.id))


async def check_workspace(tx: Tx, caller: Caller, workspace_id: WorkspaceId) -> None:
    """Check that a workspace is not of a session that is closed to the caller. Raises NotFound."""
    reader = await reader_of(tx, session_of(workspace_id))
    if reader is not None and reader != caller.user_id:
        raise NotFound("workspace")


def _check(caller: Caller, reader: UserId | None) -> None:
    if reader is not None and reader != caller.user_id:
        raise NotFound("session")
