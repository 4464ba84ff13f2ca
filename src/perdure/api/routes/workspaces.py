"""Routes of workspaces; those of their files are in `files`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.http import Call, Route
from perdure.api.routes.agents import Search
from perdure.app import workspaces as use
from perdure.domain.ids import Prefix
from perdure.domain.paging import Listing
from perdure.domain.workspaces import CreateWorkspace, UpdateWorkspace, Workspace

WORKSPACE_IDS: dict[str, Prefix] = {"workspace_id": "workspace"}


class ListWorkspaces(Struct, frozen=True):
    """Query of the list of workspaces."""

    search: Annotated[
        Search | None, Meta(description="Text to find in the name or the description, case-insensitive.")
    ] = None
    include_archived: Annotated[bool, Meta(description="Whether to include archived workspaces.")] = False


async def list_workspaces(call: Call) -> Listing[Workspace]:
    query: ListWorkspaces = call.query
    return Listing(
        tuple(await use.all_workspaces(call.app, call.caller, query.search or None, query.include_archived))
    )


async def create_workspace(call: Call) -> Workspace:
    return await use.create_workspace(call.app, call.caller, call.body)


async def get_workspace(call: Call) -> Workspace:
    return await use.read_workspace(call.app, call.caller, call.params["workspace_id"])


async def update_workspace(call: Call) -> Workspace:
    return await use.change_workspace(call.app, call.caller, call.params["workspace_id"], call.body)


async def delete_workspace(call: Call) -> None:
    await use.archive_workspace(call.app, call.caller, call.params["workspace_id"])


_ONE = "/v1/workspaces/{workspace_id}"

ROUTES = (
    Route("GET", "/v1/workspaces", "list_workspaces", "List workspaces", "workspaces", list_workspaces, query=ListWorkspaces,
          returns=Listing[Workspace]),
    Route("POST", "/v1/workspaces", "create_workspace", "Create a workspace", "workspaces", create_workspace, body=CreateWorkspace,
          body_example={"name": "Quarterly report"}, returns=Workspace, status=201, errors=(409,)),
    Route("GET", _ONE, "get_workspace", "Get a workspace", "workspaces", get_workspace, ids=WORKSPACE_IDS, returns=Workspace,
          errors=(404,)),
    Route("PATCH", _ONE, "update_workspace", "Change a workspace; fields that are left out stay", "workspaces", update_workspace,
          ids=WORKSPACE_IDS, body=UpdateWorkspace, body_example={"description": "For the board"}, returns=Workspace, errors=(404, 409)),
    Route("DELETE", _ONE, "delete_workspace", "Archive a workspace", "workspaces", delete_workspace, ids=WORKSPACE_IDS, status=204,
          errors=(404, 409)),
)  # fmt: skip
