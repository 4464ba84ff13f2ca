"""Kept connections: one pool for each set of network rules."""

from __future__ import annotations

import socket
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
MAX_HEADER = 16 << 10
"""Bytes of one header."""


class Mark:
    """Notes whether a request may have reached the server."""

    sent = False


class Pool:
    """The connections of one set of rules."""

    def __init__(self, rules: NetworkRules, resolver: AbstractResolver) -> None:
        self.busy = 0
        trace = TraceConfig()
        trace.on_connection_create_end.append(_mark_sent)
        trace.on_connection_reuseconn.append(_mark_sent)
        self.session = ClientSession(
            connector=TCPConnector(
                limit=0,
                ttl_dns_cache=30,
                resolver=checked_resolver(_Kept(resolver), rules),
                keepalive_timeout=KEEP_ALIVE,
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
