"""One exchange of MCP over HTTP: a POST, and an answer that is JSON or a stream of events.

Connections are kept, in one pool for each set of network rules. Addresses are checked as for the tools that
fetch pages. No cookie is stored, and a redirect is followed only within the same origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ConnectionTimeoutError,
)
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDict
from yarl import URL

from perdure.domain.errors import ToolError
from perdure.domain.mcp import McpUnauthorized, McpUnreachable
from perdure.domain.mcp_wire import Incoming, Malformed, RpcError, read_messages, text_in
from perdure.domain.network import NetworkRules
from perdure.domain.retry_after import retry_after
from perdure.domain.sse import Frame, SseParser, StreamTooLong
from perdure.net.addresses import SystemResolver
from perdure.net.mcp.cleaning import Cleaner
from perdure.net.mcp.endpoints import McpEndpoint
from perdure.net.mcp.pools import MAX_HEADER, Habits, Mark, Pool
from perdure.net.web_client import (
    Inflater,
    checked_url,
    is_same_origin,
    read_body,
    reason_of,
)

MAX_POOLS = 64
MAX_ANSWER = 8 << 20
"""Bytes of an answer, or of one event."""
MAX_REDIRECTS = 3

_STREAM_FACTOR = 2  # a stream's notifications may take as much as its answer
_ERROR_BODY = 64 << 10
_IN_THREAD = 256 << 10
_TAIL = 1.0
_TURN = 0.01
_SLICE = 16 << 10
_LARGE_BODY = 1 << 20  # aiohttp warns about larger ones unless they are file objects
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_BLANK = b" \t\r\n\xef\xbb\xbf"
_EVENTS = re.compile(rb":|(data|event|id|retry)\b", re.IGNORECASE)

OWN_HEADERS = frozenset(
    {
        "accept", "accept-encoding", "connection", "content-length", "content-type", "expect", "host",
        "keep-alive", "last-event-id", "mcp-method", "mcp-name", "mcp-protocol-version", "mcp-session-id",
        "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Headers that the client decides itself, in lower case."""


class Broken(Exception):
    """There is no answer that can be read.

    Attributes:
        sent: whether the request may have reached the server.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Unreadable(Broken):
    """The server answered, but with what is not the protocol."""


class Refused(Exception):
    """The server answered with an error of HTTP.

    Attributes:
        error: the JSON-RPC error in its body, if there is one.
        retry_after: seconds to wait, if the server says so.
    """

    def __init__(
        self, message: str, status: int, error: RpcError | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.retry_after = retry_after


class Remote:
    """An endpoint, prepared for requests.

    Attributes:
        name: the server's host and port: paths and queries may hold credentials.
        clean: makes the server's text fit for an error: without what the headers hold.

    Raises:
        McpUnreachable: the URL is not one that may be reached.
    """

    def __init__(self, endpoint: McpEndpoint) -> None:
        self.endpoint = endpoint
        self.key = endpoint.key
        try:
            self.url = checked_url(endpoint.url, endpoint.rules)
        except ToolError as error:
            raise McpUnreachable(f"the MCP server cannot be used: {_without_path(error.message)}") from None
        self.name = f"{self.url.host}:{self.url.port}"
        self.headers = CIMultiDict(fit_headers(endpoint.headers))
        words = (word for _, value in endpoint.headers for word in value.split())
        self.clean = Cleaner(words, "in a header")


def fit_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers without those that the client decides itself.

    Raises:
        McpUnreachable: one cannot be sent.
    """
    kept: list[tuple[str, str]] = []
    for name, value in headers:
        if not _NAME.fullmatch(name) or _CONTROL.search(value) or len(value) > MAX_HEADER:
            shown = text_in(name, 80)
            raise McpUnreachable(
                f"the header {shown!r} of the MCP server cannot be sent: it is not valid, has control "
                f"characters, or is longer than {MAX_HEADER >> 10} KB"
            )
        if name.lower() not in OWN_HEADERS:
            kept.append((name, value))
    return kept


class Http:
    """The connections to all servers; they open at first use. Create one per process.

    Args:
        resolver: resolves names; the system's resolver by default.
    """

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._resolver = resolver
        self._pools: OrderedDict[NetworkRules, Pool] = OrderedDict()
        self._tails: set[asyncio.Task[None]] = set()
        self._habits = Habits()

    async def close(self) -> None:
        """Close all connections."""
        for task in list(self._tails):
            task.cancel()
        pools = list(self._pools.values())
        self._pools.clear()
        for pool in pools:
            await pool.close()

    def _pool(self, rules: NetworkRules) -> Pool:
        pool = self._pools.get(rules)
        if pool is None:
            if self._resolver is None:
                self._resolver = SystemResolver()
            pool = self._pools[rules] = Pool(rules, self._resolver)
        self._pools.move_to_end(rules)
        return pool

    async def _shrink(self) -> None:
        """Close the pools that were used longest ago, except those in use."""
        for rules in [rules for rules, pool in self._pools.items() if not pool.busy][:-MAX_POOLS]:
            await self._pools.pop(rules).close()

    @contextlib.asynccontextmanager
    async def exchange(
        self,
        remote: Remote,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        method: str = "POST",
        max_bytes: int = MAX_ANSWER,
        mark: Mark | None = None,
        once: bool = False,
    ) -> AsyncIterator[Reply]:
        """Send a request, and give its answer as soon as its head has arrived.

        Leaving early closes the connection, which tells the server that nobody waits any more.

        Args:
            method: GET and DELETE have no body.
            max_bytes: bytes of the answer, or of one event.
            mark: notes whether the request may have reached the server.
            once: the request must not be sent twice. It uses a kept connection only if the server is known
                to keep them: a request that meets its closing would be lost. Others are sent again then.

        Raises:
            Broken: nothing was sent, or no whole answer came.
            Refused: the server only redirects.
        """
        pool = self._pool(remote.endpoint.rules)
        pool.busy += 1
        mark = mark or Mark()
        mark.sent = False
        response: ClientResponse | None = None
        try:
            response = await self._answered(pool, remote, headers, body, method, mark, once=once)
            yield Reply(remote, response, max_bytes)
            self._leave(response)
            response = None
        except (ClientConnectorError, ConnectionTimeoutError) as error:
            raise Broken(f"{remote.name} cannot be reached: {_why(remote, error)}", sent=False) from None
        except (ClientError, OSError) as error:
            said = "broke the connection" if mark.sent else "cannot be reached"
            raise Broken(f"{remote.name} {said}: {_why(remote, error)}", sent=mark.sent) from None
        except ValueError as error:  # a header with a line break, for one
            if mark.sent:
                raise
            said = f"the request to {remote.name} is not valid: {type(error).__name__}"
            raise Broken(said, sent=False) from None
        finally:
            pool.busy -= 1
            if response is not None:
                response.close()
            if len(self._pools) > MAX_POOLS:
                await self._shrink()

    async def _answered(
        self,
        pool: Pool,
        remote: Remote,
        headers: Mapping[str, str],
        body: bytes | None,
        method: str,
        mark: Mark,
        *,
        once: bool,
    ) -> ClientResponse:
        """Send a request, on a kept connection if the server is known for that."""
        habits, server = self._habits, f"{remote.url.scheme}://{remote.name}"
        keep = habits.keeps(server) if once else not habits.closes(server)
        try:
            response = await self._sent(pool.session(keep=keep), remote, headers, body, method, mark)
        except (ClientError, OSError):
            if not mark.reused:
                raise
            habits.note(server, kept=False)
            if once:
                raise
            mark.sent = False
            return await self._sent(pool.session(keep=False), remote, headers, body, method, mark)
        if mark.reused:
            habits.note(server, kept=True)
        return response

    async def _sent(
        self,
        session: ClientSession,
        remote: Remote,
        headers: Mapping[str, str],
        body: bytes | None,
        method: str,
        mark: Mark,
    ) -> ClientResponse:
        url = remote.url
        mark.reused = False
        own = CIMultiDict(remote.headers)
        own.update(headers)
        for _ in range(MAX_REDIRECTS + 1):
            large = body is not None and len(body) >= _LARGE_BODY
            data = io.BytesIO(body) if large and body is not None else body
            response = await session.request(
                method, url, headers=own, data=data, allow_redirects=False, trace_request_ctx=mark
            )
            following = _next(url, response)
            if following is None:
                return response
            response.close()
            mark.sent = False  # a redirect says that nothing has run
            url = following
        raise Refused(f"{remote.name} redirects more than {MAX_REDIRECTS} times", 307)

    def _leave(self, response: ClientResponse) -> None:
        """Read what follows the answer in the background, so that the connection can be kept."""
        if response.closed or response.content.at_eof():
            response.release()
            return
        task = asyncio.create_task(_drain(response))
        self._tails.add(task)
        task.add_done_callback(self._tails.discard)


async def _drain(response: ClientResponse) -> None:
    try:
        async with asyncio.timeout(_TAIL):
            size = 0
            while size < _ERROR_BODY and (piece := await response.content.readany()):
                size += len(piece)
    except (TimeoutError, ClientError, OSError):
        pass
    finally:
        response.close()


def _next(url: URL, response: ClientResponse) -> URL | None:
    """Where a redirect of a whole request leads, if that is in the same origin."""
    location = response.headers.get("Location")
    if response.status not in (307, 308) or location is None:
        return None
    try:
        following = url.join(URL(location)).with_fragment(None)
    except ValueError:
        return None
    return following if is_same_origin(url, following) else None


def _why(remote: Remote, error: Exception) -> str:
    said = reason_of(error) if isinstance(error, ClientError) else str(error) or type(error).__name__
    return remote.clean(said.replace(" ssl:default", ""))


def _without_path(message: str) -> str:
    """A message about a URL, without what follows its host."""
    return re.sub(r"(https?://[^/?#\s]*)[/?#]\S*", r"\1/...", message)


class Reply:
    """An answer whose head has arrived.

    Attributes:
        last_event: the id of the last event that had one: where the stream can be resumed.
        retry: seconds to wait before that, if the server says so.
    """

    def __init__(self, remote: Remote, response: ClientResponse, max_bytes: int) -> None:
        self._remote = remote
        self._response = response
        self._max_bytes = max_bytes
        self.status = response.status
        self.headers = response.headers
        self.last_event: str | None = None
        self.retry: float | None = None

    async def accepted(self) -> None:
        """Check the status.

        Raises:
            McpUnauthorized: the server wants a sign-in, or more scopes.
            Refused: another status than 2xx.
        """
        if 200 <= self.status < 300:
            return
        name = self._remote.name
        if self.status in (401, 403):
            challenge = ", ".join(self.headers.getall("WWW-Authenticate", []))[:MAX_HEADER]
            what = "wants a sign-in" if self.status == 401 else "refuses these credentials"
            raise McpUnauthorized(f"{name} {what} (status {self.status})", self.status, challenge)
        if 300 <= self.status < 400:
            raise Refused(f"{name} redirects to another address: use the address itself", self.status)
        error: RpcError | None = None
        with contextlib.suppress(ToolError, ClientError):  # the status says it as well
            error = _error_in((await read_body(self._response, _ERROR_BODY))[0])
        said = f": {self._remote.clean(str(error.message))}" if error else ""
        wait = retry_after(self.headers, time.time()) if self.status in (429, 503) else None
        raise Refused(f"{name} answered with status {self.status}{said}", self.status, error, wait)

    async def messages(self) -> AsyncGenerator[Incoming, None]:
        """Give the messages of the answer as they arrive.

        Raises:
            Broken: what arrives cannot be read, or is too long.
        """
        try:
            first = await self._first()
            if first.lstrip(_BLANK)[:1] in (b"{", b"["):
                for message in await decoded(await self._whole(first)):
                    yield message
            elif first and (self._is_stream or _EVENTS.match(first.lstrip(_BLANK))):
                async with contextlib.aclosing(self._streamed(first)) as messages:
                    async for message in messages:
                        yield message
            elif first:
                raise Malformed(f"it is of the type {text_in(self._response.content_type, 80)!r}")
        except (Malformed, StreamTooLong, ToolError) as error:
            said = self._remote.clean(str(error))
            said = f"{self._remote.name} gave an answer that cannot be read: {said}"
            raise Unreadable(said, sent=True) from None

    @property
    def _is_stream(self) -> bool:
        return self._response.content_type == "text/event-stream"

    async def _first(self) -> bytes:
        """The first bytes that are not blank, decompressed; they tell a stream from JSON."""
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
            raise Malformed(f"it has the encoding {text_in(encoding, 40)!r}")
        self._inflater = Inflater(encoding) if encoding not in ("identity", "") else None
        self._read = 0
        held = b""
        while len(held) < _ERROR_BODY and not held.lstrip(_BLANK):
            piece = await self._piece()
            if not piece:
                break
            held += piece
        return held

    async def _piece(self) -> bytes:
        """The next decompressed bytes; none at the end."""
        while True:
            raw = await self._response.content.readany()
            if not raw:
                return b""
            room = self._max_bytes * _STREAM_FACTOR + 1 - self._read
            piece = raw
            if self._inflater is not None:  # in a thread: a few bytes may become many
                piece = await asyncio.to_thread(self._inflater.feed, raw, room)
            self._read += len(piece)
            if self._read > self._max_bytes * _STREAM_FACTOR:
                raise Malformed(f"it is longer than {self._max_bytes * _STREAM_FACTOR} bytes")
            if piece:
                return piece

    async def _whole(self, first: bytes) -> bytes:
        held = bytearray(first)
        while piece := await self._piece():
            held += piece
            if len(held) > self._max_bytes:
                raise Malformed(f"it is longer than {self._max_bytes} bytes")
        return bytes(held)

    async def _streamed(self, first: bytes) -> AsyncGenerator[Incoming, None]:
        parser = SseParser(self._max_bytes, None)
        piece = first
        turns = Turns()
        while piece:
            for frame in await _frames(parser, piece, turns):
                if frame.id is not None:
                    self.last_event = frame.id[:1024]
                if frame.retry is not None:
                    self.retry = frame.retry / 1000.0
                if frame.data.strip() and frame.event == "message":
                    for message in await decoded(frame.data):
                        yield message
                await turns.taken()
            piece = await self._piece()


class Turns:
    """Lets others run while one reads what a server has sent much of: a read that is ready never waits."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def taken(self) -> None:
        """Let others run, if this one has had the loop for its time."""
        if time.monotonic() - self._since > _TURN:
            await asyncio.sleep(0)
            self._since = time.monotonic()


async def _frames(parser: SseParser, piece: bytes, turns: Turns) -> list[Frame]:
    """The events that end in a piece, which is parsed in small slices."""
    frames: list[Frame] = []
    for start in range(0, len(piece), _SLICE):
        frames += parser.feed(piece[start : start + _SLICE])
        await turns.taken()
    return frames


async def decoded(body: bytes) -> tuple[Incoming, ...]:
    """Decode messages; large ones in a thread, so that nothing else waits. Raises Malformed."""
    if len(body) > _IN_THREAD:
        return await asyncio.to_thread(read_messages, body)
    return read_messages(body)


def _error_in(body: bytes) -> RpcError | None:
    """The JSON-RPC error in the body of an HTTP error. Its id may be of any kind."""
    if body.lstrip(_BLANK)[:1] != b"{":
        frames = SseParser(_ERROR_BODY).feed(body + b"\n\n") if _EVENTS.match(body.lstrip(_BLANK)) else []
        body = frames[0].data if frames else b""
    try:
        messages = read_messages(body)
    except Malformed:
        return None
    return messages[0].error if messages else None
