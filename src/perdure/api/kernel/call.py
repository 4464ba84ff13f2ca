"""What a handler gets beside its parameters, and what it may answer with."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

from perdure.api.kernel.asgi import Asgi, Header, Headers, header_text
from perdure.app.context import App
from perdure.app.idempotency import Once
from perdure.domain.accounts import Caller

T = TypeVar("T")


class Call:
    """One request.

    Attributes:
        if_match: the entity tags of an `If-Match` header, on routes that have entity tags.
        once: the request's Idempotency-Key, on routes that take one: the use case's one transaction runs
            through `write_once` with it.
    """

    __slots__ = ("app", "caller", "headers", "if_match", "once")

    def __init__(self, app: App, caller: Caller, headers: Headers) -> None:
        self.app = app
        self.caller = caller
        self.headers = headers
        self.if_match: frozenset[str] | None = None
        self.once: Once | None = None

    def header(self, name: bytes) -> str | None:
        """A header's text (names in lower case)."""
        return header_text(self.headers, name)


class Answer(Struct, Generic[T], frozen=True):
    """A value with a status or an entity tag of its own.

    Attributes:
        status: None for the route's own.
        etag: without quotes; None for no entity tag.
    """

    value: T
    status: int | None = None
    etag: str | None = None


class Encoded(Struct, Generic[T], frozen=True):
    """JSON of a `T` that is written out already."""

    body: bytes


class Reply(Struct, frozen=True):
    """An answer that is not JSON, or is not one of the route's answers: an error, a 304."""

    body: bytes = b""
    status: int = 200
    content_type: bytes = b"application/json"
    headers: tuple[Header, ...] = ()


class Stream(Struct, frozen=True):
    """An answer that is sent by this ASGI application."""

    run: Asgi
