"""What an MCP server offers and answers, independent of the protocol's revision."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from perdure.domain.errors import OutcomeUnknown, ToolError
from perdure.domain.mcp_skills import McpSkill
from perdure.domain.messages import JsonObject, JsonValue

Era = Literal["legacy", "stateless"]


class McpTool(Struct, frozen=True):
    """A tool as its server lists it, without control characters; hints are None where it gives none.

    Attributes:
        name: its name at the server.
        header_arguments: arguments, each with the header that repeats it (`x-mcp-header` of 2026-07-28).
    """

    name: str
    description: str = ""
    title: str | None = None
    input_schema: JsonObject = {}
    output_schema: JsonObject | None = None
    readonly: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None
    open_world: bool | None = None
    header_arguments: tuple[tuple[str, str], ...] = ()


class McpOffer(Struct, frozen=True):
    """What a server offers.

    Attributes:
        protocol: the negotiated revision, such as `2026-07-28`.
        ttl: seconds for which the list is fresh; None if the server does not say.
        faults: why tools were left out.
        skills: the skills that it lists.
    """

    era: Era
    protocol: str
    server_name: str
    server_version: str
    instructions: str
    tools: tuple[McpTool, ...]
    has_resources: bool = False
    has_prompts: bool = False
    ttl: float | None = None
    faults: tuple[str, ...] = ()
    skills: tuple[McpSkill, ...] = ()


class McpContent(Struct, frozen=True):
    """The result of a call: content blocks as JSON objects of the protocol, with bounds already checked."""

    content: tuple[JsonObject, ...]
    structured: JsonValue = None
    is_error: bool = False


class McpInputRequest(Struct, frozen=True):
    """What a server asks a user for: a form's schema, or a URL to visit."""

    key: str
    mode: Literal["form", "url"]
    message: str
    schema: JsonObject | None = None
    url: str | None = None
    elicitation_id: str | None = None


class McpInputRequired(Struct, frozen=True):
    """A call that goes on once these requests are answered. It has had no effect that must not repeat."""

    requests: tuple[McpInputRequest, ...]
    state: str | None = None


class McpAnswers(Struct, frozen=True):
    """The answers to the requests of an `McpInputRequired`, by their keys, and its state."""

    responses: dict[str, Any]
    state: str | None = None


class McpResource(Struct, frozen=True):
    """A resource that a server lists. `size` is in bytes."""

    uri: str
    name: str
    title: str | None = None
    description: str = ""
    mime_type: str | None = None
    size: int | None = None


class McpPromptArgument(Struct, frozen=True):
    """An argument of a prompt; its value is a text."""

    name: str
    description: str = ""
    required: bool = False


class McpPrompt(Struct, frozen=True):
    """A prompt that a server lists."""

    name: str
    title: str | None = None
    description: str = ""
    arguments: tuple[McpPromptArgument, ...] = ()


class McpPromptMessage(Struct, frozen=True):
    """A message of a prompt; its content is one block of the protocol."""

    role: Literal["user", "assistant"]
    content: JsonObject


class McpUnreachable(ToolError):
    """Nothing was sent, or the server refused before it did anything. A retry is safe."""

    code = "mcp_server_unreachable"


class McpLost(OutcomeUnknown):
    """The request was sent, and no answer came: nobody knows whether it took effect."""

    code = "mcp_answer_lost"


class McpRefused(ToolError):
    """The server answered with a JSON-RPC error. `rpc_code` is its number."""

    code = "mcp_refused"

    def __init__(self, message: str, rpc_code: int, data: JsonValue = None) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code
        self.data = data


class McpUnauthorized(ToolError):
    """The server wants a sign-in (401) or more scopes (403). `challenge` is its WWW-Authenticate header."""

    code = "mcp_unauthorized"

    def __init__(self, message: str, status: int, challenge: str) -> None:
        super().__init__(message)
        self.status = status
        self.challenge = challenge
