"""Kept connections: one pool for each set of network rules."""

from __future__ import annotations

import socket
import time
from collections import OrderedDict
from types import SimpleNamespace

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, TraceConfig
from aiohttp.abc import AbstractResolver, ResolveResult

from perdure.domain.network import NetworkRules
from perdure.net.web_client import checked_resolver

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP and TLS."""
KEEP_ALIVE = 4.0
"""Seconds that an idle connection is kept. Common servers close theirs after five: a request that meets the
closing is lost, and nobody knows whether it ran."""
CLOSES = 600.0
"""Seconds for which no connection to a server is kept that closed one without a word."""
MAX_HABITS = 4_096
_KEEPS = -1.0
MAX_HEADER = 16 << 10
"""Bytes of one header."""


class Mark:
    """Notes whether a request may have reached the server, and whether it was sent on a kept connection."""

    sent = False
    reused = False


class Habits:
    """Remembers which servers keep connections open, and which close them without announcing it."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, float] = OrderedDict()

    def keeps(self, server: str) -> bool:
        """Whether a request was answered on a kept connection, and none was lost on one since then."""
        return self._known.get(server) == _KEEPS

    def closes(self, server: str) -> bool:
        """Whether a request was lost on a kept connection lately."""
        since = self._known.get(server, _KEEPS)
        return since != _KEEPS and time.monotonic() - since < CLOSES

    def note(self, server: str, *, kept: bool) -> None:
        """Note what became of a request on a kept connection."""
        self._known[server] = _KEEPS if kept else time.monotonic()
        self._known.move_to_end(server)
        if len(self._known) > MAX_HABITS:
            self._known.popitem(last=False)


class Pool:
    """The connections of one set of rules."""

    def __init__(self, rules: NetworkRules, resolver: AbstractResolver) -> None:
        self.busy = 0
        self._rules, self._resolver = rules, resolver
        self._sessions: dict[bool, ClientSession] = {}

    def session(self, *, keep: bool) -> ClientSession:
        """The session for a request: one that keeps connections, or one that opens one for each request."""
        if keep not in self._sessions:
            self._sessions[keep] = self._open(keep=keep)
        return self._sessions[keep]

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()

    def _open(self, *, keep: bool) -> ClientSession:
        trace = TraceConfig()
        trace.on_connection_create_end.append(_mark_sent)
        trace.on_connection_reuseconn.append(_mark_reused)
        resolver = checked_resolver(_Kept(self._resolver), self._rules)
        return ClientSession(
            connector=(
                TCPConnector(limit=0, ttl_dns_cache=30, resolver=resolver, keepalive_timeout=KEEP_ALIVE)
                if keep
                else TCPConnector(limit=0, ttl_dns_cache=30, resolver=resolver, force_close=True)
            ),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": "perdure", "Accept-Encoding": "identity"},
            timeout=ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            trace_configs=[trace],
        )


async def _mark_sent(_session: ClientSession, context: SimpleNamespace, _params: object) -> None:
    """From here on, bytes may be on their way."""
    context.trace_request_ctx.sent = True


async def _mark_reused(session: ClientSession, context: SimpleNamespace, params: object) -> None:
    context.trace_request_ctx.reused = True
    await _mark_sent(session, context, params)


class _Kept(AbstractResolver):
    """A resolver that several pools share: none of them closes it."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return await self._inner.resolve(host, port, family)

    async def close(self) -> None:
        """Do nothing."""
