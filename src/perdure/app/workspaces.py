"""Workspaces: create, read, list, change, archive."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from perdure.app.context import App
from perdure.app.idempotency import Once, write_once
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict, InvalidInput
from perdure.domain.ids import WorkspaceId
from perdure.domain.paging import AllowedAction
from perdure.domain.sessions import has_control
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.domain.workspaces import CreateWorkspace, UpdateWorkspace, Workspace
from perdure.store.database import Changes, Tx
from perdure.store.workspaces import (
    WorkspaceRow,
    add_workspace,
    get_workspace,
    hold_workspace,
    list_workspaces,
    update_workspace,
    workspace_by_name,
)

OWN_NAME = "A session's files"
"""The default name of a session's own workspace."""


def to_workspace(row: WorkspaceRow) -> Workspace:
    """Convert the row to its wire format."""
    url = f"/v1/workspaces/{row.id}"
    actions = [
        AllowedAction("self", "GET", url, "get_workspace"),
        AllowedAction("files", "GET", f"{url}/fs", "get_root"),
        AllowedAction("update", "PATCH", url, "update_workspace"),
    ]
    if row.session_id is None and row.status == "active":
        actions.append(AllowedAction("delete", "DELETE", url, "delete_workspace"))
    return Workspace(
        id=row.id,
        name=row.name or OWN_NAME,
        status=row.status,
        size_bytes=row.size_bytes,
        file_count=row.file_count,
        created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at),
        self_url=url,
        view_url=url,
        ui_link=url,
        description=row.description,
        session_id=row.session_id,
        archived_at=maybe_rfc3339(row.archived_at),
        allowed_actions=tuple(actions),
    )


def _clean_name(name: str) -> str:
    trimmed = name.strip()
    if not trimmed or has_control(trimmed):
        raise InvalidInput("`name` must not be empty or contain control characters", field="name")
    return trimmed


async def create_workspace(
    app: App, caller: Caller, body: CreateWorkspace, once: Once | None = None
) -> Workspace:
    """Create a workspace for sessions to share. Raises Conflict: the name is taken."""
    name, now = _clean_name(body.name), app.now()

    async def work(tx: Tx) -> Workspace:
        row = WorkspaceRow(
            app.new_id("workspace"),
            caller.organization_id,
            None,
            name,
            body.description,
            "active",
            0,
            0,
            now,
            now,
            None,
        )
        await _check_name(tx, row)
        await add_workspace(tx, row)
        return to_workspace(row)

    return await write_once(app, once, work)


async def _check_name(tx: Tx, row: WorkspaceRow) -> None:
    if row.session_id is None and await workspace_by_name(tx, row.org_id, row.name) is not None:
        raise Conflict(f"another workspace is already named {row.name!r}", code="name_taken")


async def all_workspaces(app: App, caller: Caller, search: str | None, archived: bool) -> list[Workspace]:
    """List the organization's workspaces, newest first, without those that sessions own."""
    rows = await app.database.read(
        lambda tx: list_workspaces(tx, caller.organization_id, search, archived), long=True
    )
    return [to_workspace(row) for row in rows]


async def read_workspace(app: App, caller: Caller, workspace_id: WorkspaceId) -> Workspace:
    """Read a workspace. Raises NotFound."""
    return to_workspace(
        await app.database.read(lambda tx: get_workspace(tx, caller.organization_id, workspace_id))
    )


async def change_workspace(
    app: App, caller: Caller, workspace_id: WorkspaceId, body: UpdateWorkspace
) -> Workspace:
    """Change the fields that the body contains. Raises NotFound and Conflict."""
    values: Changes = {
        name: getattr(body, name) for name in body.__struct_fields__ if getattr(body, name) is not UNSET
    }
    if body.name is not UNSET:
        values["name"] = _clean_name(body.name)
    now = app.now()

    async def work(tx: Tx) -> Workspace:
        if not values:
            return to_workspace(await get_workspace(tx, caller.organization_id, workspace_id))
        return await _update(tx, await hold_workspace(tx, caller.organization_id, workspace_id), values, now)

    return await (app.database.write(work) if values else app.database.read(work))


async def archive_workspace(app: App, caller: Caller, workspace_id: WorkspaceId) -> None:
    """Archive a workspace: hides it from lists and from new sessions, and makes its files read-only."""
    now = app.now()

    async def work(tx: Tx) -> None:
        await _update(
            tx, await hold_workspace(tx, caller.organization_id, workspace_id), {"status": "archived"}, now
        )

    await app.database.write(work)


async def _update(tx: Tx, row: WorkspaceRow, values: Changes, now: Micros) -> Workspace:
    changes = {name: value for name, value in values.items() if value != getattr(row, name)}
    status = changes.get("status")
    if status == "archived" and row.session_id is not None:
        raise Conflict(
            f"this workspace belongs to the session {row.session_id}: delete the session instead",
            code="workspace_of_session",
        )
    if status is not None:
        changes["archived_at"] = None if status == "active" else now
    if not changes:
        return to_workspace(row)
    changes["updated_at"] = max(now, row.updated_at + 1)
    new = msgspec.structs.replace(row, **changes)
    if new.status == "active" and (new.name != row.name or row.status != "active"):
        await _check_name(tx, new)
    await update_workspace(tx, row, changes)
    return to_workspace(new)
