"""Harnesses: what lies under agents. They inherit from one another, one parent each."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from perdure.domain.ids import HarnessId, ModelId
from perdure.domain.paging import AllowedAction
from perdure.domain.resources import Description, DisplayName, Files, LifeStatus, Name
from perdure.domain.sessions import InitialFile, NetworkAccess, Prompt, Tags
from perdure.domain.times import Timestamp
from perdure.domain.tools import Capabilities, CapabilityRef

MAX_DEPTH = 8
"""Harnesses in one line of inheritance, the lowest included: bounds the work of assembling a turn."""

Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=100)], Annotated[str, Meta(max_length=2000)]],
    Meta(max_length=50),
]


class CreateHarness(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/harnesses`."""

    name: Name
    display_name: DisplayName | None = None
    description: Description | None = None
    parent_harness_id: str | None = None
    system_prompt: Prompt | None = None
    default_model_id: str | None = None
    capabilities: Capabilities = ()
    tags: Tags = ()
    initial_files: Files = ()
    network_access: NetworkAccess | None = None
    embedder_metadata: Metadata | None = None


class UpdateHarness(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/harnesses/{harness_id}`."""

    name: Name | UnsetType = UNSET
    display_name: DisplayName | None | UnsetType = UNSET
    description: Description | None | UnsetType = UNSET
    parent_harness_id: str | None | UnsetType = UNSET
    system_prompt: Prompt | None | UnsetType = UNSET
    default_model_id: str | None | UnsetType = UNSET
    capabilities: Capabilities | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    initial_files: Files | UnsetType = UNSET
    network_access: NetworkAccess | None | UnsetType = UNSET
    embedder_metadata: Metadata | None | UnsetType = UNSET
    status: LifeStatus | UnsetType = UNSET


class HarnessConfig(Struct, frozen=True, omit_defaults=True):
    """What a harness brings to a session."""

    capabilities: tuple[CapabilityRef, ...] = ()
    initial_files: tuple[InitialFile, ...] = ()
    network_access: NetworkAccess | None = None
    parallel_tool_calls: bool | None = None
    embedder_metadata: dict[str, str] | None = None


class Harness(Struct, frozen=True, omit_defaults=True):
    """A harness, as clients see it."""

    id: HarnessId
    name: str
    status: LifeStatus
    is_built_in: bool
    created_at: Timestamp
    updated_at: Timestamp
    self_url: str
    view_url: str
    ui_link: str
    capabilities: tuple[CapabilityRef, ...]
    tags: tuple[str, ...]
    system_prompt: str | None = None
    display_name: str | None = None
    description: str | None = None
    parent_harness_id: HarnessId | None = None
    default_model_id: ModelId | None = None
    initial_files: tuple[InitialFile, ...] = ()
    network_access: NetworkAccess | None = None
    parallel_tool_calls: bool | None = None
    embedder_metadata: dict[str, str] | None = None
    archived_at: Timestamp | None = None
    deleted_at: Timestamp | None = None
    session_count: int | UnsetType = UNSET
    app_count: int | UnsetType = UNSET
    allowed_actions: tuple[AllowedAction, ...] = ()

    def editable(self) -> Harness:
        """What a client can change: all but the counts."""
        return structs.replace(self, session_count=UNSET, app_count=UNSET)


class HarnessExample(Struct, frozen=True, omit_defaults=True):
    """A harness to begin with.

    `parent_name` names a harness of the organization; `dev_only` ones are for trying out.
    """

    name: str
    display_name: str
    description: str
    capabilities: tuple[CapabilityRef, ...]
    tags: tuple[str, ...]
    dev_only: bool
    parent_name: str | None = None
