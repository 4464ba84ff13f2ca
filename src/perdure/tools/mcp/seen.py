"""What the result of listing a server's tools depends on, so that sessions share it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TypeVar

import msgspec

from perdure.capabilities.port import DiscoveryContext
from perdure.domain.ids import OrgId
from perdure.domain.network import NetworkRules
from perdure.net.mcp.endpoints import McpEndpoint, McpStdioEndpoint
from perdure.net.mcp.lazy import LazyHosts

MAX_SEEN = 4_096
"""Servers, or endpoints, that are remembered."""

Key = TypeVar("Key")
Value = TypeVar("Value")

_PLAIN = NetworkRules()
_Server = tuple[OrgId, str]


class Seen:
    """Remembers which secrets a server needs, where it is, and how often its list went out of date."""

    def __init__(self, hosts: LazyHosts) -> None:
        self._hosts = hosts
        self._needs: OrderedDict[_Server, tuple[str, ...]] = OrderedDict()
        self._changed: OrderedDict[_Server, int] = OrderedDict()
        self._reached: OrderedDict[tuple[_Server, str], McpEndpoint | McpStdioEndpoint] = OrderedDict()

    def needs(self, org_id: OrgId, capability_id: str, secrets: tuple[str, ...]) -> None:
        """Note which secrets of the session a server's headers need."""
        _put(self._needs, (org_id, capability_id), secrets)

    def reached(
        self, context: DiscoveryContext, capability_id: str, endpoint: McpEndpoint | McpStdioEndpoint
    ) -> None:
        """Note where a server is, for sessions with these secrets."""
        server = (context.org_id, capability_id)
        _put(self._reached, (server, self._identity(server, context)), endpoint)

    def changed(self, org_id: OrgId, capability_id: str) -> None:
        """Note that a server's tools are not those that it listed."""
        server = (org_id, capability_id)
        _put(self._changed, server, self._changed.get(server, 0) + 1)

    def key(self, capability_id: str, context: DiscoveryContext) -> str:
        """Return what tells results apart. It reveals no secret."""
        server = (context.org_id, capability_id)
        identity = self._identity(server, context)
        endpoint = self._reached.get((server, identity))
        news = 0 if endpoint is None else self._hosts.changes(endpoint)
        return f"{self._changed.get(server, 0)}/{news}/{identity}"

    def _identity(self, server: _Server, context: DiscoveryContext) -> str:
        """A digest of the secrets and the rules of the network. All secrets count until it is known which."""
        names = self._needs.get(server)
        secrets = context.secrets
        wanted = sorted(secrets) if names is None else [name for name in names if name in secrets]
        if not wanted and context.network == _PLAIN:
            return ""
        parts = ([(name, secrets[name]) for name in wanted], context.network)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _put(entries: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > MAX_SEEN:
        entries.popitem(last=False)
