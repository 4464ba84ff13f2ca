"""The part of ASGI that this server uses, with types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NotRequired, Protocol, Required, TypedDict

from perdure.domain.errors import InvalidInput

Header = tuple[bytes, bytes]
Headers = dict[bytes, bytes]
"""A request's headers, by name in lower case."""

NOT_STORED: Header = (b"cache-control", b"no-store")
"""The header of a response that no cache may keep."""

OLD_HTTP = b":http-version"
"""The name under which the headers of a request over HTTP/1.0 have its version. No client can send it."""


class Wire(Protocol):
    """The connection of a request, which our server passes as an extension of ASGI."""

    def abort(self) -> None:
        """Close it at once, and drop its buffered data."""
        ...

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""
        ...

    def is_unread(self) -> bool:
        """Whether a part of the request's body has not arrived yet."""
        ...

    def is_paused(self) -> bool:
        """Whether the write buffer is full, so that sending has to wait for the client."""
        ...


class Scope(TypedDict):
    """What ASGI passes for a request before its body."""

    type: str
    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    headers: Iterable[Header]
    http_version: NotRequired[str]
    client: NotRequired[tuple[str, int] | None]
    extensions: NotRequired[dict[str, Wire]]


class Message(TypedDict, total=False):
    """One ASGI message: a part of a request's body or of its response."""

    type: Required[str]
    status: int
    headers: list[Header]
    body: bytes
    more_body: bool


Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


_ONCE = frozenset(
    {b"host", b"origin", b"sec-fetch-site", b"authorization", b"x-org-id", b"content-type", b"content-length"}
    | {b"mcp-protocol-version", b"mcp-method", b"mcp-name"}
)
"""Headers that decide who the caller is, or how the body is read and routed."""


def headers_of(scope: Scope) -> Headers:
    """Return the request's headers. Of a header that was sent twice, the last one counts.

    Raises:
        InvalidInput: a header that decides about access was sent twice: proxies and servers may disagree
            which one counts.
    """
    pairs = list(scope["headers"])
    headers = dict(pairs)
    if len(headers) < len(pairs):
        names = [name for name, _ in pairs]
        for name in _ONCE:
            if names.count(name) > 1:
                raise InvalidInput(
                    f"the header {name.decode()} is sent {names.count(name)} times: send it once",
                    code="repeated_header",
                )
    if scope.get("http_version") == "1.0":
        headers[OLD_HTTP] = b"1.0"
    return headers


def header_text(headers: Headers, name: bytes) -> str | None:
    """Return a header's value, or None if it was not sent. `name` is in lower case."""
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
