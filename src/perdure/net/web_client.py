"""SSRF-safe fetch for untrusted callers.

The address is checked after the name is resolved, on every redirect, and the connection goes to exactly the
checked address, so DNS rebinding has no effect. Size and time limits apply while the response arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver
from msgspec import Struct
from yarl import URL

from perdure.domain.errors import ToolError
from perdure.domain.messages import storable
from perdure.domain.network import NetworkRules, plain_host
from perdure.net.addresses import (
    CheckedResolver,
    SystemResolver,
    is_reachable,
    is_refused_host,
    plain_address,
)

MAX_BYTES = 1_000_000
"""Bytes of a response that are read, after decompression."""

TIME_LIMIT = 20.0
"""Seconds for the whole fetch: lookups, redirects, the response."""

MAX_REDIRECTS = 5
MAX_MEMBERS = 100
"""Gzip members that are read after the first one: a stream of empty members would only cost time."""

MAX_URL = 2048
_PORTS = frozenset({80, 443})
_FIRST_FREE_PORT = 1024
"""Ports below it, except _PORTS, belong to services that are not for the web: mail, remote shells, files."""

_PIECE = 64 * 1024
_HEADERS = {
    "User-Agent": "perdure (a tool of an agent)",
    "Accept": "text/markdown, text/html, application/xhtml+xml, application/json, text/*;q=0.9, */*;q=0.5",
    "Accept-Encoding": "gzip, deflate",
}
_GZIP = b"\x1f\x8b"
REDIRECTS = frozenset({301, 302, 303, 307, 308})
"""Statuses that redirect a request to another URL."""


class Page(Struct, frozen=True):
    """A fetched page.

    Attributes:
        url: the final URL, after redirects.
        content_type: in lower case, without parameters; empty when the server sends none.
        charset: as the server declares it.
        truncated: whether the response was longer than what was read.
        refresh: the header that forwards a browser to another page, if there is one.
    """

    url: str
    status: int
    content_type: str
    charset: str | None
    body: bytes
    truncated: bool
    refresh: str = ""


class _Refused(OSError):
    """No address of a name may be reached. It is an OSError because resolvers may raise only that."""


def checked_resolver(inner: AbstractResolver, rules: NetworkRules) -> CheckedResolver:
    """A resolver that returns only addresses that these rules let a tool reach."""
    return CheckedResolver(
        inner,
        lambda address: _reachable(address, rules),
        lambda host: _Refused(f"{host} is not a public host"),
    )


@contextlib.asynccontextmanager
async def guarded_session(
    rules: NetworkRules,
    seconds: float,
    headers: Mapping[str, str],
    resolver: AbstractResolver | None = None,
    line_size: int = 8_190,
) -> AsyncIterator[ClientSession]:
    """Open a client that reaches only what the rules allow, without cookies and kept connections.

    Args:
        seconds: the time for everything that is done with it.
        headers: sent with every request.
        resolver: resolves names; the system's resolver by default.
        line_size: bytes of a line of a response's head; by default, the library's limit.

    Raises:
        TimeoutError: the time is over.
    """
    checked = checked_resolver(resolver or SystemResolver(), rules)
    connector = TCPConnector(resolver=checked, use_dns_cache=False, force_close=True)
    try:
        async with (
            asyncio.timeout(seconds),
            ClientSession(
                connector=connector,
                cookie_jar=DummyCookieJar(),
                auto_decompress=False,
                headers=headers,
                timeout=ClientTimeout(total=seconds),
                max_line_size=line_size,
                max_field_size=line_size,
            ) as session,
        ):
            yield session
    finally:
        await checked.close()


async def fetch(
    url: str, rules: NetworkRules, *, max_bytes: int = MAX_BYTES, resolver: AbstractResolver | None = None
) -> Page:
    """GET a page, following redirects.

    Args:
        max_bytes: bytes of the decompressed body to read at most.
        resolver: resolves names; the system's resolver by default.

    Raises:
        ToolError: the URL is refused or cannot be fetched; the message is for the model.
    """
    try:
        async with guarded_session(rules, TIME_LIMIT, _HEADERS, resolver, line_size=16_384) as session:
            return await _follow(session, url, rules, max_bytes)
    except TimeoutError:
        raise ToolError(
            f"{short_url(url)} did not send a complete response within {TIME_LIMIT:g} seconds"
        ) from None
    except ClientError as error:
        raise ToolError(f"{short_url(url)} cannot be fetched: {reason_of(error)}") from None


async def _follow(session: ClientSession, url: str, rules: NetworkRules, max_bytes: int) -> Page:
    target = checked_url(url, rules)
    for _ in range(MAX_REDIRECTS + 1):
        async with session.get(target, allow_redirects=False) as response:
            location = response.headers.get("Location")
            if response.status not in REDIRECTS or location is None:
                return await _page(response, target, max_bytes)
        target = next_target(target, location, rules)
    raise ToolError(f"{short_url(url)} redirects more than {MAX_REDIRECTS} times")


def next_target(target: URL, location: str, rules: NetworkRules) -> URL:
    """The checked URL that `target` redirects to. Raises ToolError as `checked_url` does."""
    try:
        following = target.join(URL(location))
    except ValueError:
        raise ToolError(f"{short_url(str(target))} redirects to an invalid URL") from None
    return checked_url(str(following), rules)


def is_same_origin(one: URL, other: URL) -> bool:
    """Whether two URLs have the same scheme, host and port."""
    return (one.scheme, one.raw_host, one.port) == (other.scheme, other.raw_host, other.port)


def checked_url(text: str, rules: NetworkRules) -> URL:
    """Parse a URL and check its scheme, port and host. The address is checked after resolution.

    Raises:
        ToolError: the URL is not valid or not allowed.
    """
    try:
        url = URL(text.strip())
        port = url.port
    except ValueError:
        raise ToolError(f"{short_url(text)} is not a URL") from None
    if len(text) > MAX_URL:
        raise ToolError(f"a URL may have at most {MAX_URL} characters")
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise ToolError(f"{short_url(text)}: only http and https URLs can be fetched")
    if url.user is not None or url.password is not None:
        raise ToolError("a URL that contains a user name or password cannot be fetched")
    if port not in _PORTS and (port or 0) < _FIRST_FREE_PORT:
        raise ToolError(f"port {port} is not allowed: use 80, 443, or a port from {_FIRST_FREE_PORT} upwards")
    host = plain_address(url.raw_host) or plain_host(url.raw_host)
    if not rules.permits(host):
        raise ToolError(f"{host} is not one of the hosts that this session may reach")
    address = plain_address(url.raw_host)
    if is_refused_host(host) or (address is not None and not _reachable(address, rules)):
        raise ToolError(f"{host} is not a public host")
    return url.with_fragment(None)


def _reachable(address: str, rules: NetworkRules) -> bool:
    return not rules.blocks(plain_address(address) or address) and is_reachable(address, rules.private)


async def _page(response: ClientResponse, url: URL, max_bytes: int) -> Page:
    # Header bytes that are not valid text arrive as lone surrogates.
    header = storable(response.headers.get("Content-Type", ""))
    kind, _, rest = header.partition(";")
    body, truncated = await read_body(response, max_bytes)
    charset = next(
        (
            value.strip(" \"'")
            for name, _, value in (part.partition("=") for part in rest.split(";"))
            if name.strip().lower() == "charset"
        ),
        None,
    )
    refresh = storable(response.headers.get("Refresh", ""))
    return Page(str(url), response.status, kind.strip().lower(), charset, body, truncated, refresh)


async def read_body(response: ClientResponse, max_bytes: int) -> tuple[bytes, bool]:
    """The decompressed body, and whether the response is longer."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise ToolError(f"the response has the encoding {encoding[:40]!r}, which is not supported")
    inflater = Inflater(encoding) if encoding not in ("identity", "") else None
    held = bytearray()
    async for piece in response.content.iter_chunked(_PIECE):
        # One byte over the limit tells that the response is longer.
        room = max_bytes + 1 - len(held)
        held += piece[:room] if inflater is None else inflater.feed(piece, room)
        if len(held) > max_bytes:
            return bytes(held[:max_bytes]), True
    return bytes(held), inflater is not None and inflater.wants_more


class Inflater:
    """Decompresses only as much as the caller has room for, so a decompression bomb is never expanded."""

    def __init__(self, encoding: str) -> None:
        self._raw_allowed = encoding == "deflate"
        self._engine: Any = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        self._left = MAX_MEMBERS
        self.wants_more = False  # whether the compressed data ended early

    def feed(self, piece: bytes, room: int) -> bytes:
        """Decompress a piece into at most `room` bytes. A gzip stream may consist of several members."""
        output = b""
        while piece and len(output) < room:
            if self._engine.eof:
                if not _GZIP.startswith(piece[:2]) or self._left == 0:
                    break  # trailing bytes that are not gzip, or too many members
                self._engine = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
                self._left -= 1
            output += self._step(piece, room - len(output))
            piece = self._engine.unused_data
        self.wants_more = not self._engine.eof
        return output

    def _step(self, piece: bytes, room: int) -> bytes:
        try:
            output: bytes = self._engine.decompress(piece, room)
        except zlib.error:
            if not self._raw_allowed:
                raise ToolError("the response does not match its Content-Encoding") from None
            # "deflate" means zlib's format with a header; some servers leave the header out.
            self._raw_allowed = False
            self._engine = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
            return self._step(piece, room)
        self._raw_allowed = False
        return output


def reason_of(error: ClientError) -> str:
    """Say why a request failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _Refused):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return storable(str(error) or type(error).__name__)


def short_url(url: str) -> str:
    """The URL, cut for an error message."""
    return url if len(url) <= MAX_URL else url[:MAX_URL] + "..."
