"""MCP servers: registered ones, and those that a harness, an agent or a session defines inline."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.ids import McpServerId
from perdure.domain.paging import AllowedActions, SelfUrl, UiLink, ViewUrl
from perdure.domain.times import ArchivedAt, CreatedAt, DeletedAt, UpdatedAt
from perdure.domain.tools import CapabilityRef

McpAuthMode = Literal["none", "api_key", "o_auth"]
McpTransport = Literal["http", "stdio"]
McpProtocolMode = Literal["auto", "legacy", "stable", "rc"]
"""`auto`: find out. `legacy`: sessions (until 2025-11-25). `stable`, `rc`: stateless (2026-07-28)."""
McpStatus = Literal["active", "disabled", "archived", "deleted"]
ElicitationPolicy = Literal["none", "url", "url_and_form"]
ActsAs = Literal["none", "service", "user", "user_or_service"]
ToolMode = Literal["auto", "ask", "deny"]
OnFailure = Literal["continue", "fail_turn"]

TOOL_TIMEOUT_MS = 60_000
"""Default timeout of a call, in milliseconds."""
MAX_TIMEOUT_MS = 3_600_000
MCP_NAMES = {"mcp_servers": "mcpServers"}
"""How the field is spelled in JSON (wire contract)."""
MAX_INLINE = 20
"""Inline servers of one harness, agent or session."""
MAX_MCP_SERVERS = 50
"""Servers of one session, with those of its harness and agent."""
INLINE = "mcp_inline:"
"""How the capability of an inline server begins: `mcp_inline:{name}`. Clients cannot name it."""
MCP_REF = "mcp:"
"""How the capability of a registered server begins: `mcp:{server_id}`."""
PLACEHOLDER = re.compile(r"\{\{secret:([^{}\x00-\x1f\x7f]{1,200})\}\}")
"""What stands for a secret of the session in a header's value; the group is the secret's name."""
HIDDEN = "***"
"""What a header's stored value reads back as; sent back, it keeps the stored value."""

_NAME = Meta(description="The server's name. Its tools are named after it.")
_URL = Meta(description="The URL of the server's MCP endpoint.")
_NEEDED_URL = Meta(description="The URL of the server's MCP endpoint. It is needed.")
_DESCRIPTION = Meta(description="The purpose, for people.")
_AUTH_MODE = Meta(
    description="`api_key`: the key is sent as a bearer token. `o_auth`: somebody signs in at the server."
)
_TRANSPORT = Meta(description="`http`. Only the operator of the server can configure `stdio`.")
_PROTOCOL = Meta(description="The protocol's revision; `auto` finds out which one the server speaks.")
_HEADERS = Meta(
    description=(
        "Headers that are sent with every request. `{{secret:NAME}}` in a value stands for a secret of the "
        "session. Other values are stored encrypted, and read back as `***`."
    ),
)
_INLINE_HEADERS = Meta(
    description=(
        "Headers that are sent with every request. `{{secret:NAME}}` in a value stands for a secret of the "
        "session; credentials must be given so."
    ),
)
_API_KEY = Meta(description="The server's API key. Write-only: see `api_key_set`.")
_CLIENT_ID = Meta(
    description=(
        "This server's id as a client of the authorization server, where it cannot register itself. "
        "A new id removes the secret, the issuer and all sign-ins."
    )
)
_CLIENT_SECRET = Meta(description="The client's secret. Write-only: see `oauth_client_secret_set`.")
_ISSUER = Meta(
    description=(
        "The authorization server that the client belongs to; it alone gets the secret. Default: the one "
        "that the MCP server names at the first sign-in."
    )
)
_SCOPES = Meta(description="What sign-ins ask for. Default: what the MCP server asks for.")
_STATUS = Meta(description="`disabled`: the server stays, and its tools are not offered.")
_LINK = Meta(examples=["/v1/mcp-servers/mcp_0192f0c1b2a37b5c8d4e5f60718293a4"])
_TIMEOUT = Meta(description="How long one call may take, in milliseconds.")
_ELICITATION = Meta(description="Which questions of the server to users are passed on.")
_ALLOW = Meta(description="The only tools to offer, by their names at the server; all if it is absent.")
_DENY = Meta(description="Tools not to offer, by their names at the server.")
_APPROVAL = Meta(
    description=(
        "By a tool's name at the server, or `*`: `auto` runs it, `ask` asks for approval, `deny` does not "
        "offer it. Default: `ask` if the tool says that it is destructive, otherwise `auto`."
    ),
)
_ON_FAILURE = Meta(
    description="What happens if the server cannot be reached: `continue` without its tools, or `fail_turn`."
)
_ACTS_AS = Meta(description="Under whose identity calls are made, with `o_auth`.")
_DEFERRED = Meta(description="Whether the model finds the tools by a search instead of being offered all.")
_KEY_ARGUMENT = Meta(
    description="By a tool's name at the server, or `*`: the argument that takes the key of a call's effect."
)
_KEY_HEADER = Meta(description="The header that takes the key of a call's effect.")

Name = Annotated[str, Meta(min_length=1, max_length=100)]
Url = Annotated[str, Meta(min_length=1, max_length=2048)]
Description = Annotated[str, Meta(max_length=2000)]
ApiKey = Annotated[str, Meta(max_length=8192)]
ClientId = Annotated[str, Meta(min_length=1, max_length=2048)]
Issuer = Annotated[str, Meta(min_length=1, max_length=2048)]
Scopes = Annotated[
    tuple[Annotated[str, Meta(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,200}$(?!\n)")], ...], Meta(max_length=100)
]
Timeout = Annotated[int, Meta(ge=1, le=MAX_TIMEOUT_MS)]
HeaderName = Annotated[str, Meta(min_length=1, max_length=100)]
Headers = Annotated[dict[str, Annotated[str, Meta(max_length=8192)]], Meta(max_length=50)]
ToolNames = Annotated[tuple[Annotated[str, Meta(max_length=200)], ...], Meta(max_length=500)]
ToolModes = Annotated[dict[str, ToolMode], Meta(max_length=500)]
KeyArguments = Annotated[dict[str, Annotated[str, Meta(max_length=200)]], Meta(max_length=500)]


class McpRules(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How a server's tools are offered and called."""

    tool_timeout_ms: Annotated[Timeout, _TIMEOUT] = TOOL_TIMEOUT_MS
    elicitation_policy: Annotated[ElicitationPolicy, _ELICITATION] = "none"
    allowed_tools: Annotated[ToolNames | None, _ALLOW] = None
    denied_tools: Annotated[ToolNames, _DENY] = ()
    approval: Annotated[ToolModes, _APPROVAL] = {}
    on_failure: Annotated[OnFailure, _ON_FAILURE] = "continue"
    acts_as: Annotated[ActsAs, _ACTS_AS] = "none"
    deferred: Annotated[bool, _DEFERRED] = False
    effect_key_argument: Annotated[KeyArguments, _KEY_ARGUMENT] = {}
    effect_key_header: Annotated[HeaderName | None, _KEY_HEADER] = None


class InlineMcpServer(McpRules, frozen=True, omit_defaults=True, kw_only=True):
    """A server in `mcpServers` of a harness, an agent or a session. Its key in the map is its name."""

    url: Annotated[Annotated[str, Meta(max_length=2048)], _URL] = ""
    type: Annotated[McpTransport, _TRANSPORT] = "http"
    auth_mode: Annotated[McpAuthMode, _AUTH_MODE] = "none"
    protocol_mode: Annotated[McpProtocolMode, _PROTOCOL] = "auto"
    headers: Annotated[Headers, _INLINE_HEADERS] = {}
    tool_discovery: Annotated[bool, _DEFERRED] = False


InlineMcpServers = Annotated[
    dict[Name, InlineMcpServer],
    Meta(max_length=MAX_INLINE, description="MCP servers whose tools the agent may use, by name."),
]


class McpClient(Struct, frozen=True, omit_defaults=True):
    """This server as a client that somebody registered at an authorization server. Its secret is elsewhere.

    Attributes:
        issuer: the authorization server; None: not known before the first sign-in.
        scopes: what sign-ins ask for; None: what the MCP server asks for.
    """

    client_id: str | None = None
    issuer: str | None = None
    scopes: tuple[str, ...] | None = None
    secret_set: bool = False


class McpServer(McpRules, frozen=True, omit_defaults=False, kw_only=True):
    """A registered MCP server."""

    id: Annotated[McpServerId, Meta(description="The server's id.")]
    name: Annotated[str, _NAME, Meta(examples=["Issues"])]
    url: Annotated[str, _URL, Meta(examples=["https://mcp.example.com/mcp"])]
    transport_type: Annotated[McpTransport, _TRANSPORT]
    status: Annotated[McpStatus, Meta(description="Only the tools of `active` servers are offered.")]
    api_key_set: Annotated[bool, Meta(description="Whether an API key is stored.", examples=[True])]
    created_at: CreatedAt
    updated_at: UpdatedAt
    self_url: Annotated[SelfUrl, _LINK]
    view_url: Annotated[ViewUrl, _LINK]
    ui_link: Annotated[UiLink, _LINK]
    slug: Annotated[
        str,
        Meta(
            description="How its tools' names begin: `mcp_{slug}__`. It stays when the name changes.",
            examples=["issues"],
        ),
    ]
    description: Annotated[str | None, _DESCRIPTION] = None
    auth_mode: Annotated[McpAuthMode, _AUTH_MODE] = "none"
    protocol_mode: Annotated[McpProtocolMode, _PROTOCOL] = "auto"
    headers: Annotated[Headers, _HEADERS] = {}
    oauth_client_id: Annotated[str | None, _CLIENT_ID] = None
    oauth_client_secret_set: Annotated[
        bool, Meta(description="Whether a client secret is stored.", examples=[False])
    ] = False
    oauth_issuer: Annotated[str | None, _ISSUER] = None
    oauth_scopes: Annotated[Scopes | None, _SCOPES] = None
    archived_at: ArchivedAt = None
    deleted_at: DeletedAt = None
    allowed_actions: AllowedActions = ()


class CreateMcpServer(McpRules, frozen=True):
    """The body of `POST /v1/mcp-servers`."""

    name: Annotated[Name, _NAME]
    url: Annotated[Url | UnsetType, _NEEDED_URL] = UNSET
    description: Annotated[Description | None, _DESCRIPTION] = None
    transport_type: Annotated[McpTransport, _TRANSPORT] = "http"
    auth_mode: Annotated[McpAuthMode | None, _AUTH_MODE] = None
    protocol_mode: Annotated[McpProtocolMode | None, _PROTOCOL] = None
    headers: Annotated[Headers | None, _HEADERS] = None
    api_key: Annotated[ApiKey | None, _API_KEY] = None
    oauth_client_id: Annotated[ClientId | None, _CLIENT_ID] = None
    oauth_client_secret: Annotated[ApiKey | None, _CLIENT_SECRET] = None
    oauth_issuer: Annotated[Issuer | None, _ISSUER] = None
    oauth_scopes: Annotated[Scopes | None, _SCOPES] = None


class UpdateMcpServer(Struct, frozen=True, kw_only=True):
    """The body of `PATCH /v1/mcp-servers/{server_id}`: omitted fields keep their values."""

    name: Annotated[Name | UnsetType, _NAME] = UNSET
    url: Annotated[Url | UnsetType, _URL] = UNSET
    description: Annotated[Description | UnsetType | None, _DESCRIPTION] = UNSET
    transport_type: Annotated[McpTransport | UnsetType, _TRANSPORT] = UNSET
    auth_mode: Annotated[McpAuthMode | UnsetType, _AUTH_MODE] = UNSET
    protocol_mode: Annotated[McpProtocolMode | UnsetType, _PROTOCOL] = UNSET
    status: Annotated[McpStatus | UnsetType, _STATUS] = UNSET
    headers: Annotated[Headers | UnsetType | None, _HEADERS] = UNSET
    api_key: Annotated[ApiKey | UnsetType | None, _API_KEY] = UNSET
    oauth_client_id: Annotated[ClientId | UnsetType | None, _CLIENT_ID] = UNSET
    oauth_client_secret: Annotated[ApiKey | UnsetType | None, _CLIENT_SECRET] = UNSET
    oauth_issuer: Annotated[Issuer | UnsetType | None, _ISSUER] = UNSET
    oauth_scopes: Annotated[Scopes | UnsetType | None, _SCOPES] = UNSET
    tool_timeout_ms: Annotated[Timeout | UnsetType, _TIMEOUT] = UNSET
    elicitation_policy: Annotated[ElicitationPolicy | UnsetType, _ELICITATION] = UNSET
    allowed_tools: Annotated[ToolNames | UnsetType | None, _ALLOW] = UNSET
    denied_tools: Annotated[ToolNames | UnsetType, _DENY] = UNSET
    approval: Annotated[ToolModes | UnsetType, _APPROVAL] = UNSET
    on_failure: Annotated[OnFailure | UnsetType, _ON_FAILURE] = UNSET
    acts_as: Annotated[ActsAs | UnsetType, _ACTS_AS] = UNSET
    deferred: Annotated[bool | UnsetType, _DEFERRED] = UNSET
    effect_key_argument: Annotated[KeyArguments | UnsetType, _KEY_ARGUMENT] = UNSET
    effect_key_header: Annotated[HeaderName | UnsetType | None, _KEY_HEADER] = UNSET


def inline_refs(servers: Mapping[str, InlineMcpServer]) -> tuple[CapabilityRef, ...]:
    """Return the capabilities of inline servers."""
    return tuple(
        CapabilityRef(f"{INLINE}{name}", msgspec.to_builtins(server)) for name, server in servers.items()
    )


def is_mcp(capability_id: str) -> bool:
    """Whether a capability is an MCP server."""
    return capability_id.startswith((MCP_REF, INLINE))


MCP_PREFIX = "mcp_"
MAX_TOOL_NAME = 64


def slug_of(name: str) -> str:
    """Return how a server's name begins the names of its tools: lower case, a-z, 0-9 and single `_`."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return plain[:40].rstrip("_") or f"s{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def mode_of(rules: McpRules, name: str, destructive: bool | None) -> ToolMode:
    """Return whether a server's tool runs, asks for approval, or is not offered.

    Args:
        name: the tool's name at the server.
        destructive: what the tool says about itself; None if it says nothing.
    """
    if name in rules.denied_tools or (rules.allowed_tools is not None and name not in rules.allowed_tools):
        return "deny"
    given = rules.approval.get(name) or rules.approval.get("*")
    return given or ("ask" if destructive else "auto")


def tool_name_of(slug: str, name: str) -> str:
    """Return the name that the model calls a server's tool by: `mcp_{slug}__{name}`.

    It has at most 64 characters of those that all vendors accept. A name that had to be changed or cut ends
    with a digest of the original, so that two tools never share one.
    """
    plain = re.sub(r"[^a-zA-Z0-9_-]", "_", name)
    full = f"{MCP_PREFIX}{slug}__{plain}"
    if plain == name and len(full) <= MAX_TOOL_NAME:
        return full
    digest = hashlib.sha256(f"{slug}\0{name}".encode()).hexdigest()[:8]
    return f"{full[: MAX_TOOL_NAME - 9]}_{digest}"
