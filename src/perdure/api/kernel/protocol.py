"""HTTP/1.1: uvicorn's protocol with limits for headers and for stalled connections, and our error format."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from perdure.api.kernel.access import REQUEST_ID
from perdure.api.kernel.asgi import Receive, Scope, Send
from perdure.api.kernel.connections import (
    SPARE_SECONDS,
    STALLED,
    WRITTEN,
    ConnectionLimits,
    Connections,
)
from perdure.api.kernel.http import error_reply
from perdure.api.kernel.problems import status_of
from perdure.api.kernel.sending import EXTENSION, send_reply
from perdure.domain.errors import HeadersTooLarge, InvalidInput, PerdureError, Unavailable

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

HEALTH = (b"/health", b"/health/live", b"/health/ready")
"""What is answered over the limit of connections, too."""
MAX_HEAD = 64 * 1024
"""The maximum size of a request line with its headers, in bytes. It may be exceeded by one socket read."""

LINGER_BYTES, LINGER_SECONDS = 64 * 1024 * 1024, 10.0
"""What is read and dropped of a request that was answered before its end. Closing the connection while the
client still sends would make it lose the answer."""


_TWO_HOSTS = "the request's URL and its Host header name different hosts: send one"


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    It limits the size of headers and the time of each step, and answers malformed requests in our error
    format. A route can abort the connection of a client that does not read; a normal close would wait until
    the client has read everything.
    """

    spare = False
    _head = 0
    _in_head = True
    _since: float | None
    """When the wait for a request's headers began. None while a request is at work or the keep-alive timer
    runs."""
    _linger_until: float | None = None
    _linger_left = LINGER_BYTES
    _unwritten, _written_at = 0, 0.0
    """The size of the write buffer at the last progress, and the time."""

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,  # uvicorn passes it by this name
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._all = connections
        self._since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wire = _Wire(self, transport)
        self._extensions = {EXTENSION: self._wire}
        self._all.add(self, self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.drop(self)
        self._unset_keepalive_if_required()
        self.pipeline.clear()  # nobody waits for the answers to these requests
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._linger_until is not None:
            self._linger_left -= len(data)
            if self._linger_left < 0:
                self.transport.abort()
            return
        super().data_received(data)
        if not self._in_head:
            return
        self._head += len(data)
        if self._since is None:
            self._since = self.loop.time()
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self._refuse(
                HeadersTooLarge(f"the request line and headers may have at most {MAX_HEAD} bytes together")
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head, self._in_head = 0, True
        self.scope["extensions"] = self._extensions  # type: ignore[typeddict-item]

    def on_headers_complete(self) -> None:
        self._in_head, self._since, two = False, None, False
        if self.spare:
            self._all.promote(self)
            self.app = self.config.loaded_app if self._may_run() else self._no_room
        if not self.url.startswith((b"/", b"*")) and self._names_two_hosts():
            self.app, two = self._two_hosts, True
        super().on_headers_complete()
        self.cycle.transport = cast("asyncio.Transport", self._wire)
        if self.spare or two:
            self.cycle.keep_alive = False

    def _names_two_hosts(self) -> bool:
        """Whether the request is for an absolute URL on another host than its Host header names.

        Either of them may be the one by which a proxy in between has decided.
        """
        named = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
        return named.lower() != dict(self.headers).get(b"host", b"").lower()

    def on_response_complete(self) -> None:
        if self._linger_until is None:
            super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request. uvicorn calls this."""
        self._refuse(InvalidInput("this is not a valid HTTP/1.1 request", code="invalid_http"))

    # What the sweep of connections asks and does.

    def look(self, now: float, limits: ConnectionLimits) -> int:
        size = self.transport.get_write_buffer_size()
        if (size or self._unwritten) and self._stuck(size, now, limits.write):
            return STALLED
        if self._linger_until is not None:
            overdue = now > self._linger_until
        elif self._since is not None:
            overdue = now - self._since > (SPARE_SECONDS if self.spare else limits.head)
        else:
            cycle: RequestResponseCycle | None = self.cycle  # uvicorn declares it otherwise
            answered = cycle is None or cycle.response_complete
            if answered and self.timeout_keep_alive_task is None and not self.pipeline:
                # Bytes that are no request, or the rest of a body, have ended the keep-alive.
                self._since = now
            return 0
        if overdue:
            return STALLED
        return self._head if self._in_head else 0

    def abort(self) -> None:
        self.transport.abort()

    def _stuck(self, size: int, now: float, seconds: float) -> bool:
        """Whether the client has read next to nothing for so long, although `size` bytes wait for it."""
        if not size or not self._unwritten or size > self._unwritten or self._unwritten - size >= WRITTEN:
            self._unwritten, self._written_at = size, now
            return False
        return now - self._written_at > seconds

    # The end of a connection.

    @property
    def is_lingering(self) -> bool:
        """Whether the last response was sent, and what the client still sends is dropped."""
        return self._linger_until is not None

    def finish(self) -> None:
        """Close the connection after the response."""
        if self._wire.is_unread():
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """End our side of the connection, and drop what the client still sends, until it ends its side."""
        if self._linger_until is not None or self.transport.is_closing():
            return
        self._linger_until = self.loop.time() + LINGER_SECONDS
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _refuse(self, error: PerdureError) -> None:
        visit = self._all.access.stranger(status_of(error))
        reply = error_reply(error, "", visit)
        head = [STATUS_LINE[reply.status], b"content-type: ", reply.content_type, b"\r\n"]
        head += [REQUEST_ID, b": ", visit.request_id.encode(), b"\r\n"]
        head += [b"content-length: ", str(len(reply.body)).encode(), b"\r\nconnection: close\r\n\r\n"]
        self.transport.write(b"".join([*head, reply.body]))
        self._linger()

    async def _two_hosts(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._refuse_request(scope, send, InvalidInput(_TWO_HOSTS))

    async def _no_room(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = Unavailable(
            "all connections of this server are in use: try again later",
            code="too_many_connections",
            retry_after=5,
        )
        await self._refuse_request(scope, send, error)

    async def _refuse_request(self, scope: Scope, send: Send, error: PerdureError) -> None:
        with self._all.access.visit(scope, send) as visit:
            await send_reply(scope, visit.send, error_reply(error, scope["path"], visit))

    def _may_run(self) -> bool:
        return not self.spare or self.url.partition(b"?")[0].removeprefix(b"/api") in HEALTH


class _Wire:
    """The connection as a request and its response see it. To close it may take a while."""

    __slots__ = ("_protocol", "_transport", "is_closing")

    def __init__(self, protocol: HttpProtocol, transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self._transport = transport
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Write a part of a response, unless our side of the connection has ended meanwhile."""
        if not (self._transport.is_closing() or self._protocol.is_lingering):
            self._transport.write(data)

    def close(self) -> None:
        self._protocol.finish()

    def abort(self) -> None:
        self._protocol.abort()

    def is_unread(self) -> bool:
        cycle: RequestResponseCycle | None = self._protocol.cycle  # uvicorn declares it otherwise
        return cycle is not None and cycle.more_body

    def is_paused(self) -> bool:
        return self._protocol.flow.write_paused
