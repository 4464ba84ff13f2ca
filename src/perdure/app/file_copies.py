"""Copies of whole workspaces: a large one is copied in parts, before the transaction that makes it appear."""

from __future__ import annotations

from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import Services
from perdure.domain.ids import OrgId, WorkspaceId
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.files import copy_tree, list_tree
from perdure.store.gone_files import BATCHES, add_copies, copies_ahead, keep_copy, let_go
from perdure.store.workspaces import (
    count_in_workspace,
    external_of_files,
    get_workspace,
    hold_workspace,
    note_external,
)

PATIENCE = 3_600_000_000
"""Microseconds after which a copy that nobody has kept is removed. Contents that it shares live as long."""


class Ahead(Struct, frozen=True):
    """A copy that was made ahead: its bytes, and its files and folders."""

    size: int
    entries: int


async def copy_ahead(app: Services, org_id: OrgId, source: WorkspaceId, target: WorkspaceId) -> Ahead | None:
    """Copy the files of a large workspace to one that nobody has yet; None if that is not worthwhile.

    It copies the files of one moment. What a crash leaves is removed like the files of deleted sessions.
    """
    space = await app.database.read(lambda tx: get_workspace(tx, org_id, source))
    if not copies_ahead(app.database.dialect, space.file_count):
        return None
    rows = await app.database.read(lambda tx: list_tree(tx, org_id, source), long=True)
    await app.database.write(lambda tx: let_go(tx, org_id, target, app.now() + PATIENCE))
    most = BATCHES[app.database.dialect]
    for at in range(0, len(rows), most):
        batch = [replace(row, workspace_id=target) for row in rows[at : at + most]]
        await app.database.write(partial(add_copies, rows=batch))
    return Ahead(sum(row.size_bytes for row in rows), len(rows))


async def give_copy(
    tx: Tx, org_id: OrgId, source: WorkspaceId, target: WorkspaceId, ahead: Ahead | None, now: Micros
) -> None:
    """Give a new session the files of a workspace, as a copy that shares their contents.

    Args:
        ahead: the copy that was made ahead, if there is one.

    Raises:
        NotFound: the workspace was removed meanwhile.
        Conflict: making the copy took too long.
    """
    space = await get_workspace(tx, org_id, source)
    if ahead is None and not space.file_count:
        return
    copy = await hold_workspace(tx, org_id, target)
    await note_external(tx, copy, await external_of_files(tx, org_id, source))
    if ahead is None:
        await copy_tree(tx, org_id, source, target, now)
    else:
        await keep_copy(tx, org_id, target)
        await count_in_workspace(tx, copy, ahead.size, ahead.entries)
