"""Workspaces hold files. Every session has its own, unless it was created in a shared one."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.ids import SessionId, WorkspaceId
from perdure.domain.paging import AllowedActions, SelfUrl, UiLink, ViewUrl
from perdure.domain.times import ArchivedAt, CreatedAt, UpdatedAt

WorkspaceStatus = Literal["active", "archived"]
WorkspaceName = Annotated[str, Meta(min_length=1, max_length=200, examples=["Quarterly report"])]
Description = Annotated[str, Meta(max_length=2000)]


_LINK = Meta(examples=["/v1/workspaces/workspace_0192f0c1b2a37b5c8d4e5f60718293a4"])
_WORKSPACE_NAME = Meta(description="The workspace's name, for people. Unique in the organization.")
_WORKSPACE_DESCRIPTION = Meta(description="What the workspace is for, in words for people.")


class Workspace(Struct, frozen=True, omit_defaults=True):
    """A tree of files that sessions work on."""

    id: Annotated[WorkspaceId, Meta(description="The workspace's id.")]
    name: Annotated[str, _WORKSPACE_NAME, Meta(examples=["Quarterly report"])]
    status: Annotated[
        WorkspaceStatus,
        Meta(
            description="The workspace's status. An `archived` workspace is hidden from lists and read-only."
        ),
    ]
    size_bytes: Annotated[int, Meta(description="The total size of its files in bytes.", examples=[4096])]
    file_count: Annotated[int, Meta(description="The number of files and folders.", examples=[3])]
    created_at: CreatedAt
    updated_at: UpdatedAt
    self_url: Annotated[SelfUrl, _LINK]
    view_url: Annotated[ViewUrl, _LINK]
    ui_link: Annotated[UiLink, _LINK]
    description: Annotated[str | None, _WORKSPACE_DESCRIPTION] = None
    session_id: Annotated[
        SessionId | None,
        Meta(description="The session that owns the workspace. Absent if it was created on its own."),
    ] = None
    archived_at: ArchivedAt = None
    allowed_actions: Annotated[
        AllowedActions,
        Meta(
            examples=[
                [
                    {
                        "rel": "self",
                        "method": "GET",
                        "href": "/v1/workspaces/workspace_0192f0c1b2a37b5c8d4e5f60718293a4",
                        "operation_id": "get_workspace",
                    }
                ]
            ]
        ),
    ] = ()


class CreateWorkspace(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/workspaces`."""

    name: Annotated[WorkspaceName, _WORKSPACE_NAME]
    description: Annotated[Description | None, _WORKSPACE_DESCRIPTION] = None


class UpdateWorkspace(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/workspaces/{workspace_id}`. Fields that are left out stay."""

    name: Annotated[WorkspaceName | UnsetType, _WORKSPACE_NAME] = UNSET
    description: Annotated[Description | None | UnsetType, _WORKSPACE_DESCRIPTION] = UNSET
    status: Annotated[
        WorkspaceStatus | UnsetType,
        Meta(description="The workspace's status. `active` restores an archived workspace."),
    ] = UNSET


def own_workspace(session_id: SessionId) -> WorkspaceId:
    """The id of a session's own workspace."""
    return WorkspaceId(f"workspace_{session_id[-32:]}")


def session_of(owner: str) -> SessionId:
    """The session of this id, or the one that this workspace is the own one of, if there is one."""
    return SessionId(f"session_{owner[-32:]}")
