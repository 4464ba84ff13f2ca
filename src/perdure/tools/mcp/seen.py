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


class _Known:
    """What is known of a server.

    Attributes:
        needs: the secrets of the session that its headers need; None as long as nobody knows.
        signs_in: whether people sign in at it; None as long as nobody knows.
    """

    __slots__ = ("needs", "signs_in")

    def __init__(self) -> None:
        self.needs: tuple[str, ...] | None = None
        self.signs_in: bool | None = None


_UNKNOWN = _Known()
"""Of a server that was not listed yet."""


class _Turn:
    """What the servers of one turn share, made once for all of them.

    Attributes:
        rules: the rules of the network, encoded.
        quiet: whether no server has changed its tools.
        plain: the keys of servers that need no secrets, by the results' owner, if it is quiet.
    """

    __slots__ = ("context", "plain", "quiet", "rules")

    def __init__(self, context: DiscoveryContext, *, quiet: bool) -> None:
        self.context = context
        self.rules = msgspec.json.encode(context.network).decode()
        self.quiet = quiet
        self.plain: dict[str, str] = {}


class Seen:
    """Remembers which secrets a server needs, where it is, and how often its list went out of date.

    Each turn asks for the key of each of its servers, so that a key must cost next to nothing.
    """

    def __init__(self, hosts: LazyHosts) -> None:
        self._hosts = hosts
        self._known: OrderedDict[_Server, _Known] = OrderedDict()
        self._changed: Changes[_Server] = Changes(MAX_SEEN)
        self._made: OrderedDict[str, tuple[bytes, Discovered]] = OrderedDict()
        self._last: _Turn | None = None
        self._reached: OrderedDict[tuple[_Server, str], McpEndpoint | McpStdioEndpoint] = OrderedDict()

    def needs(self, org_id: OrgId, capability_id: str, secrets: tuple[str, ...], *, signs_in: bool) -> None:
        """Note which secrets of the session a server's headers need, and whether people sign in at it."""
        known = self._of((org_id, capability_id))
        known.needs, known.signs_in = secrets, signs_in

    def _of(self, server: _Server) -> _Known:
        known = self._known.get(server) or _Known()
        _put(self._known, server, known)
        return known

    def reached(
        self,
        context: DiscoveryContext,
        capability_id: str,
        endpoint: McpEndpoint | McpStdioEndpoint,
        config: Any,
    ) -> None:
        """Note where a server is, for sessions with these secrets."""
        server = (context.org_id, capability_id)
        identity = self._identity(server, self._known.get(server, _UNKNOWN), context, config)
        _put(self._reached, (server, identity), endpoint)

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

    def key(self, capability_id: str, config: Any, context: DiscoveryContext) -> str:
        """Return what tells results apart. It reveals no secret."""
        server = (context.org_id, capability_id)
        known, turn = self._known.get(server, _UNKNOWN), self._turn(context)
        if turn.quiet and not context.secrets:
            owner = _owner(server, known, context, config)
            key = turn.plain.get(owner)
            if key is None:  # as below
                key = turn.plain[owner] = f"0/0/{owner}/{turn.rules}"
            return key
        identity = self._identity(server, known, context, config)
        endpoint = self._reached.get((server, identity))
        news = 0 if endpoint is None else self._hosts.changes(endpoint)
        return f"{self._changed.count(server)}/{news}/{identity}"

    def _turn(self, context: DiscoveryContext) -> _Turn:
        turn = self._last
        if turn is None or turn.context is not context:
            turn = self._last = _Turn(context, quiet=self._hosts.quiet and not self._changed)
        return turn

    def _identity(self, server: _Server, known: _Known, context: DiscoveryContext, config: Any) -> str:
        """A digest of the secrets and the rules of the network. All secrets count until it is known which."""
        rest = f"{_owner(server, known, context, config)}/{self._turn(context).rules}"
        names = sorted(context.secrets) if known.needs is None else known.needs
        parts = [(name, context.secrets[name]) for name in names if name in context.secrets]
        if not parts:
            return rest
        return f"{hashlib.sha256(msgspec.json.encode(parts)).hexdigest()}/{rest}"


def _owner(server: _Server, known: _Known, context: DiscoveryContext, config: Any) -> str:
    """The session's owner, if what is listed may depend on a sign-in: as long as nobody knows, it may."""
    if server[1].startswith(INLINE):
        signs_in = isinstance(config, dict) and config.get("auth_mode") == "o_auth"
    else:
        signs_in = known.signs_in is not False
    return context.owner_id if signs_in else ""


def _put(entries: OrderedDict[Key, Value], key: Key, value: Value, limit: int = MAX_SEEN) -> None:
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > limit:
        entries.popitem(last=False)
