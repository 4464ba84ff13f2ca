"""What clients see of MCP servers beside the servers themselves: their tools, checks, and use in sessions."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.ids import McpServerId
from perdure.domain.mcp_servers import Headers, McpAuthMode, McpProtocolMode, McpTransport, ToolMode
from perdure.domain.messages import JsonObject

Label = Annotated[str, Meta(min_length=1, max_length=100)]
_TOOL_NAME = Meta(description="The tool's name at the server.", examples=["create_issue"])
_DEFINITION = Meta(description="The digest of its description, schema and annotations.")
_LABEL = Meta(description="The name of the tool for people, as it was set here.")


class McpToolHints(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What a tool says about itself. A hint that the server does not give is absent."""

    read_only_hint: Annotated[bool | None, Meta(description="The tool changes nothing.")] = None
    destructive_hint: Annotated[bool | None, Meta(description="The tool may delete or overwrite.")] = None
    idempotent_hint: Annotated[bool | None, Meta(description="A repeated call has no further effect.")] = None
    open_world_hint: Annotated[bool | None, Meta(description="The tool talks to the outside world.")] = None


class McpToolInfo(Struct, frozen=True, omit_defaults=True):
    """A tool of a server, and what happens when a model calls it."""

    name: Annotated[
        str, Meta(description="The name that models call it by.", examples=["mcp_issues__create_issue"])
    ]
    original_name: Annotated[str, _TOOL_NAME]
    description: Annotated[
        str, Meta(description="The server's description of it.", examples=["Create an issue."])
    ]
    mode: Annotated[
        ToolMode,
        Meta(description="`auto`: it runs; `ask`: it asks for approval; `deny`: models do not get it."),
    ]
    input_schema: Annotated[
        JsonObject,
        Meta(description="The JSON Schema of its arguments, as the server has it.", examples=[{}]),
    ]
    annotations: Annotated[McpToolHints, Meta(description="What the tool says about itself.", examples=[{}])]
    title: Annotated[str | None, Meta(description="The server's name of the tool for people.")] = None
    label: Annotated[str | None, _LABEL] = None
    changed: Annotated[
        bool,
        Meta(
            description=(
                "Whether its description or schema has changed since it was first seen or last accepted: its "
                "calls ask for approval."
            )
        ),
    ] = False
    definition: Annotated[str | None, _DEFINITION] = None
    warnings: Annotated[
        tuple[str, ...], Meta(description="What of its schema is changed for models, or left out.")
    ] = ()


class McpToolList(Struct, frozen=True):
    """The tools that a server offers now."""

    data: Annotated[tuple[McpToolInfo, ...], Meta(description="The tools, as the server orders them.")]
    faults: Annotated[
        tuple[str, ...], Meta(description="Why tools of the server are left out.", examples=[[]])
    ]


CheckCode = Literal[
    "name_not_found", "address_refused", "connection_refused", "tls_failed", "sign_in_required",
    "access_refused", "wrong_path", "not_mcp", "too_slow", "refused",
    "not_started", "unreachable",
]  # fmt: skip


class McpFault(Struct, frozen=True, omit_defaults=True):
    """What is wrong with a server, and what helps."""

    code: Annotated[CheckCode, Meta(description="What is wrong, for programs.", examples=["wrong_path"])]
    message: Annotated[str, Meta(description="What is wrong, for people.")]
    hint: Annotated[str | None, Meta(description="What to do about it.")] = None


class McpCheck(Struct, frozen=True, omit_defaults=True):
    """The result of a check: the server answered, or what is wrong."""

    ok: Annotated[bool, Meta(description="Whether the server answered with its tools.", examples=[True])]
    latency_ms: Annotated[int, Meta(description="How long the check took, in milliseconds.", examples=[84])]
    era: Annotated[
        Literal["legacy", "stateless"] | None,
        Meta(description="`legacy`: the protocol with sessions, until 2025-11-25.", examples=["stateless"]),
    ] = None
    protocol: Annotated[str | None, Meta(description="The protocol's revision.", examples=["2026-07-28"])] = (
        None
    )
    server_name: Annotated[str | None, Meta(description="The server's own name.")] = None
    server_version: Annotated[str | None, Meta(description="The server's version.")] = None
    tool_count: Annotated[int | None, Meta(description="The number of its tools.", examples=[12])] = None
    faults: Annotated[tuple[str, ...], Meta(description="Why tools are left out.")] = ()
    notes: Annotated[tuple[str, ...], Meta(description="What the check could not include.")] = ()
    error: Annotated[McpFault | None, Meta(description="What is wrong.")] = None


class SetMcpToolLabel(Struct, frozen=True):
    """The body of `PUT /v1/mcp-servers/{id}/tools/{tool_name}/label`."""

    label: Annotated[
        Label | None | UnsetType,
        Meta(description="The name of the tool for people; null or nothing removes it."),
    ] = UNSET


class McpToolLabel(Struct, frozen=True):
    """A tool's label."""

    tool_name: Annotated[str, _TOOL_NAME]
    label: Annotated[str | None, _LABEL, Meta(examples=["New issue"])]


class SessionMcpServer(Struct, frozen=True, omit_defaults=True):
    """An MCP server that a session uses."""

    name: Annotated[str, Meta(description="The server's name.", examples=["Issues"])]
    level: Annotated[
        Literal["harness", "agent", "session"], Meta(description="Where it is turned on.", examples=["agent"])
    ]
    removable: Annotated[
        bool, Meta(description="Whether it can be removed from the session.", examples=[False])
    ]
    url: Annotated[
        str,
        Meta(
            description="The server's URL; empty for a local command of the operator.",
            examples=["https://mcp.example.com/mcp"],
        ),
    ]
    type: Annotated[McpTransport, Meta(description="How the server is reached.")] = "http"
    auth_mode: Annotated[McpAuthMode, Meta(description="How requests authenticate.")] = "none"
    protocol_mode: Annotated[McpProtocolMode, Meta(description="The protocol's revision.")] = "auto"
    headers: Annotated[Headers, Meta(description="The headers; stored values are `***`.")] = {}
    server_id: Annotated[McpServerId | None, Meta(description="The id, if it is a registered server.")] = None
    available: Annotated[
        bool, Meta(description="False if the registered server is disabled, archived or deleted.")
    ] = True


class AcceptMcpTool(Struct, frozen=True):
    """The body of `POST /v1/mcp-servers/{id}/tools/{tool_name}/accept`."""

    definition: Annotated[
        str | None,
        Meta(description="The `definition` of the tool that was read: 409 if it is another one by now."),
    ] = None


class AcceptedMcpTool(Struct, frozen=True):
    """A tool whose definition is accepted."""

    tool_name: Annotated[str, _TOOL_NAME]
    definition: Annotated[str, _DEFINITION, Meta(examples=["9f86d081884c7d65"])]


class McpPromptArgumentInfo(Struct, frozen=True):
    """An argument of a prompt; its value is a text."""

    name: Annotated[str, Meta(description="The argument's name.", examples=["city"])]
    description: Annotated[str, Meta(description="What it means.", examples=["The city to describe."])]
    required: Annotated[bool, Meta(description="Whether the prompt needs it.", examples=[True])]


class McpPromptInfo(Struct, frozen=True, omit_defaults=True):
    """A prompt of a server."""

    name: Annotated[str, Meta(description="The prompt's name.", examples=["describe_city"])]
    description: Annotated[
        str, Meta(description="The server's description of it.", examples=["Describe a city."])
    ]
    arguments: Annotated[tuple[McpPromptArgumentInfo, ...], Meta(description="Its arguments.", examples=[[]])]
    title: Annotated[str | None, Meta(description="The server's name of the prompt for people.")] = None


class PostMcpPrompt(Struct, frozen=True):
    """The body of `POST /v1/sessions/{session_id}/mcp-prompts`."""

    server: Annotated[
        str,
        Meta(
            description="The server: its id, its name, or the part of its tools' names after `mcp_`.",
            min_length=1,
            max_length=200,
        ),
    ]
    name: Annotated[str, Meta(description="The prompt's name.", min_length=1, max_length=200)]
    arguments: Annotated[
        dict[Annotated[str, Meta(max_length=200)], Annotated[str, Meta(max_length=20_000)]],
        Meta(description="The prompt's arguments.", max_length=50),
    ] = {}
