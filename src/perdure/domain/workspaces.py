"""Workspaces: where files are. Every session has one of its own, unless it was made to share another."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.ids import SessionId, WorkspaceId
from perdure.domain.paging import AllowedAction
from perdure.domain.times import Timestamp

WorkspaceStatus = Literal["active", "archived"]
WorkspaceName = Annotated[str, Meta(min_length=1, max_length=200, examples=["Quarterly report"])]
Description = Annotated[str, Meta(max_length=2000)]


class Workspace(Struct, frozen=True, omit_defaults=True):
    """A tree of files that sessions work on."""

    id: WorkspaceId
    name: str
    status: WorkspaceStatus
    size_bytes: int
    file_count: int
    created_at: Timestamp
    updated_at: Timestamp
    self_url: str
    view_url: str
    ui_link: str
    description: str | None = None
    session_id: SessionId | None = None
    archived_at: Timestamp | None = None
    allowed_actions: tuple[AllowedAction, ...] = ()


class CreateWorkspace(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/workspaces`."""

    name: WorkspaceName
    description: Description | None = None


class UpdateWorkspace(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/workspaces/{workspace_id}`: what is left out stays."""

    name: WorkspaceName | UnsetType = UNSET
    description: Description | None | UnsetType = UNSET
    status: WorkspaceStatus | UnsetType = UNSET


def own_workspace(session_id: SessionId) -> WorkspaceId:
    """The id of the workspace that a session has unless it shares another."""
    return WorkspaceId(f"workspace_{session_id[-32:]}")
