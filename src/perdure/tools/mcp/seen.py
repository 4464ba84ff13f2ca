"""What the result of listing a server's tools depends on, so that sessions share it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any, TypeVar

import msgspec

from perdure.capabilities.port import Discovered, DiscoveryContext
from perdure.domain.ids import OrgId
from perdure.domain.mcp_servers import INLINE
from perdure.net.mcp.changes import Changes
from perdure.net.mcp.endpoints import McpEndpoint, McpStdioEndpoint
from perdure.net.mcp.lazy import LazyHosts

MAX_SEEN = 4_096
"""Servers, or endpoints, that are remembered."""
MAX_MADE = 256
"""Servers whose tools are not made again if their lists have not changed."""

Key = TypeVar("Key")
Value = TypeVar("Value")

_Server = tuple[OrgId, str]


class Seen:
    """Remembers which secrets a server needs, where it is, and how often its list went out of date."""

    def __init__(self, hosts: LazyHosts) -> None:
        self._hosts = hosts
        self._needs: OrderedDict[_Server, tuple[str, ...]] = OrderedDict()
        self._signs_in: OrderedDict[_Server, bool] = OrderedDict()
        self._changed: Changes[_Server] = Changes(MAX_SEEN)
        self._made: OrderedDict[str, tuple[bytes, Discovered]] = OrderedDict()
        self._last: tuple[DiscoveryContext, str] | None = None
        self._reached: OrderedDict[tuple[_Server, str], McpEndpoint | McpStdioEndpoint] = OrderedDict()

    def needs(self, org_id: OrgId, capability_id: str, secrets: tuple[str, ...], *, signs_in: bool) -> None:
        """Note which secrets of the session a server's headers need, and whether people sign in at it."""
        _put(self._needs, (org_id, capability_id), secrets)
        _put(self._signs_in, (org_id, capability_id), signs_in)

    def reached(
        self,
        context: DiscoveryContext,
        capability_id: str,
        endpoint: McpEndpoint | McpStdioEndpoint,
        config: Any,
    ) -> None:
        """Note where a server is, for sessions with these secrets."""
        server = (context.org_id, capability_id)
        _put(self._reached, (server, self._identity(server, context, config)), endpoint)

    def same(self, server: str, digest: bytes) -> Discovered | None:
        """What was made of an offer with this digest the last time."""
        known = self._made.get(server)
        return known[1] if known is not None and known[0] == digest else None

    def made(self, server: str, digest: bytes, found: Discovered) -> None:
        """Keep what was made of an offer."""
        _put(self._made, server, (digest, found), MAX_MADE)

    def changed(self, org_id: OrgId, capability_id: str) -> None:
        """Note that a server's tools are not those that it listed."""
        self._changed.note((org_id, capability_id))

    def key(self, capability_id: str, context: DiscoveryContext, config: Any) -> str:
        """Return what tells results apart. It reveals no secret."""
        server = (context.org_id, capability_id)
        identity = self._identity(server, context, config)
        endpoint = self._reached.get((server, identity))
        news = 0 if endpoint is None else self._hosts.changes(endpoint)
        return f"{self._changed.count(server)}/{news}/{identity}"

    def _owner(self, server: _Server, context: DiscoveryContext, config: Any) -> str:
        """The session's owner, if what is listed may depend on a sign-in: as long as nobody knows, it may."""
        if server[1].startswith(INLINE):
            signs_in = isinstance(config, dict) and config.get("auth_mode") == "o_auth"
        else:
            signs_in = self._signs_in.get(server, True)
        return context.owner_id if signs_in else ""

    def _identity(self, server: _Server, context: DiscoveryContext, config: Any) -> str:
        """A digest of the secrets and the rules of the network. All secrets count until it is known which."""
        names = self._needs.get(server)
        secrets = context.secrets
        wanted = sorted(secrets) if names is None else [name for name in names if name in secrets]
        owner = self._owner(server, context, config)
        if not wanted:
            return f"{owner}/{self._rules(context)}"
        parts = [(name, secrets[name]) for name in wanted]
        digest = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
        return f"{digest}/{owner}/{self._rules(context)}"

    def _rules(self, context: DiscoveryContext) -> str:
        """The rules of the network, encoded once for all servers of a turn."""
        if self._last is None or self._last[0] is not context:
            self._last = (context, msgspec.json.encode(context.network).decode())
        return self._last[1]


def _put(entries: OrderedDict[Key, Value], key: Key, value: Value, limit: int = MAX_SEEN) -> None:
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > limit:
        entries.popitem(last=False)
