"""Harnesses: the base configurations of agents and sessions. A harness inherits from at most one parent."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from perdure.domain.ids import HarnessId, HarnessIdText, ModelId, ModelIdText
from perdure.domain.layer_fields import (
    CAPABILITIES,
    DEFAULT_MODEL_ID,
    DESCRIPTION,
    DISPLAY_NAME,
    INITIAL_FILES,
    MCP_SERVERS,
    NAME,
    NETWORK_ACCESS,
    PARALLEL_TOOL_CALLS,
    PARENT_HARNESS_ID,
    SYSTEM_PROMPT,
    TAGS,
)
from perdure.domain.mcp_servers import MCP_NAMES, InlineMcpServer, InlineMcpServers
from perdure.domain.paging import AllowedActions, SelfUrl, UiLink, ViewUrl
from perdure.domain.resources import Description, DisplayName, Files, LifeStatus, Name
from perdure.domain.sessions import InitialFile, NetworkAccess, Prompt, Tags
from perdure.domain.times import ArchivedAt, CreatedAt, DeletedAt, UpdatedAt
from perdure.domain.tools import Capabilities, CapabilityRef

MAX_DEPTH = 8
"""Maximum number of harnesses in one chain of inheritance: bounds the work of assembling a turn."""

Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=100)], Annotated[str, Meta(max_length=2000)]],
    Meta(max_length=50),
]


_LINK = Meta(examples=["/v1/harnesses/harness_0192f0c1b2a37b5c8d4e5f60718293a4"])
_EMBEDDER_METADATA = Meta(
    description=(
        "Key-value pairs for the program that embeds this server. The server does not interpret them."
    )
)


class CreateHarness(Struct, frozen=True, omit_defaults=True, rename=MCP_NAMES):
    """The body of `POST /v1/harnesses`."""

    name: Annotated[Name, NAME]
    display_name: Annotated[DisplayName | None, DISPLAY_NAME] = None
    description: Annotated[Description | None, DESCRIPTION] = None
    parent_harness_id: Annotated[HarnessIdText | None, PARENT_HARNESS_ID] = None
    system_prompt: Annotated[Prompt | None, SYSTEM_PROMPT] = None
    default_model_id: Annotated[ModelIdText | None, DEFAULT_MODEL_ID] = None
    capabilities: Annotated[Capabilities, CAPABILITIES] = ()
    tags: Annotated[Tags, TAGS] = ()
    initial_files: Annotated[Files, INITIAL_FILES] = ()
    network_access: Annotated[NetworkAccess | None, NETWORK_ACCESS] = None
    embedder_metadata: Annotated[Metadata | None, _EMBEDDER_METADATA] = None
    mcp_servers: Annotated[InlineMcpServers, MCP_SERVERS] = {}


class UpdateHarness(Struct, frozen=True, omit_defaults=True, rename=MCP_NAMES):
    """The body of `PATCH /v1/harnesses/{harness_id}`."""

    name: Annotated[Name | UnsetType, NAME] = UNSET
    display_name: Annotated[DisplayName | None | UnsetType, DISPLAY_NAME] = UNSET
    description: Annotated[Description | None | UnsetType, DESCRIPTION] = UNSET
    parent_harness_id: Annotated[HarnessIdText | None | UnsetType, PARENT_HARNESS_ID] = UNSET
    system_prompt: Annotated[Prompt | None | UnsetType, SYSTEM_PROMPT] = UNSET
    default_model_id: Annotated[ModelIdText | None | UnsetType, DEFAULT_MODEL_ID] = UNSET
    capabilities: Annotated[Capabilities | UnsetType, CAPABILITIES] = UNSET
    tags: Annotated[Tags | UnsetType, TAGS] = UNSET
    initial_files: Annotated[Files | UnsetType, INITIAL_FILES] = UNSET
    network_access: Annotated[NetworkAccess | None | UnsetType, NETWORK_ACCESS] = UNSET
    embedder_metadata: Annotated[Metadata | None | UnsetType, _EMBEDDER_METADATA] = UNSET
    mcp_servers: Annotated[InlineMcpServers | None | UnsetType, MCP_SERVERS] = UNSET
    status: Annotated[
        LifeStatus | UnsetType,
        Meta(description="The harness's status. `active` restores an archived harness."),
    ] = UNSET


class HarnessConfig(Struct, frozen=True, omit_defaults=True):
    """A harness's configuration for a session."""

    capabilities: tuple[CapabilityRef, ...] = ()
    initial_files: tuple[InitialFile, ...] = ()
    network_access: NetworkAccess | None = None
    parallel_tool_calls: bool | None = None
    embedder_metadata: dict[str, str] | None = None
    mcp_servers: dict[str, InlineMcpServer] = {}


class Harness(Struct, frozen=True, omit_defaults=True, rename=MCP_NAMES):
    """A harness."""

    id: Annotated[HarnessId, Meta(description="The harness's id.")]
    name: Annotated[str, NAME, Meta(examples=["generic"])]
    status: Annotated[
        LifeStatus,
        Meta(
            description=(
                "The harness's status. An `archived` harness is hidden from lists and starts no sessions."
            )
        ),
    ]
    is_built_in: Annotated[
        bool,
        Meta(
            description="Whether the harness came with the server. It then cannot be changed.",
            examples=[True],
        ),
    ]
    created_at: CreatedAt
    updated_at: UpdatedAt
    self_url: Annotated[SelfUrl, _LINK]
    view_url: Annotated[ViewUrl, _LINK]
    ui_link: Annotated[UiLink, _LINK]
    capabilities: Annotated[
        tuple[CapabilityRef, ...],
        CAPABILITIES,
        Meta(examples=[[{"ref": "session_file_system"}, {"ref": "current_time"}]]),
    ]
    tags: Annotated[tuple[str, ...], TAGS, Meta(examples=[[]])]
    system_prompt: Annotated[str | None, SYSTEM_PROMPT] = None
    display_name: Annotated[str | None, DISPLAY_NAME, Meta(examples=["Generic"])] = None
    description: Annotated[
        str | None, DESCRIPTION, Meta(examples=["Files, a to-do list, the time and the session itself."])
    ] = None
    parent_harness_id: Annotated[HarnessId | None, PARENT_HARNESS_ID] = None
    default_model_id: Annotated[ModelId | None, DEFAULT_MODEL_ID] = None
    initial_files: Annotated[tuple[InitialFile, ...], INITIAL_FILES] = ()
    network_access: Annotated[NetworkAccess | None, NETWORK_ACCESS] = None
    parallel_tool_calls: Annotated[bool | None, PARALLEL_TOOL_CALLS] = None
    embedder_metadata: Annotated[dict[str, str] | None, _EMBEDDER_METADATA] = None
    mcp_servers: Annotated[dict[str, InlineMcpServer], MCP_SERVERS] = {}
    archived_at: ArchivedAt = None
    deleted_at: DeletedAt = None
    session_count: Annotated[
        int | UnsetType, Meta(description="The number of sessions that use the harness.", examples=[3])
    ] = UNSET
    app_count: Annotated[int | UnsetType, Meta(description="Always 0.", examples=[0])] = UNSET
    allowed_actions: AllowedActions = ()

    def editable(self) -> Harness:
        """Return the harness without its counts: the part that a client can change."""
        return structs.replace(self, session_count=UNSET, app_count=UNSET)


class BuiltInHarness(Struct, frozen=True):
    """A harness that every organization has, read-only, and that follows the code."""

    name: str
    display_name: str
    description: str
    capabilities: tuple[CapabilityRef, ...] = ()

    def config(self) -> HarnessConfig:
        """What it brings to a session."""
        return HarnessConfig(self.capabilities)


DEFAULT_HARNESS = "generic"
"""The built-in harness of sessions that name none (wire contract)."""

BUILT_IN_HARNESSES = (
    BuiltInHarness("base", "Base", "Nothing but the model."),
    BuiltInHarness(
        DEFAULT_HARNESS,
        "Generic",
        "Files with their instructions (AGENTS.md) and skills, a shell, web pages, schedules, a to-do list, "
        "questions to the user, the time and the session itself.",
        (
            CapabilityRef("session_file_system"),
            CapabilityRef("bashkit_shell"),
            CapabilityRef("session_storage"),
            CapabilityRef("session"),
            CapabilityRef("current_time"),
            CapabilityRef("stateless_todo_list"),
            CapabilityRef("ask_user"),
            CapabilityRef("agent_instructions"),
            CapabilityRef("context_compaction"),
            CapabilityRef("web_fetch"),
            CapabilityRef("session_schedule"),
            CapabilityRef("loop_detection"),
            CapabilityRef("skills", {"offer": "with_skills"}),
        ),
    ),
)


class HarnessExample(Struct, frozen=True, omit_defaults=True):
    """An example of a harness, to start from."""

    name: Annotated[str, NAME, Meta(examples=["notebook"])]
    display_name: Annotated[str, DISPLAY_NAME, Meta(examples=["Notebook"])]
    description: Annotated[str, DESCRIPTION, Meta(examples=["Keeps what it learns in files."])]
    capabilities: Annotated[
        tuple[CapabilityRef, ...], CAPABILITIES, Meta(examples=[[{"ref": "session_file_system"}]])
    ]
    tags: Annotated[tuple[str, ...], TAGS, Meta(examples=[["files"]])]
    dev_only: Annotated[
        bool, Meta(description="Whether the example is meant for trying things out only.", examples=[False])
    ]
    parent_name: Annotated[
        str | None,
        Meta(description="The name of the harness that the example inherits from.", examples=["base"]),
    ] = None
