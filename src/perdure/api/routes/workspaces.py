"""Routes of workspaces. The routes of their files are in files.py."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.api.routes.agents import Search
from perdure.app import workspaces as use
from perdure.domain.ids import WorkspaceId
from perdure.domain.paging import Listing
from perdure.domain.workspaces import CreateWorkspace, UpdateWorkspace, Workspace


class ListWorkspaces(Struct, frozen=True):
    """Query parameters of the list of workspaces."""

    search: Annotated[
        Search | None, Meta(description="Text to find in the name or the description, case-insensitive.")
    ] = None
    include_archived: Annotated[bool, Meta(description="Whether to include archived workspaces.")] = False


@route("GET", "/v1/workspaces", "workspaces")
async def list_workspaces(call: Call, query: ListWorkspaces) -> Listing[Workspace]:
    """List workspaces, newest first.

    Excludes workspaces that belong to a session. Archived ones are included only with `include_archived`.
    """
    return Listing(
        tuple(await use.all_workspaces(call.app, call.caller, query.search or None, query.include_archived))
    )


@route(
    "POST",
    "/v1/workspaces",
    "workspaces",
    status=201,
    errors=(409,),
    body_example={"name": "Quarterly report"},
)
async def create_workspace(call: Call, body: CreateWorkspace) -> Workspace:
    """Create a workspace.

    It belongs to no session. New sessions use it if their `workspace_id` names it.
    """
    return await use.create_workspace(call.app, call.caller, body, call.once)


@route("GET", "/v1/workspaces/{workspace_id}", "workspaces", errors=(404,))
async def get_workspace(call: Call, workspace_id: WorkspaceId) -> Workspace:
    """Get a workspace.

    The id of a session's own workspace has the same hexadecimal digits as the session's id.
    """
    return await use.read_workspace(call.app, call.caller, workspace_id)


@route(
    "PATCH",
    "/v1/workspaces/{workspace_id}",
    "workspaces",
    errors=(404, 409),
    body_example={"description": "For the board"},
)
async def update_workspace(call: Call, workspace_id: WorkspaceId, body: UpdateWorkspace) -> Workspace:
    """Update a workspace.

    Omitted fields keep their values; `null` clears the description. The status `active` restores an
    archived workspace.
    """
    return await use.change_workspace(call.app, call.caller, workspace_id, body)


@route("DELETE", "/v1/workspaces/{workspace_id}", "workspaces", errors=(404, 409))
async def delete_workspace(call: Call, workspace_id: WorkspaceId) -> None:
    """Archive a workspace.

    The workspace disappears from lists, and new sessions cannot use it. Its files stay readable but cannot be
    changed. 409 for a session's own workspace: delete the session instead.
    """
    await use.archive_workspace(call.app, call.caller, workspace_id)


ROUTES = (
    list_workspaces,
    create_workspace,
    get_workspace,
    update_workspace,
    delete_workspace,
)
