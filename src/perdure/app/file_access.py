"""Locates files, and changes them under the locks of their session and workspace.

Every change of a file goes through `change_files`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from msgspec import Struct

from perdure.app.context import Scope, Services
from perdure.app.idempotency import Once, write_once
from perdure.domain.errors import NotFound
from perdure.domain.files import LONG, Content
from perdure.domain.ids import OrgId, SessionId, WorkspaceId
from perdure.domain.memories import Mounts
from perdure.store.blobs import read_content, send_ahead
from perdure.store.database import Tx
from perdure.store.files import FileRow
from perdure.store.sessions import SessionRow, get_session
from perdure.store.workspaces import WorkspaceRow, get_workspace, hold_for_writing, hold_session_files

P = ParamSpec("P")
T = TypeVar("T")


class OfSession(Struct, frozen=True):
    """The files of a session.

    Attributes:
        mounts: the memories in them, for a caller; the session's own tools know them.
    """

    session_id: SessionId
    mounts: Mounts | None = None


class OfWorkspace(Struct, frozen=True):
    """The files of a workspace."""

    workspace_id: WorkspaceId


class OfMemory(Struct, frozen=True):
    """The files of a memory, which whoever reads them may read. They are changed elsewhere."""

    place: WorkspaceId


At = OfSession | OfWorkspace
"""Whether files are addressed by session or by workspace."""
Readable = At | OfMemory

Change = Callable[[Tx, WorkspaceRow, SessionRow | None], Awaitable[T]]
"""Runs while the workspace is locked. Also gets the session whose log records the change, if one exists."""


async def workspace_at(tx: Tx, scope: Scope, at: Readable) -> WorkspaceId:
    """Find the workspace to read from. Raises NotFound."""
    if isinstance(at, OfMemory):
        return at.place
    if isinstance(at, OfSession):
        own = scope.own_workspace(at.session_id)
        return own or (await get_session(tx, scope.organization_id, at.session_id)).workspace()
    return (await get_workspace(tx, scope.organization_id, at.workspace_id)).id


async def change_files(
    app: Services,
    scope: Scope,
    at: At,
    change: Change[T],
    content: Content | None = None,
    once: Once | None = None,
) -> T:
    """Change files in one transaction.

    All changes go through here and lock the workspace, so the state that a change has checked, such as the
    limits, stays valid until it commits.

    Args:
        content: the content that will be written; a long one is stored before anything is locked.

    Raises:
        NotFound: the session or workspace does not exist.
        Conflict: the workspace is archived.
    """
    now = app.now()

    async def work(tx: Tx) -> T:
        if content is not None:
            await send_ahead(tx, scope.organization_id, content, now)
        session, space = await _hold(tx, scope.organization_id, at)
        return await change(tx, space, session)

    return await write_once(app, once, work)


async def _hold(tx: Tx, org_id: OrgId, at: At) -> tuple[SessionRow | None, WorkspaceRow]:
    """Lock the session whose log records the change, if one exists, and then the workspace."""
    if isinstance(at, OfSession):
        return await hold_session_files(tx, org_id, at.session_id)
    owner = (await get_workspace(tx, org_id, at.workspace_id)).session_id
    session = None if owner is None else await _lock_owner(tx, org_id, owner)
    return session, await hold_for_writing(tx, org_id, at.workspace_id)


async def _lock_owner(tx: Tx, org_id: OrgId, session_id: SessionId) -> SessionRow | None:
    """Lock the session that owns a workspace. None if it was deleted: other sessions may still share it."""
    try:
        return await get_session(tx, org_id, session_id, lock=True)
    except NotFound:
        return None


async def content_of_row(app: Services, row: FileRow) -> bytes:
    """Read a file's whole content."""
    return await app.database.read(
        lambda tx: read_content(tx, row.org_id, row.hash, row.size_bytes), long=row.size_bytes > LONG
    )


async def sized(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function whose work grows with `size` bytes: in a thread if they exceed LONG."""
    return await asyncio.to_thread(function, *args, **kwargs) if size > LONG else function(*args, **kwargs)
