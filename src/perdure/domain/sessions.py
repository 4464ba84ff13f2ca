"""Sessions: the resource in the wire format, the bodies of requests, and their limits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.accounts import PrincipalSummary
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import (
    AgentId,
    AgentIdText,
    AgentVersionId,
    HarnessId,
    HarnessIdText,
    ModelIdText,
    OrgId,
    PrincipalIdText,
    SessionId,
    TaskId,
    Uuid,
    WorkspaceId,
    WorkspaceIdText,
)
from perdure.domain.layer_fields import (
    CAPABILITIES,
    FALLBACK_MODELS,
    HARNESS_ID,
    HARNESS_NAME,
    MAX_ITERATIONS,
    MCP_SERVERS,
    NETWORK_ACCESS,
    OUTPUT_SCHEMA,
    PARALLEL_TOOL_CALLS,
    RESPONSE_FORMAT,
    TAGS,
    TOOLS,
    VARIABLE_VALUES,
    FallbackModels,
)
from perdure.domain.mcp_servers import MCP_NAMES, InlineMcpServer, InlineMcpServers
from perdure.domain.messages import JsonObject, Usage
from perdure.domain.outputs import OutputSchema, ResponseFormat
from perdure.domain.paging import AllowedAction, AllowedActions, SelfUrl, UiLink, ViewUrl
from perdure.domain.parked import ParkedOn
from perdure.domain.session_metadata import METADATA, MetadataValue
from perdure.domain.subagents import Inheritance
from perdure.domain.times import CreatedAt, Timestamp, UpdatedAt
from perdure.domain.tools import Capabilities, CapabilityRef, ToolDefinition, Tools
from perdure.domain.variables import VariableValue, VariableValues

Source = Literal["chat", "api"]
"""Where clients may say that a session began; the server has further sources for sessions that it begins."""
ListOrder = Literal["created_at", "last_activity"]
Status = Literal["started", "active", "idle", "waiting_for_tool_results", "paused"]

MAX_TITLE = 500
MAX_TAGS = 50
MAX_TAG = 100
"""Limits of the wire contract, in characters and tags."""

Title = Annotated[
    str,
    Meta(
        max_length=MAX_TITLE,
        examples=["Refund of order 4711"],
        extra_json_schema={"pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"},
    ),
]
"""`clean_title` rejects control characters, with a clearer error than the pattern."""
Tags = Annotated[tuple[str, ...], Meta(max_length=MAX_TAGS, examples=[["support", "priority"]])]
Locale = Annotated[
    str, Meta(max_length=35, pattern=r"^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*$(?!\n)", examples=["en-GB"])
]
"""A BCP 47 language tag. RFC 5646 (4.4.1) recommends allowing 35 characters."""
Prompt = Annotated[str, Meta(max_length=200_000)]


_LINK = Meta(examples=["/v1/sessions/session_0192f0c1b2a37b5c8d4e5f60718293a4"])
_TITLE = Meta(description="What the session is about, for people. No control characters.")
_AGENT_ID = Meta(description="The agent that works in the session.")
_MODEL_ID = Meta(
    description=("The model of the session. It takes precedence over those of the agent and the harness.")
)
_LOCALE = Meta(description="The user's language, as a BCP 47 tag.")
_SESSION_PROMPT = Meta(
    description="Further instructions for the model, in addition to those of the harness and the agent."
)
_SOURCE = Meta(
    description="Where the session began: `chat` with a person, or `api` with a program. Default: `api`."
)
_HINTS = Meta(description="What the client tells the server about itself.")


class InitialFile(Struct, frozen=True, omit_defaults=True):
    """A file that a session starts with."""

    path: Annotated[str, Meta(description="The absolute path of the file.", min_length=1, max_length=1024)]
    content: Annotated[str, Meta(description="The content: text, or base64.")]
    encoding: Annotated[Literal["text", "base64"], Meta(description="The encoding of `content`.")] = "text"
    is_readonly: Annotated[bool, Meta(description="Whether the file is protected from changes.")] = False


HostPattern = Annotated[
    str, Meta(max_length=300, pattern=r"^(?![0-9A-Fa-f:.]+/[0-9]+\s*$)\s*[^\s/]", examples=["*.example.com"])
]
"""A host, `*.` and a host, or the URL of a page on a host. The pattern rejects ranges such as `10.0.0.0/8`,
which would match only their first address."""


class NetworkAccess(Struct, frozen=True, omit_defaults=True):
    """Which hosts the session's tools may reach."""

    allowed: Annotated[
        tuple[HostPattern, ...],
        Meta(description="The hosts that may be reached. Empty: all.", max_length=500),
    ] = ()
    blocked: Annotated[
        tuple[HostPattern, ...], Meta(description="The hosts that must not be reached.", max_length=500)
    ] = ()


class CreateSession(Struct, frozen=True, omit_defaults=True, rename=MCP_NAMES):
    """The body of `POST /v1/sessions`.

    All fields are optional. Without a harness, the session gets the agent's, or else the organization's
    default.
    """

    harness_id: Annotated[HarnessIdText | None, HARNESS_ID] = None
    harness_name: Annotated[
        Annotated[str, Meta(max_length=64, examples=["generic"])] | None, HARNESS_NAME
    ] = None
    agent_id: Annotated[AgentIdText | None, _AGENT_ID] = None
    agent_name: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="The name of the agent. Give this or `agent_id`, not both."),
    ] = None
    title: Annotated[Title | None, _TITLE] = None
    tags: Annotated[Tags, TAGS] = ()
    locale: Annotated[Locale | None, _LOCALE] = None
    model_id: Annotated[ModelIdText | None, _MODEL_ID] = None
    capabilities: Annotated[Capabilities, CAPABILITIES] = ()
    tools: Annotated[Tools, TOOLS] = ()
    system_prompt: Annotated[Prompt | None, _SESSION_PROMPT] = None
    max_iterations: Annotated[Annotated[int, Meta(ge=1, le=1000)] | None, MAX_ITERATIONS] = None
    parallel_tool_calls: Annotated[bool | None, PARALLEL_TOOL_CALLS] = None
    initial_files: Annotated[
        tuple[InitialFile, ...], Meta(description="The files that the session starts with.", max_length=100)
    ] = ()
    network_access: Annotated[NetworkAccess | None, NETWORK_ACCESS] = None
    hints: Annotated[JsonObject | None, _HINTS] = None
    workspace_id: Annotated[
        WorkspaceIdText | None,
        Meta(description="An existing workspace to work in. Default: a new workspace of the session's own."),
    ] = None
    source: Annotated[Source | None, _SOURCE] = None
    metadata: Annotated[dict[str, MetadataValue], METADATA] = {}
    mcp_servers: Annotated[InlineMcpServers, MCP_SERVERS] = {}
    output_schema: Annotated[OutputSchema | None, OUTPUT_SCHEMA] = None
    variables: Annotated[VariableValues, VARIABLE_VALUES] = {}
    fallback_models: Annotated[FallbackModels, FALLBACK_MODELS] = ()
    response_format: Annotated[ResponseFormat | None, RESPONSE_FORMAT] = None


class UpdateSession(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/sessions/{session_id}`: absent fields do not change, null clears a field."""

    title: Annotated[Title | None | UnsetType, _TITLE] = UNSET
    tags: Annotated[Tags | UnsetType, TAGS] = UNSET
    locale: Annotated[Locale | None | UnsetType, _LOCALE] = UNSET
    model_id: Annotated[ModelIdText | None | UnsetType, _MODEL_ID] = UNSET
    metadata: Annotated[
        dict[str, MetadataValue | None] | None | UnsetType,
        Meta(
            description=(
                "Changes to the client's own names and texts: a text sets a name, `null` removes it, and the "
                "others stay. `null` for the whole removes them all."
            ),
            examples=[{"customer": "4711", "draft": None}],
        ),
    ] = UNSET
    variables: Annotated[
        VariableValues | None | UnsetType,
        Meta(
            description=(
                "Values of the variables in the agent's prompt, by name. They replace all earlier ones; "
                "`null` removes them."
            )
        ),
    ] = UNSET


class SessionConfig(Struct, frozen=True, omit_defaults=True):
    """A session's own layer, in addition to those of its harness and agent.

    It is fixed at creation, except that MCP servers may be removed and values of variables replaced.
    """

    capabilities: tuple[CapabilityRef, ...] = ()
    tools: tuple[ToolDefinition, ...] = ()
    system_prompt: str | None = None
    max_iterations: int | None = None
    parallel_tool_calls: bool | None = None
    initial_files: tuple[InitialFile, ...] = ()
    network_access: NetworkAccess | None = None
    hints: JsonObject | None = None
    mcp_servers: dict[str, InlineMcpServer] = {}
    output_schema: OutputSchema | None = None
    variables: dict[str, VariableValue] = {}
    fallback_models: tuple[str, ...] = ()
    blueprint: str | None = None
    """The name of what a sub-agent was begun as."""
    inherited: tuple[Inheritance, ...] = ()
    """The policies of the sessions above a sub-agent's, where its own layers lack them."""


class Session(Struct, frozen=True, omit_defaults=True, rename=MCP_NAMES):
    """A session in the wire format."""

    id: Annotated[SessionId, Meta(description="The session's id.")]
    organization_id: Annotated[OrgId, Meta(description="The organization that owns the session.")]
    harness_id: Annotated[HarnessId, HARNESS_ID]
    owner_principal_id: Annotated[
        PrincipalIdText, Meta(description="The principal that created the session.")
    ]
    workspace_id: Annotated[WorkspaceId, Meta(description="The workspace that holds the session's files.")]
    status: Annotated[
        Status,
        Meta(
            description=(
                "`started`: no turn yet; `active`: a turn runs, or waits for a callback; `idle`: waits for a "
                "message; `waiting_for_tool_results`: waits for a client; `paused`: stopped by a budget."
            ),
            examples=["idle"],
        ),
    ]
    created_at: CreatedAt
    updated_at: UpdatedAt
    self_url: Annotated[SelfUrl, _LINK]
    view_url: Annotated[ViewUrl, _LINK]
    ui_link: Annotated[UiLink, _LINK]
    tags: Annotated[tuple[str, ...], TAGS, Meta(examples=[["support"]])]
    capabilities: Annotated[
        tuple[CapabilityRef, ...], CAPABILITIES, Meta(examples=[[{"ref": "current_time"}]])
    ]
    tools: Annotated[tuple[ToolDefinition, ...], TOOLS, Meta(examples=[[]])]
    source: Annotated[
        str,
        Meta(
            description="Where the session began: `chat`, `api`, or the part of the server that made it.",
            examples=["api"],
        ),
    ]
    features: Annotated[
        tuple[str, ...],
        Meta(
            description=(
                "The features that the active capabilities provide: "
                "`file_system`, `schedules`, `secrets` and so on."
            ),
            examples=[["file_system"]],
        ),
    ]
    agent_id: Annotated[
        AgentId | None, _AGENT_ID, Meta(examples=["agent_0192f0c1b2a37b5c8d4e5f60718293a4"])
    ] = None
    agent_version_id: Annotated[
        AgentVersionId | None,
        Meta(
            description="The version of the agent that the session runs. Without one, it follows the agent."
        ),
    ] = None
    created_with_agent_id: Annotated[
        AgentId | None,
        Meta(description="The agent that the session was created with, if it has been handed off since."),
    ] = None
    title: Annotated[str | None, _TITLE, Meta(examples=["Refund of order 4711"])] = None
    locale: Annotated[str | None, _LOCALE] = None
    model_id: Annotated[ModelIdText | None, _MODEL_ID] = None
    system_prompt: Annotated[str | None, _SESSION_PROMPT] = None
    max_iterations: Annotated[int | None, MAX_ITERATIONS] = None
    parallel_tool_calls: Annotated[bool | None, PARALLEL_TOOL_CALLS] = None
    initial_files: Annotated[
        tuple[InitialFile, ...], Meta(description="The files that the session started with.")
    ] = ()
    network_access: Annotated[NetworkAccess | None, NETWORK_ACCESS] = None
    hints: Annotated[JsonObject | None, _HINTS] = None
    mcp_servers: Annotated[dict[str, InlineMcpServer], MCP_SERVERS] = {}
    output_schema: Annotated[OutputSchema | None, OUTPUT_SCHEMA] = None
    variables: Annotated[dict[str, VariableValue], VARIABLE_VALUES] = {}
    fallback_models: Annotated[tuple[str, ...], FALLBACK_MODELS] = ()
    is_pinned: Annotated[
        bool | None, Meta(description="Whether the caller has pinned the session.", examples=[False])
    ] = None
    active_schedule_count: Annotated[int | None, Meta(description="The number of active schedules.")] = None
    preview: Annotated[
        str | None, Meta(description="The start of the first message.", examples=["Where is my refund?"])
    ] = None
    output_preview: Annotated[
        str | None, Meta(description="The start of the last answer.", examples=["It is on its way."])
    ] = None
    usage: Annotated[
        Usage | None,
        Meta(
            description="The usage of all model calls of the session.",
            examples=[{"input_tokens": 812, "output_tokens": 34, "cache_read_tokens": 768}],
        ),
    ] = None
    forked_from_session_id: Annotated[
        SessionId | None, Meta(description="The session that this one was forked from.")
    ] = None
    forked_from_sequence: Annotated[
        int | None, Meta(description="The sequence number of the last event that was copied by the fork.")
    ] = None
    parent_session_id: Annotated[
        SessionId | None, Meta(description="The session that made this one, if one did.")
    ] = None
    root_session_id: Annotated[
        SessionId | None, Meta(description="The session at the top of the tree that this one is in.")
    ] = None
    task_id: Annotated[
        TaskId | None, Meta(description="The task of the parent session that this session works on.")
    ] = None
    blueprint_id: Annotated[str | None, Meta(description="The blueprint of a sub-agent's session.")] = None
    metadata: Annotated[dict[str, str], METADATA] = {}
    archived_at: Annotated[
        Timestamp | None,
        Meta(description="When the session was archived. Lists leave archived sessions out."),
    ] = None
    held_at: Annotated[Timestamp | None, Meta(description="Since when nobody may delete the session.")] = None
    started_at: Annotated[
        Timestamp | None,
        Meta(description="When the first turn started.", examples=["2026-03-14T09:26:53.589793Z"]),
    ] = None
    finished_at: Annotated[Timestamp | None, Meta(description="When the session ended permanently.")] = None
    parked_on: Annotated[
        tuple[ParkedOn, ...],
        Meta(description="The tool calls that the session waits for. Absent without any."),
    ] = ()
    owner: Annotated[
        PrincipalSummary | None,
        Meta(
            description="The principal that created the session, with its kind.",
            examples=[
                {
                    "id": "principal_0192f0c1b2a37b5c8d4e5f60718293a4",
                    "kind": "user",
                    "subject_id": "0192f0c1-b2a3-7b5c-8d4e-5f60718293a4",
                }
            ],
        ),
    ] = None
    effective_owner: Annotated[
        PrincipalSummary | None,
        Meta(description="The same as `owner`, as no principal acts on behalf of another."),
    ] = None
    resolved_owner_user_id: Annotated[
        Uuid | None,
        Meta(
            description="The UUID in the id of the user who created the session.",
            examples=["0192f0c1-b2a3-7b5c-8d4e-5f60718293a4"],
        ),
    ] = None
    allowed_actions: Annotated[
        AllowedActions,
        Meta(
            examples=[
                [
                    {
                        "rel": "self",
                        "method": "GET",
                        "href": "/v1/sessions/session_0192f0c1b2a37b5c8d4e5f60718293a4",
                        "operation_id": "get_session",
                    },
                    {
                        "rel": "delete",
                        "method": "DELETE",
                        "href": "/v1/sessions/session_0192f0c1b2a37b5c8d4e5f60718293a4",
                        "operation_id": "delete_session",
                    },
                ]
            ]
        ),
    ] = ()

    def editable(self) -> tuple[object, ...]:
        """The values of the fields that clients can change."""
        return editable_fields(
            self.title, self.tags, self.locale, self.model_id, self.metadata, self.variables
        )


def editable_fields(
    title: str | None,
    tags: tuple[str, ...],
    locale: str | None,
    model_id: str | None,
    metadata: dict[str, str],
    variables: dict[str, VariableValue],
) -> tuple[object, ...]:
    """The values of the fields of `UpdateSession`, which clients can change."""
    return title, tags, locale, model_id, metadata, *([variables] if variables else ())


class ForkSession(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/sessions/{session_id}/fork`: absent fields are copied from the original."""

    from_sequence: Annotated[
        Annotated[int, Meta(ge=1, le=2_147_483_647)] | None,
        Meta(description="The sequence number of the last event to copy. Default: the whole log."),
    ] = None
    title: Annotated[Title | None, _TITLE] = None
    tags: Annotated[Tags | None, TAGS] = None
    agent_id: Annotated[AgentIdText | None, _AGENT_ID] = None
    model_id: Annotated[ModelIdText | None, _MODEL_ID] = None
    locale: Annotated[Locale | None, _LOCALE] = None
    system_prompt: Annotated[Prompt | None, _SESSION_PROMPT] = None
    variables: Annotated[VariableValues | None, VARIABLE_VALUES] = None


def clean_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Trim the tags and remove duplicates; keeps their order.

    Raises:
        InvalidInput: an empty tag, one over 100 characters, one with control characters, or more than 50.
    """
    seen: dict[str, None] = {}
    for index, tag in enumerate(tags):
        trimmed = tag.strip()
        where = f"tags[{index}]"
        if not trimmed:
            raise InvalidInput(f"`{where}` must not be empty", field=where)
        if len(trimmed) > MAX_TAG:
            raise InvalidInput(f"`{where}` must have at most {MAX_TAG} characters", field=where)
        if has_control(trimmed):
            raise InvalidInput(f"`{where}` must not contain control characters", field=where)
        seen[trimmed] = None
    if len(seen) > MAX_TAGS:
        raise InvalidInput(f"`tags` must have at most {MAX_TAGS} entries", field="tags")
    return tuple(seen)


def clean_title(title: str | None) -> str | None:
    """Check a title, and return it unchanged.

    Raises:
        InvalidInput: it contains control characters.
    """
    if title is not None and has_control(title):
        raise InvalidInput("`title` must not contain control characters", field="title")
    return title


_FORK_MARK = re.compile(r"^(.*) \(fork(?: (\d{1,9}))?\)$", re.DOTALL)


def title_of_fork(title: str | None) -> str | None:
    """Mark a title as a fork's: `Plan (fork)`; a fork of that is `Plan (fork 2)`. No title stays none."""
    if title is None:
        return None
    marked = _FORK_MARK.match(title)
    base, number = (title, 1) if marked is None else (marked[1], int(marked[2] or 1) + 1)
    mark = " (fork)" if number == 1 else f" (fork {number})"
    return base[: MAX_TITLE - len(mark)] + mark


def has_control(text: str) -> bool:
    """Whether the text contains a C0 or C1 control character."""
    return any(ch < " " or "\x7f" <= ch <= "\x9f" for ch in text) if not text.isprintable() else False


def action_links(session_id: SessionId, status: Status, pinned: bool) -> tuple[AllowedAction, ...]:
    """The actions that the caller may take on a session in this status."""
    base = f"/v1/sessions/{session_id}"
    actions = [
        AllowedAction("self", "GET", base, "get_session"),
        AllowedAction("events", "GET", f"{base}/events", "list_events"),
        AllowedAction("update", "PATCH", base, "update_session"),
        AllowedAction("delete", "DELETE", base, "delete_session"),
        AllowedAction("unpin", "DELETE", f"{base}/pin", "unpin_session")
        if pinned
        else AllowedAction("pin", "PUT", f"{base}/pin", "pin_session"),
    ]
    if status == "paused":
        actions.append(
            AllowedAction(
                "resume", "POST", f"{base}/resume", "resume_session_budgets", "Go on, if there is money"
            )
        )
    if status in ("active", "waiting_for_tool_results", "paused"):
        actions.append(
            AllowedAction("cancel", "POST", f"{base}/cancel", "cancel_turn", "Stop the running turn")
        )
    return tuple(actions)
