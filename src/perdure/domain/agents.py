"""Agents: named configurations of a prompt, a model, capabilities and tools."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from perdure.domain.ids import (
    AgentId,
    AgentIdText,
    AgentVersionId,
    HarnessId,
    HarnessIdText,
    ModelId,
    ModelIdText,
)
from perdure.domain.layer_fields import (
    CAPABILITIES,
    DEFAULT_MODEL_ID,
    DESCRIPTION,
    DISPLAY_NAME,
    EXPOSE_MCP,
    FALLBACK_MODELS,
    HARNESS_ID,
    HARNESS_NAME,
    INITIAL_FILES,
    MAX_ITERATIONS,
    MCP_SERVERS,
    NAME,
    NETWORK_ACCESS,
    OUTPUT_SCHEMA,
    PARALLEL_TOOL_CALLS,
    RESPONSE_FORMAT,
    SYSTEM_PROMPT,
    TAGS,
    TOOLS,
    VARIABLES,
    FallbackModels,
)
from perdure.domain.mcp_servers import MCP_NAMES, InlineMcpServer, InlineMcpServers
from perdure.domain.outputs import OutputSchema, ResponseFormat
from perdure.domain.paging import AllowedActions, SelfUrl, UiLink, ViewUrl
from perdure.domain.resources import AnyName, Description, DisplayName, Files, LifeStatus, Name
from perdure.domain.sessions import InitialFile, NetworkAccess, Prompt, Tags
from perdure.domain.times import ArchivedAt, CreatedAt, DeletedAt, UpdatedAt
from perdure.domain.tools import Capabilities, CapabilityRef, ToolDefinition, Tools
from perdure.domain.variables import Variable, Variables

Iterations = Annotated[int, Meta(ge=1, le=1000)]


_LINK = Meta(examples=["/v1/agents/agent_0192f0c1b2a37b5c8d4e5f60718293a4"])


class CreateAgent(Struct, frozen=True, omit_defaults=True, rename=MCP_NAMES):
    """The body of `POST /v1/agents`: updates the agent with this `id` or `name`, or creates one."""

    name: Annotated[Name, NAME]
    system_prompt: Annotated[Prompt, SYSTEM_PROMPT]
    id: Annotated[
        AgentIdText | None, Meta(description="An id that you choose, or the id of the agent to replace.")
    ] = None
    display_name: Annotated[DisplayName | None, DISPLAY_NAME] = None
    description: Annotated[Description | None, DESCRIPTION] = None
    harness_id: Annotated[HarnessIdText | None, HARNESS_ID] = None
    harness_name: Annotated[AnyName | None, HARNESS_NAME] = None
    default_model_id: Annotated[ModelIdText | None, DEFAULT_MODEL_ID] = None
    capabilities: Annotated[Capabilities, CAPABILITIES] = ()
    tools: Annotated[Tools, TOOLS] = ()
    tags: Annotated[Tags, TAGS] = ()
    initial_files: Annotated[Files, INITIAL_FILES] = ()
    max_iterations: Annotated[Iterations | None, MAX_ITERATIONS] = None
    parallel_tool_calls: Annotated[bool | None, PARALLEL_TOOL_CALLS] = None
    network_access: Annotated[NetworkAccess | None, NETWORK_ACCESS] = None
    mcp_servers: Annotated[InlineMcpServers, MCP_SERVERS] = {}
    expose_mcp: Annotated[bool, EXPOSE_MCP] = False
    output_schema: Annotated[OutputSchema | None, OUTPUT_SCHEMA] = None
    variables: Annotated[Variables, VARIABLES] = {}
    fallback_models: Annotated[FallbackModels, FALLBACK_MODELS] = ()
    response_format: Annotated[ResponseFormat | None, RESPONSE_FORMAT] = None


class UpdateAgent(Struct, frozen=True, omit_defaults=True, rename=MCP_NAMES):
    """The body of `PATCH /v1/agents/{agent_id}`."""

    name: Annotated[Name | UnsetType, NAME] = UNSET
    system_prompt: Annotated[Prompt | UnsetType, SYSTEM_PROMPT] = UNSET
    display_name: Annotated[DisplayName | None | UnsetType, DISPLAY_NAME] = UNSET
    description: Annotated[Description | None | UnsetType, DESCRIPTION] = UNSET
    harness_id: Annotated[HarnessIdText | UnsetType, HARNESS_ID] = UNSET
    harness_name: Annotated[AnyName | UnsetType, HARNESS_NAME] = UNSET
    default_model_id: Annotated[ModelIdText | None | UnsetType, DEFAULT_MODEL_ID] = UNSET
    capabilities: Annotated[Capabilities | UnsetType, CAPABILITIES] = UNSET
    tools: Annotated[Tools | UnsetType, TOOLS] = UNSET
    tags: Annotated[Tags | UnsetType, TAGS] = UNSET
    initial_files: Annotated[Files | UnsetType, INITIAL_FILES] = UNSET
    max_iterations: Annotated[Iterations | None | UnsetType, MAX_ITERATIONS] = UNSET
    parallel_tool_calls: Annotated[bool | None | UnsetType, PARALLEL_TOOL_CALLS] = UNSET
    network_access: Annotated[NetworkAccess | None | UnsetType, NETWORK_ACCESS] = UNSET
    mcp_servers: Annotated[InlineMcpServers | None | UnsetType, MCP_SERVERS] = UNSET
    expose_mcp: Annotated[bool | UnsetType, EXPOSE_MCP] = UNSET
    output_schema: Annotated[OutputSchema | None | UnsetType, OUTPUT_SCHEMA] = UNSET
    variables: Annotated[Variables | None | UnsetType, VARIABLES] = UNSET
    fallback_models: Annotated[FallbackModels | None | UnsetType, FALLBACK_MODELS] = UNSET
    response_format: Annotated[ResponseFormat | None | UnsetType, RESPONSE_FORMAT] = UNSET
    status: Annotated[
        LifeStatus | UnsetType, Meta(description="The agent's status. `active` restores an archived agent.")
    ] = UNSET


class AgentConfig(Struct, frozen=True, omit_defaults=True):
    """An agent's configuration for a session.

    `expose_mcp` comes first: rows of agents are found by how their configuration begins.
    """

    expose_mcp: bool = False
    capabilities: tuple[CapabilityRef, ...] = ()
    tools: tuple[ToolDefinition, ...] = ()
    initial_files: tuple[InitialFile, ...] = ()
    max_iterations: int | None = None
    parallel_tool_calls: bool | None = None
    network_access: NetworkAccess | None = None
    mcp_servers: dict[str, InlineMcpServer] = {}
    output_schema: OutputSchema | None = None
    variables: dict[str, Variable] | None = None
    """None: the prompt has none, and was perhaps stored by a release without variables. It stays as it is."""
    fallback_models: tuple[str, ...] = ()


class Agent(Struct, frozen=True, omit_defaults=True, rename=MCP_NAMES):
    """An agent."""

    id: Annotated[AgentId, Meta(description="The agent's id.")]
    name: Annotated[str, NAME, Meta(examples=["support-desk"])]
    system_prompt: Annotated[str, SYSTEM_PROMPT, Meta(examples=["You answer questions about orders."])]
    harness_id: Annotated[HarnessId, HARNESS_ID]
    status: Annotated[
        LifeStatus,
        Meta(
            description="The agent's status. An `archived` agent is hidden from lists and starts no sessions."
        ),
    ]
    created_at: CreatedAt
    updated_at: UpdatedAt
    self_url: Annotated[SelfUrl, _LINK]
    view_url: Annotated[ViewUrl, _LINK]
    ui_link: Annotated[UiLink, _LINK]
    capabilities: Annotated[
        tuple[CapabilityRef, ...], CAPABILITIES, Meta(examples=[[{"ref": "current_time"}]])
    ]
    tools: Annotated[tuple[ToolDefinition, ...], TOOLS, Meta(examples=[[]])]
    tags: Annotated[tuple[str, ...], TAGS, Meta(examples=[[]])]
    display_name: Annotated[str | None, DISPLAY_NAME] = None
    description: Annotated[str | None, DESCRIPTION] = None
    default_model_id: Annotated[ModelId | None, DEFAULT_MODEL_ID] = None
    initial_files: Annotated[tuple[InitialFile, ...], INITIAL_FILES] = ()
    max_iterations: Annotated[int | None, MAX_ITERATIONS] = None
    parallel_tool_calls: Annotated[bool | None, PARALLEL_TOOL_CALLS] = None
    network_access: Annotated[NetworkAccess | None, NETWORK_ACCESS] = None
    mcp_servers: Annotated[dict[str, InlineMcpServer], MCP_SERVERS] = {}
    expose_mcp: Annotated[bool, EXPOSE_MCP] = False
    output_schema: Annotated[OutputSchema | None, OUTPUT_SCHEMA] = None
    variables: Annotated[dict[str, Variable], VARIABLES] = {}
    fallback_models: Annotated[tuple[str, ...], FALLBACK_MODELS] = ()
    default_version_id: Annotated[
        AgentVersionId | None,
        Meta(description="The version that new sessions run. Without one, they follow the agent."),
    ] = None
    forked_from_agent_id: Annotated[
        AgentId | None, Meta(description="The agent that this one was forked from.")
    ] = None
    forked_from_version_id: Annotated[
        AgentVersionId | None, Meta(description="The version that this agent started from.")
    ] = None
    root_agent_id: Annotated[AgentId | None, Meta(description="The first agent in the chain of forks.")] = (
        None
    )
    archived_at: ArchivedAt = None
    deleted_at: DeletedAt = None
    session_count: Annotated[
        int | UnsetType, Meta(description="The number of sessions that use the agent.", examples=[3])
    ] = UNSET
    app_count: Annotated[int | UnsetType, Meta(description="Always 0.", examples=[0])] = UNSET
    allowed_actions: AllowedActions = ()

    def editable(self) -> Agent:
        """Return the agent without its counts: the part that a client can change."""
        return structs.replace(self, session_count=UNSET, app_count=UNSET)
