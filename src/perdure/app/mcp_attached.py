"""The MCP servers of sessions: what is known of one, and what its headers are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import Services
from perdure.app.mcp_offers import local_endpoint
from perdure.capabilities.layers import load_layers
from perdure.domain.connections import SignInServer, inline_key
from perdure.domain.errors import NotFound, ToolError
from perdure.domain.ids import McpServerId, OrgId, SessionId
from perdure.domain.local_mcp import LocalMcpServer
from perdure.domain.mcp_servers import (
    INLINE,
    MCP_REF,
    PLACEHOLDER,
    InlineMcpServer,
    McpProtocolMode,
    McpRules,
    inline_refs,
    is_mcp,
    slug_of,
)
from perdure.domain.network import NetworkRules
from perdure.domain.redaction import Redactor
from perdure.domain.speakers import AgentAt
from perdure.domain.tools import CapabilityRef
from perdure.net.mcp.endpoints import McpEndpoint, McpStdioEndpoint
from perdure.store.database import Tx
from perdure.store.mcp_pins import INLINE_PINS
from perdure.store.mcp_servers import get_mcp_server, headers_of, open_mcp_secrets
from perdure.store.sessions import get_session


class Attached(Struct, frozen=True):
    """An MCP server that a session uses.

    Attributes:
        key: under which its tools are pinned.
        headers: with placeholders for secrets of the session.
        sealed: values that must not be shown: the API key, and stored values of headers.
        labels: its tools' names for people, by their names at the server.
        local: the operator's definition of it, for a server of the operator's file.
        signs_in: whether people sign in at it (`o_auth`).
    """

    key: str
    capability_id: str
    name: str
    slug: str
    rules: McpRules
    url: str = ""
    protocol: McpProtocolMode = "auto"
    headers: Mapping[str, str] = {}
    sealed: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    local: LocalMcpServer | None = None
    signs_in: bool = False

    @property
    def sign_in(self) -> SignInServer:
        """The server as people sign in at it."""
        key = inline_key(self.url) if self.capability_id.startswith(INLINE) else self.key
        return SignInServer(key, self.name, self.url, self.rules.acts_as if self.signs_in else "none")

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The secrets of the session that its headers need, sorted."""
        return tuple(sorted({name for text in self.headers.values() for name in PLACEHOLDER.findall(text)}))


def at_hand(services: Services, capability_id: str, config: Any) -> Attached | None:
    """Return a server that nothing is stored about: an inline one, or the operator's; None for others.

    Args:
        config: as in `attached`.
    """
    if capability_id.startswith(INLINE):
        return _inline(capability_id, config)
    server_id = McpServerId(capability_id.removeprefix(MCP_REF))
    local = services.local_mcp.get(server_id)
    if local is None:
        return None
    return Attached(
        server_id,
        capability_id,
        local.name,
        local.slug,
        _attached_rules(local.rules, config),
        local.url or "",
        headers=local.headers,
        sealed=tuple(local.headers.values()),
        local=local,
    )


async def attached(services: Services, tx: Tx, org_id: OrgId, capability_id: str, config: Any) -> Attached:
    """Read a server.

    Args:
        config: the attachment's configuration, or an inline server's definition.

    Raises:
        ToolError: there is no such server, or it is not active.
    """
    known = at_hand(services, capability_id, config)
    if known is not None:
        return known
    server_id = McpServerId(capability_id.removeprefix(MCP_REF))
    try:
        row = await get_mcp_server(tx, org_id, server_id)
    except NotFound:
        raise ToolError(f"the MCP server {server_id} does not exist any more") from None
    if row.status != "active":
        raise ToolError(f"the MCP server {row.name!r} is {row.status}")
    secrets = await open_mcp_secrets(services.vault, tx, row)
    headers = headers_of(row, secrets)
    if row.auth_mode == "api_key" and secrets.api_key is not None:
        headers["Authorization"] = f"Bearer {secrets.api_key}"
    keys = tuple(filter(None, (secrets.api_key, secrets.client_secret)))
    return Attached(
        server_id,
        capability_id,
        row.name,
        row.slug,
        _attached_rules(row.rules_struct(), config),
        row.url,
        row.protocol_mode,
        headers,
        (*keys, *secrets.headers.values()),
        row.label_map(),
        signs_in=row.auth_mode == "o_auth",
    )


def _inline(capability_id: str, config: Any) -> Attached:
    name = capability_id.removeprefix(INLINE)
    server = msgspec.convert(config, InlineMcpServer)
    rules = msgspec.convert(msgspec.to_builtins(server), McpRules)
    if server.tool_discovery:
        rules = replace(rules, deferred=True)
    key = f"{INLINE_PINS}{hashlib.sha256(server.url.encode()).hexdigest()}"
    return Attached(
        key,
        capability_id,
        name,
        slug_of(name),
        rules,
        server.url,
        server.protocol_mode,
        server.headers,
        signs_in=server.auth_mode == "o_auth",
    )


def _attached_rules(rules: McpRules, config: Any) -> McpRules:
    """The rules of a registered server, as the session's layer changes them."""
    given = config if isinstance(config, dict) else {}
    return replace(rules, **{name: given[name] for name in ("acts_as", "deferred") if name in given})


async def attached_to_session(
    services: Services, tx: Tx, org_id: OrgId, session_id: SessionId, agent: AgentAt | None = None
) -> list[CapabilityRef]:
    """The servers of a session, as its layers name them.

    Args:
        agent: the agent at work; None for the session's own.

    Raises:
        NotFound: the session is gone.
    """
    row = await get_session(tx, org_id, session_id)
    loaded = await load_layers(tx, row if agent is None else row.under(agent))
    found: dict[str, CapabilityRef] = {}
    for layer in loaded.layers:
        if not layer.policy_only:
            refs = (*layer.capabilities, *inline_refs(layer.mcp_servers))
            found |= {ref.ref: ref for ref in refs if is_mcp(ref.ref)}
    return list(found.values())


def endpoint_of(
    server: Attached, secrets: Mapping[str, str], network: NetworkRules
) -> McpEndpoint | McpStdioEndpoint:
    """Where the server is reached, with the session's secrets in its headers.

    Raises:
        ToolError: a secret is missing, or cannot be in a header.
    """
    if server.local is not None:
        return local_endpoint(server.local)
    headers = tuple((name, _filled(name, text, secrets)) for name, text in server.headers.items())
    return McpEndpoint(server.url, headers, server.protocol, network, server.rules.elicitation_policy)


def _filled(header: str, text: str, secrets: Mapping[str, str]) -> str:
    for name in PLACEHOLDER.findall(text):
        value = secrets.get(name)
        if value is None:
            raise ToolError(f"its header {header} needs the secret {name!r}, which the session does not have")
        if not value.isprintable() or not value.isascii():
            raise ToolError(f"the secret {name!r} has characters that cannot be in the header {header}")
    return PLACEHOLDER.sub(lambda match: secrets[match.group(1)], text)


def redactor_of(server: Attached, secrets: Mapping[str, str]) -> Redactor:
    """Redacts what must not come back from a server: its key, and the secrets that were sent to it."""
    hidden = {f"mcp_{server.slug}_{number}": text for number, text in enumerate(server.sealed, 1)}
    return Redactor(hidden | {name: secrets[name] for name in server.placeholders if name in secrets})
