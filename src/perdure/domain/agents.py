"""Harnesses and agents: the two lower layers under a session, and the names they go by."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.links import AllowedAction
from perdure.domain.messages import JsonObject
from perdure.domain.sessions import InitialFile, NetworkAccess, Prompt, Tags
from perdure.domain.times import Timestamp
from perdure.domain.tools import Capabilities, CapabilityRef, ToolDefinition, Tools

LifeStatus = Literal["active", "archived", "deleted"]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", examples=["support-desk"])]
"""Addressable names (wire contract): lower-case words with hyphens, unique in the organization."""
DisplayName = Annotated[str, Meta(max_length=200)]
Description = Annotated[str, Meta(max_length=4000)]
Iterations = Annotated[int, Meta(ge=1, le=1000)]
Files = Annotated[tuple[InitialFile, ...], Meta(max_length=100)]


class CreateAgent(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/agents`: an agent with a known `id` or `name` is updated, else one is made."""

    name: Name
    system_prompt: Prompt
    id: str | None = None
    display_name: DisplayName | None = None
    description: Description | None = None
    harness_id: str | None = None
    harness_name: Annotated[str, Meta(max_length=64)] | None = None
    default_model_id: str | None = None
    capabilities: Capabilities = ()
    tools: Tools = ()
    tags: Tags = ()
    initial_files: Files = ()
    max_iterations: Iterations | None = None
    parallel_tool_calls: bool | None = None
    network_access: NetworkAccess | None = None


class UpdateAgent(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/agents/{agent_id}`."""

    name: Name | UnsetType = UNSET
    system_prompt: Prompt | UnsetType = UNSET
    display_name: DisplayName | None | UnsetType = UNSET
    description: Description | None | UnsetType = UNSET
    harness_id: str | UnsetType = UNSET
    harness_name: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    default_model_id: str | None | UnsetType = UNSET
    capabilities: Capabilities | UnsetType = UNSET
    tools: Tools | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    initial_files: Files | UnsetType = UNSET
    max_iterations: Iterations | None | UnsetType = UNSET
    parallel_tool_calls: bool | None | UnsetType = UNSET
    network_access: NetworkAccess | None | UnsetType = UNSET
    status: Literal["active", "archived"] | UnsetType = UNSET


class AgentConfig(Struct, frozen=True, omit_defaults=True):
    """What an agent brings to a session."""

    capabilities: tuple[CapabilityRef, ...] = ()
    tools: tuple[ToolDefinition, ...] = ()
    initial_files: tuple[InitialFile, ...] = ()
    max_iterations: int | None = None
    parallel_tool_calls: bool | None = None
    network_access: NetworkAccess | None = None


class Agent(Struct, frozen=True, omit_defaults=True):
    """An agent, as clients see it."""

    id: str
    name: str
    system_prompt: str
    harness_id: str
    status: LifeStatus
    created_at: Timestamp
    updated_at: Timestamp
    self_url: str
    view_url: str
    ui_link: str
    capabilities: tuple[CapabilityRef, ...]
    tools: tuple[ToolDefinition, ...]
    tags: tuple[str, ...]
    display_name: str | None = None
    description: str | None = None
    default_model_id: str | None = None
    initial_files: tuple[InitialFile, ...] = ()
    max_iterations: int | None = None
    parallel_tool_calls: bool | None = None
    network_access: NetworkAccess | None = None
    archived_at: Timestamp | None = None
    session_count: int | UnsetType = UNSET
    app_count: int | UnsetType = UNSET
    allowed_actions: tuple[AllowedAction, ...] = ()


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
    embedder_metadata: dict[str, str] | None = None


class HarnessConfig(Struct, frozen=True, omit_defaults=True):
    """What a harness brings to a session."""

    capabilities: tuple[CapabilityRef, ...] = ()
    initial_files: tuple[InitialFile, ...] = ()
    network_access: NetworkAccess | None = None
    parallel_tool_calls: bool | None = None
    embedder_metadata: dict[str, str] | None = None


class Harness(Struct, frozen=True, omit_defaults=True):
    """A harness, as clients see it."""

    id: str
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
    parent_harness_id: str | None = None
    default_model_id: str | None = None
    initial_files: tuple[InitialFile, ...] = ()
    network_access: NetworkAccess | None = None
    parallel_tool_calls: bool | None = None
    embedder_metadata: dict[str, str] | None = None
    archived_at: Timestamp | None = None
    session_count: int | UnsetType = UNSET
    app_count: int | UnsetType = UNSET
    allowed_actions: tuple[AllowedAction, ...] = ()


class CapabilityInfo(Struct, frozen=True, omit_defaults=True):
    """A capability that this server knows."""

    id: str
    name: str
    description: str
    status: Literal["available"]
    self_url: str
    view_url: str
    ui_link: str
    features: tuple[str, ...]
    dependencies: tuple[str, ...]
    category: str | None = None
    aliases: tuple[str, ...] = ()
    config_schema: JsonObject | None = None
    system_prompt: str | None = None
    tool_definitions: tuple[JsonObject, ...] = ()
    allowed_actions: tuple[AllowedAction, ...] = ()
