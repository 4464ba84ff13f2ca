"""The HTTP client for model vendors.

One connection pool per process, streaming answers, every failure a `ModelError`.

The client follows no redirect (it would send the key to another host) and stores no cookie (organizations
share the pool). No error contains a key or a URL with credentials.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from aiohttp import (
    AddrInfoType,
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientError,
    ClientOSError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientSSLError,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    ServerDisconnectedError,
    TCPConnector,
)
from yarl import URL

from perdure.domain.errors import ModelError
from perdure.domain.sse import Frame, StreamTooLong
from perdure.domain.trace_context import with_trace
from perdure.llm.endpoint import Endpoint
from perdure.llm.failures import WRONG_ADDRESS, bad_response, disguised, no_such_address, refusal
from perdure.net.addresses import GuardedResolver

Result = TypeVar("Result")

CONNECT_TIMEOUT = 10.0
"""Timeout for TCP and TLS connection setup, in seconds."""

READ_TIMEOUT = 600.0
"""Maximum seconds between bytes of a public server: reasoning models may send nothing for minutes."""

NEAR_READ_TIMEOUT = 1_800.0
"""Maximum seconds between bytes of a server on this machine or in a private network: slow hardware reads a
long prompt for many minutes before the first word."""

LIST_TIMEOUT = 30.0
"""Timeout for a whole answer of a list endpoint, in seconds."""

MAX_BODY = 4 << 20
"""Maximum bytes of an answer that is not a stream."""

MAX_EVENT = 4 << 20
"""Maximum bytes of one stream event: the longest answer of any model fits, with its reasoning."""

LONG = 64 << 10
"""Bytes above which an event is parsed in a thread."""

MAX_STREAM = 64 << 20
"""Maximum bytes of a streamed answer, framing included: about ten times the longest answer of any model,
streamed token by token."""

_KEEP_ALIVE = 60.0
_ERROR_BODY = 64 << 10
_ERROR_TIMEOUT = 10.0
# A connection can be reused only if its response was read to the end. The last bytes have usually arrived.
_DRAIN_TIMEOUT = 0.1
# What may follow a complete answer is its usage. A server that keeps the stream open is not waited for.
_TAIL_TIMEOUT = 10.0
_BLANK = b" \t\r\n\xef\xbb\xbf"
# The beginning of a stream's line, or less than that.
_FIELD = re.compile(rb":|(data|event|id|retry)\b|[a-z]{0,5}$", re.IGNORECASE)
# Seconds of silence before TCP asks whether the other side still exists, between questions, and how many: a
# connection that is gone without a word is noticed within two minutes.
_PROBES = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
# Answers that show that the server knows the address.
_KNOWS_ADDRESS = frozenset({400, 401, 402, 403, 422, 429})
# A dead connection fails at once. After this many seconds, the vendor may have started to process the call.
_STALE_WITHIN = 1.0
# Bytes of one header, or of the status line. Gateways send policies and cookies of many kilobytes.
_MAX_HEADER = 64 << 10
# aiohttp warns about larger bodies unless they are file objects.
_LARGE_BODY = 1 << 20


class Parser(Protocol):
    """What parses the framing of a stream, which arrives in pieces of any size."""

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the events that are complete with this piece. Raises: StreamTooLong, ModelError."""
        ...

    def flush(self) -> list[Frame]:
        """Return the events that the end of the stream completes."""
        ...


class Sink(Protocol):
    """What receives an answer."""

    @property
    def framing(self) -> Callable[[int, int], Parser]:
        """Makes the parser of the stream, from the maximum bytes of an event and of the stream."""
        ...

    @property
    def done(self) -> bool:
        """Whether the server has said that the answer ends here."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the whole answer has arrived, even if the connection breaks now."""
        ...

    def feed(self, payload: bytes, name: str = "message") -> bool:
        """Parse the data of an event of this name, or a whole JSON body. Raises: ModelError."""
        ...

    async def feed_long(self, payload: bytes, name: str = "message") -> None:
        """As `feed`, in a thread. Nothing else may be fed meanwhile."""
        ...

    def end(self) -> None:
        """Take the end of a whole JSON body."""
        ...


class Http:
    """The connection pool. Create one per process; it opens on first use, inside the running loop.

    Args:
        connect_timeout: timeout for connecting, in seconds.
        read_timeout: maximum seconds until the first byte, and between bytes; by default, the endpoint's.
        max_event: maximum bytes of one stream event.
        max_stream: maximum bytes of a whole stream.
    """

    def __init__(
        self,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        read_timeout: float | None = None,
        max_event: int = MAX_EVENT,
        max_stream: int = MAX_STREAM,
    ) -> None:
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._max_event = max_event
        self._max_stream = max_stream
        self._sessions: dict[bool, ClientSession] = {}

    def _session(self, *, fresh: bool = False) -> ClientSession:
        """Return the pooled session, or with `fresh` one that opens a new connection for every call."""
        session = self._sessions.get(fresh)
        if session is None or session.closed:
            connector = TCPConnector(
                limit=0,
                ttl_dns_cache=60,
                resolver=GuardedResolver(),
                force_close=fresh,
                keepalive_timeout=None if fresh else _KEEP_ALIVE,
                socket_factory=_socket,
            )
            session = ClientSession(
                connector=connector,
                cookie_jar=DummyCookieJar(),
                max_line_size=_MAX_HEADER,
                max_field_size=_MAX_HEADER,
            )
            self._sessions[fresh] = session
        return session

    async def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()

    def _timeout(self, endpoint: Endpoint) -> ClientTimeout:
        usual = NEAR_READ_TIMEOUT if endpoint.near else READ_TIMEOUT
        read = endpoint.timeout or self._read_timeout or usual
        return ClientTimeout(total=None, sock_connect=self._connect_timeout, sock_read=read)

    async def _post(self, endpoint: Endpoint, url: URL, body: bytes) -> ClientResponse:
        """POST; retry once on a new connection if the pooled one turns out to be closed by the server."""
        began = time.monotonic()
        for fresh in (False, True):
            data: bytes | io.BytesIO = body if len(body) < _LARGE_BODY else io.BytesIO(body)
            try:
                return await self._session(fresh=fresh).post(
                    url,
                    data=data,
                    headers=with_trace(endpoint.headers("POST", url, body)),
                    allow_redirects=False,
                    timeout=self._timeout(endpoint),
                )
            except (ServerDisconnectedError, ClientOSError) as error:
                known = isinstance(error, ClientConnectorError) or time.monotonic() - began > _STALE_WITHIN
                if fresh or known:
                    raise
        raise AssertionError("unreachable")

    async def _at_either(
        self,
        endpoint: Endpoint,
        path: str,
        query: Mapping[str, str] | None,
        call: Callable[[URL], Awaitable[Result]],
    ) -> Result:
        """Call the address, and its other form if the server has no such address.

        The form that the server knows is remembered.
        """
        base, other = endpoint.base, endpoint.other
        try:
            return await call(endpoint.url(path, query, base))
        except ModelError as error:
            if other is None or error.code != WRONG_ADDRESS:
                raise
            first = error
        try:
            result = await call(endpoint.url(path, query, other))
        except ModelError as error:
            if error.status not in _KNOWS_ADDRESS:
                raise first from None
            endpoint.base, endpoint.other = other, base
            raise
        endpoint.base, endpoint.other = other, base
        return result

    async def stream(
        self,
        endpoint: Endpoint,
        path: str,
        body: bytes,
        answer: Sink,
        first_byte: float | None = None,
        *,
        query: Mapping[str, str] | None = None,
    ) -> None:
        """POST `body`, and pass all that the server answers to `answer`, until it is complete.

        The caller must check whether the answer is complete. Cancelling closes the connection at once.

        Args:
            first_byte: seconds until the first byte. Servers nearby, and providers with a limit of their own,
                have their usual time.
            query: parameters of the address, besides those of the endpoint.

        Raises:
            ModelError: the call failed, in whatever way.
        """
        limit = None if endpoint.near or endpoint.timeout is not None else first_byte
        await self._at_either(
            endpoint, path, query, lambda url: self._stream(endpoint, url, body, answer, limit)
        )

    async def _stream(
        self, endpoint: Endpoint, url: URL, body: bytes, answer: Sink, first_byte: float | None
    ) -> None:
        response: ClientResponse | None = None
        try:
            async with contextlib.nullcontext() if first_byte is None else asyncio.timeout(first_byte):
                response = await self._post(endpoint, url, body)
                chunk = await self._first_bytes(response) if 200 <= response.status < 300 else b""
            if not 200 <= response.status < 300:
                raise await _refused(endpoint, response)
            await self._pump(endpoint, response, chunk, answer)
        except ModelError as error:
            raise endpoint.clean(error) from None
        except StreamTooLong as error:
            raise bad_response(f"the provider's answer cannot be read: {error}", transient=False) from None
        except (TimeoutError, ClientError, OSError) as error:
            if not answer.complete:
                raise _broken(endpoint, error, answering=response is not None) from None
        finally:
            # This has no effect on a response that was read to its end: its connection is back in the pool.
            if response is not None:
                response.close()

    async def _pump(self, endpoint: Endpoint, response: ClientResponse, chunk: bytes, answer: Sink) -> None:
        content = response.content
        if chunk.lstrip(_BLANK)[:1] in {b"{", b"[", b"<"} or _is_words(response, chunk):
            await _pump_whole(endpoint, response, chunk, answer)
            return
        parser = answer.framing(self._max_event, self._max_stream)
        while chunk:
            await _feed(answer, parser.feed(chunk))
            if answer.done:
                if not content.at_eof():
                    await _drain(response, parser, answer)
                return
            if answer.complete:
                async with asyncio.timeout(_TAIL_TIMEOUT):
                    chunk = await content.readany()
            else:
                chunk = await content.readany()
        try:
            await _feed(answer, parser.flush())
        except ModelError as error:
            # The last event is not finished. It would be quoted as a violation of the protocol.
            if error.code != "provider_bad_response":
                raise

    async def _first_bytes(self, response: ClientResponse) -> bytes:
        """Return the first bytes that are not white space, which shows whether the answer is a stream."""
        size = 0
        while chunk := await response.content.readany():
            size += len(chunk)
            if chunk.lstrip(_BLANK):
                return chunk
            if size > self._max_stream:
                raise StreamTooLong("stream", self._max_stream)
        return b""

    async def get_json(self, endpoint: Endpoint, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """GET a JSON document of up to `MAX_BODY` bytes, within `LIST_TIMEOUT` seconds.

        Raises:
            ModelError: the call failed, in whatever way.
        """
        return await self._at_either(endpoint, path, query, lambda url: self._get(endpoint, url))

    async def _get(self, endpoint: Endpoint, url: URL) -> bytes:
        response: ClientResponse | None = None
        try:
            async with asyncio.timeout(LIST_TIMEOUT):
                response = await self._session().get(
                    url, headers=endpoint.headers("GET", url), allow_redirects=False
                )
                if not 200 <= response.status < 300:
                    raise await _refused(endpoint, response)
                body = await _limited(response, MAX_BODY + 1)
                if len(body) > MAX_BODY:
                    raise bad_response(
                        f"the provider's list is larger than {MAX_BODY >> 20} MB", transient=False
                    )
                return body
        except ModelError as error:
            raise endpoint.clean(error) from None
        except (TimeoutError, ClientError, OSError) as error:
            raise _broken(endpoint, error, answering=response is not None) from None
        finally:
            if response is not None:
                response.close()


def _socket(address: AddrInfoType) -> socket.socket:
    """Open a socket that notices within minutes when the other side is gone without a word."""
    family, kind, protocol, _, _ = address
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES:
        if hasattr(socket, name):  # not on every system
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return opened


async def _feed(answer: Sink, frames: list[Frame]) -> None:
    """Pass events to the answer. An error that follows a complete answer does not spoil it."""
    feed = answer.feed
    for frame in frames:
        try:
            if len(frame.data) <= LONG:
                feed(frame.data, frame.event)
            else:
                await answer.feed_long(frame.data, frame.event)
        except ModelError:
            if not answer.complete:
                raise


def _is_words(response: ClientResponse, chunk: bytes) -> bool:
    """Whether the answer is plain words, which no parser of streams would see."""
    return not _FIELD.match(chunk.lstrip(_BLANK)) and response.content_type == "text/plain"


async def _drain(response: ClientResponse, parser: Parser, answer: Sink) -> None:
    """Read what follows the end mark, such as a late usage, if it arrives at once."""
    with contextlib.suppress(TimeoutError, ClientError, OSError, StreamTooLong):
        async with asyncio.timeout(_DRAIN_TIMEOUT):
            while chunk := await response.content.readany():
                await _feed(answer, parser.feed(chunk))


async def _pump_whole(endpoint: Endpoint, response: ClientResponse, head: bytes, answer: Sink) -> None:
    """Read an answer that is no stream: a whole completion, an error object or a web page."""
    body = head + await _limited(response, MAX_BODY + 1 - len(head))
    if len(body) > MAX_BODY:
        raise bad_response(f"the provider's answer is larger than {MAX_BODY >> 20} MB", transient=False)
    if not body.lstrip(_BLANK).startswith(b"<"):
        try:
            await answer.feed_long(body)
        except ModelError as error:
            if no_such_address(error):  # LM Studio says so with status 200
                raise _refusal(endpoint, response, body, 404) from None
            raise
        answer.end()
    if not answer.complete:
        raise disguised(response.content_type, body, endpoint.secrets, _address(response))


async def _limited(response: ClientResponse, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while size < limit and (piece := await response.content.readany()):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)[:limit]


async def _refused(endpoint: Endpoint, response: ClientResponse) -> ModelError:
    body = b""
    with contextlib.suppress(TimeoutError, ClientError, OSError):
        async with asyncio.timeout(_ERROR_TIMEOUT):
            body = await _limited(response, _ERROR_BODY)
    return _refusal(endpoint, response, body, response.status)


def _refusal(endpoint: Endpoint, response: ClientResponse, body: bytes, status: int) -> ModelError:
    return refusal(status, response.headers, body, endpoint.secrets, _address(response))


def _address(response: ClientResponse) -> str:
    """Return the URL that was called, without credentials and query."""
    return str(response.url.with_user(None).with_query(None))


def _broken(endpoint: Endpoint, error: Exception, *, answering: bool) -> ModelError:
    """Build the error for a call that did not end in an answer or a refusal."""
    if isinstance(error, TimeoutError) and not isinstance(error, ConnectionTimeoutError):
        what = "stopped sending" if answering else "did not answer in time"
        said = f"the provider {what} ({type(error).__name__})"
        return ModelError(said, code="provider_timeout", transient=True)
    if answering:
        said = f"the connection to the provider broke in the middle of the answer ({type(error).__name__})"
        return bad_response(said, transient=True)
    if isinstance(error, ClientConnectorCertificateError | ClientSSLError):
        said = f"the provider's TLS connection is not valid: {error}"
        return endpoint.clean(ModelError(said, code="provider_unavailable"))
    if isinstance(error, ClientResponseError):
        # It would be the same next time. What follows the sentence is advice to programmers.
        said = f"the provider's answer is not HTTP as it was asked for: {error.message.partition('. ')[0]}"
        return endpoint.clean(bad_response(said, transient=False))
    # aiohttp mentions TLS even for plain HTTP.
    reason = str(error).replace(" ssl:default", "") or type(error).__name__
    said = f"the provider cannot be reached: {reason}"
    return endpoint.clean(ModelError(said, code="provider_unavailable", transient=True))
