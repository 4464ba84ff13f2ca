"""Sessions that only their owner reads.

What a session has read of a user's memory is in its log, and can be in every answer after that. Every member
of an organization reads its sessions; so a session that has seen a user's memory, or is created with one, is
closed to all others, with its sub-agents and its forks.

The other way round, a session in which others have written never gets the memory: they could have told its
agent to pass it on.
"""

from __future__ import annotations

from perdure.app.context import Services
from perdure.domain.accounts import Caller
from perdure.domain.errors import Forbidden, NotFound
from perdure.domain.ids import OrgId, SessionId, UserId, WorkspaceId
from perdure.domain.workspaces import session_of
from perdure.store.confidential import VISITED, Openness, note_reader, openness_of, reader_of
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow, get_session


async def mark_confidential(app: Services, org_id: OrgId, session_id: SessionId) -> None:
    """Close the tree of a session to all but its owner. Raises NotFound; Forbidden as `close_to_others`."""
    if await app.database.read(lambda tx: reader_of(tx, session_id)) is not None:
        return
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_session(tx, org_id, session_id)
        await close_to_others(tx, row, now)

    await app.database.write(work)


async def close_to_others(tx: Tx, row: SessionRow, now: int) -> None:
    """Close the tree of a session to all but its owner, in the caller's transaction.

    Raises:
        Forbidden: somebody else has written in it.
    """
    root_id = row.root_session_id or row.id
    if not await note_reader(tx, row.org_id, root_id, row.owner_id, now):
        raise withheld()


def withheld() -> Forbidden:
    """The error where somebody else could tell the agent what to do with a user's memory."""
    return Forbidden(
        "this session does not have the user's own memories, because somebody else has written in it: begin "
        "a new session",
        code="memory_withheld",
    )


async def is_withheld(tx: Tx, session_id: SessionId) -> bool:
    """Whether a session does not get its user's memories."""
    found = await openness_of(tx, session_id)
    return found is not None and found.visited


async def check_reader(app: Services, caller: Caller, session_id: SessionId, *, writes: bool = False) -> None:
    """Check that a session is not closed to the caller.

    Args:
        writes: whether the caller changes something. Then the session of somebody else never gets that user's
            memory: the caller could tell the agent to pass it on.

    Raises:
        NotFound: it has seen another user's memory.
    """
    if caller.token_id is None:
        return  # without a login there is one user
    org_id = caller.organization_id
    found = await app.database.read(lambda tx: openness_of(tx, session_id, org_id))
    if found is None:
        return
    _check(caller, found.reader_id)
    if writes and found.owner_id != caller.user_id and not found.visited:
        await app.database.write(lambda tx: _visit(tx, caller, found, app.now()))


async def check_row(tx: Tx, caller: Caller, row: SessionRow, now: int | None = None) -> None:
    """As `check_reader`, in the caller's transaction.

    Args:
        now: the time, if the caller changes something.
    """
    found = await openness_of(tx, row.id)
    if found is None:
        return
    _check(caller, found.reader_id)
    if now is not None and caller.token_id is not None and row.owner_id != caller.user_id:
        await _visit(tx, caller, found, now)


async def _visit(tx: Tx, caller: Caller, session: Openness, now: int) -> None:
    """Note that somebody else writes in a session. Raises NotFound: it was closed just now."""
    if not await note_reader(tx, caller.organization_id, session.root_id, UserId(VISITED), now):
        raise NotFound("session")


async def keep_openness(tx: Tx, source: SessionRow, copy: SessionRow, now: int) -> None:
    """Note of a copy what holds of its source, with whose text it begins."""
    found = await openness_of(tx, source.id)
    if found is not None and found.reader_id is not None:
        await close_to_others(tx, copy, now)
    elif found is not None and (found.visited or source.owner_id != copy.owner_id):
        await note_reader(tx, copy.org_id, copy.id, UserId(VISITED), now)


async def check_workspace(tx: Tx, caller: Caller, workspace_id: WorkspaceId) -> None:
    """Check that a workspace is not of a session that is closed to the caller. Raises NotFound."""
    reader = await reader_of(tx, session_of(workspace_id))
    if reader is not None and reader != caller.user_id:
        raise NotFound("workspace")


def _check(caller: Caller, reader: UserId | None) -> None:
    if reader is not None and reader != caller.user_id:
        raise NotFound("session")
