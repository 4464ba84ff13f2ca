"""Agents: a prompt, a model, capabilities and tools under a name."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from perdure.domain.ids import AgentId, AgentVersionId, HarnessId, ModelId
from perdure.domain.paging import AllowedAction
from perdure.domain.resources import AnyName, Description, DisplayName, Files, LifeStatus, Name
from perdure.domain.sessions import InitialFile, NetworkAccess, Prompt, Tags
from perdure.domain.times import Timestamp
from perdure.domain.tools import Capabilities, CapabilityRef, ToolDefinition, Tools

Iterations = Annotated[int, Meta(ge=1, le=1000)]


class CreateAgent(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/agents`: an agent with a known `id` or `name` is updated, else one is made."""

    name: Name
    system_prompt: Prompt
    id: str | None = None
    display_name: DisplayName | None = None
    description: Description | None = None
    harness_id: str | None = None
    harness_name: AnyName | None = None
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
    harness_name: AnyName | UnsetType = UNSET
    default_model_id: str | None | UnsetType = UNSET
    capabilities: Capabilities | UnsetType = UNSET
    tools: Tools | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    initial_files: Files | UnsetType = UNSET
    max_iterations: Iterations | None | UnsetType = UNSET
    parallel_tool_calls: bool | None | UnsetType = UNSET
    network_access: NetworkAccess | None | UnsetType = UNSET
    status: LifeStatus | UnsetType = UNSET


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

    id: AgentId
    name: str
    system_prompt: str
    harness_id: HarnessId
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
    default_model_id: ModelId | None = None
    initial_files: tuple[InitialFile, ...] = ()
    max_iterations: int | None = None
    parallel_tool_calls: bool | None = None
    network_access: NetworkAccess | None = None
    default_version_id: AgentVersionId | None = None
    forked_from_agent_id: AgentId | None = None
    forked_from_version_id: AgentVersionId | None = None
    root_agent_id: AgentId | None = None
    archived_at: Timestamp | None = None
    deleted_at: Timestamp | None = None
    session_count: int | UnsetType = UNSET
    app_count: int | UnsetType = UNSET
    allowed_actions: tuple[AllowedAction, ...] = ()

    def editable(self) -> Agent:
        """What a client can change: all but the counts."""
        return structs.replace(self, session_count=UNSET, app_count=UNSET)
