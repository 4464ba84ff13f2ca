"""The request context that handlers receive, and the types of result that they may return."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from perdure.api.kernel.asgi import Asgi, Header, Headers, Receive, header_text
from perdure.app.context import App
from perdure.app.idempotency import Once
from perdure.domain.accounts import Caller

T = TypeVar("T")

SMALL = 64 * 1024
"""Bytes of a chunk that are copied rather than sent alone."""


class Call:
    """The context of one request.

    Attributes:
        request_id: the id under which the server's log has the request.
        reason: why something is to be changed, if a command says so.
        address: the network address that the request came from, a proxy's if there is one; None if unknown.
        headers: the request's headers, by name in lower case.
        if_match: the entity tags of the `If-Match` header, on routes with entity tags; None without one.
        once: the request's Idempotency-Key, on routes that accept one; None without one. The handler passes
            it to the use case, which runs its one transaction through `write_once`.
        warnings: what the response tells the client: the fields and parameters that were ignored.
        run_command: runs another route with these parameters, for this caller.
        receive: waits for what the connection says after the request: that the client has left.
    """

    __slots__ = (
        "address",
        "app",
        "caller",
        "headers",
        "if_match",
        "once",
        "reason",
        "receive",
        "request_id",
        "run_command",
        "warnings",
    )

    def __init__(
        self,
        app: App,
        caller: Caller,
        headers: Headers,
        run_command: RunCommand,
        receive: Receive,
        address: str | None = None,
        request_id: str | None = None,
    ) -> None:
        self.address = address
        self.app = app
        self.caller = caller
        self.headers = headers
        self.if_match: frozenset[str] | None = None
        self.once: Once | None = None
        self.reason: str | None = None
        self.request_id = request_id
        self.warnings: list[str] = []
        self.run_command = run_command
        self.receive = receive

    def header(self, name: bytes) -> str | None:
        """Return a header's value, or None if it was not sent. `name` is in lower case."""
        return header_text(self.headers, name)


RunCommand = Callable[[Call, str, dict[str, Raw]], Awaitable["Reply"]]


class Answer(Struct, Generic[T], frozen=True):
    """A JSON response with its own status, entity tag or headers.

    Attributes:
        status: the HTTP status; None for the route's status.
        etag: the entity tag, without quotes; None for no tag.
    """

    value: T
    status: int | None = None
    etag: str | None = None
    headers: tuple[Header, ...] = ()


class Encoded(Struct, Generic[T], frozen=True):
    """A `T` that is already encoded as JSON."""

    body: bytes


class Chunked(Struct, Generic[T], frozen=True):
    """A `T` that is encoded while the client reads it, so that a response of any size takes little memory.

    Attributes:
        chunks: the body. Nothing is sent until the first ones are there, so they may raise errors.
        etag: the entity tag, without quotes; None for no tag.
        headers: further headers.
        size: the body's size in bytes, if it is known before.
    """

    chunks: AsyncIterator[bytes]
    content_type: bytes = b"application/json"
    etag: str | None = None
    headers: tuple[Header, ...] = ()
    size: int | None = None


class Reply(Struct, frozen=True):
    """A complete response: not JSON, an error, or a 304."""

    body: bytes = b""
    status: int = 200
    content_type: bytes = b"application/json"
    headers: tuple[Header, ...] = ()


class Stream(Struct, frozen=True):
    """A response that this ASGI application sends itself."""

    run: Asgi


async def json_array(batches: AsyncIterable[Sequence[object]]) -> AsyncIterator[bytes]:
    """Encode the items of batches as one JSON array, as they come."""
    yield b"["
    comma = b""
    encoder = msgspec.json.Encoder()
    async for batch in batches:
        if batch:
            body = b",".join([encoder.encode(item) for item in batch])
            if len(body) < SMALL:
                yield comma + body
            else:
                yield comma
                yield body  # without another copy
            comma = b","
        batch, body = (), b""  # noqa: PLW2901 (they may be large, and the next ones are about to be made)
    yield b"]"


async def json_list(
    batches: AsyncIterable[Sequence[object]], ending: Callable[[], bytes] = bytes
) -> AsyncIterator[bytes]:
    """Encode the items of batches as the JSON of a `Listing`, as they come.

    Args:
        ending: called at the end; returns the list's further members, each after a comma.
    """
    yield b'{"data":'
    async for chunk in json_array(batches):
        yield chunk
    yield ending() + b"}"
