"""Routes of workspaces; those of their files are in `files`."""

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
    """Query of the list of workspaces."""

    search: Annotated[
        Search | None, Meta(description="Text to find in the name or the description, case-insensitive.")
    ] = None
    include_archived: Annotated[bool, Meta(description="Whether to include archived workspaces.")] = False


@route("GET", "/v1/workspaces", "workspaces")
async def list_workspaces(call: Call, query: ListWorkspaces) -> Listing[Workspace]:
    """List workspaces.

    Newest first, without those that belong to a session; archived ones only if asked for.
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

    It belongs to no session. `workspace_id` of a new session makes it work there.
    """
    return await use.create_workspace(call.app, call.caller, body, call.once)


@route("GET", "/v1/workspaces/{workspace_id}", "workspaces", errors=(404,))
async def get_workspace(call: Call, workspace_id: WorkspaceId) -> Workspace:
    """Get a workspace.

    That of a session has the session's hex digits in its id.
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
    """Change a workspace; fields that are left out stay.

    A field that is left out stays; `null` clears the description. The status `active` brings one back.
    """
    return await use.change_workspace(call.app, call.caller, workspace_id, body)


@route("DELETE", "/v1/workspaces/{workspace_id}", "workspaces", errors=(404, 409))
async def delete_workspace(call: Call, workspace_id: WorkspaceId) -> None:
    """Archive a workspace.

    It is hidden from lists and takes no new sessions; its files can be read, and no longer changed. A
    session's own workspace goes with its session.
    """
    await use.archive_workspace(call.app, call.caller, workspace_id)


ROUTES = (
    list_workspaces,
    create_workspace,
    get_workspace,
    update_workspace,
    delete_workspace,
)
