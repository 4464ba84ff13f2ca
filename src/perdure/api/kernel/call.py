"""The request context that handlers receive, and the types of result that they may return."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

from perdure.api.kernel.asgi import Asgi, Header, Headers, header_text
from perdure.app.context import App
from perdure.app.idempotency import Once
from perdure.domain.accounts import Caller

T = TypeVar("T")


class Call:
    """The context of one request.

    Attributes:
        headers: the request's headers, by name in lower case.
        if_match: the entity tags of the `If-Match` header, on routes with entity tags; None without one.
        once: the request's Idempotency-Key, on routes that accept one; None without one. The handler passes
            it to the use case, which runs its one transaction through `write_once`.
    """

    __slots__ = ("app", "caller", "headers", "if_match", "once")

    def __init__(self, app: App, caller: Caller, headers: Headers) -> None:
        self.app = app
        self.caller = caller
        self.headers = headers
        self.if_match: frozenset[str] | None = None
        self.once: Once | None = None

    def header(self, name: bytes) -> str | None:
        """Return a header's value, or None if it was not sent. `name` is in lower case."""
        return header_text(self.headers, name)


class Answer(Struct, Generic[T], frozen=True):
    """A JSON response with its own status or entity tag.

    Attributes:
        status: the HTTP status; None for the route's status.
        etag: the entity tag, without quotes; None for no tag.
    """

    value: T
    status: int | None = None
    etag: str | None = None


class Encoded(Struct, Generic[T], frozen=True):
    """A `T` that is already encoded as JSON."""

    body: bytes


class Reply(Struct, frozen=True):
    """A complete response: not JSON, an error, or a 304."""

    body: bytes = b""
    status: int = 200
    content_type: bytes = b"application/json"
    headers: tuple[Header, ...] = ()


class Stream(Struct, frozen=True):
    """A response that this ASGI application sends itself."""

    run: Asgi
