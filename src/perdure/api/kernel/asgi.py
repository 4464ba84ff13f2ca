"""The part of ASGI that this server uses, with types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NotRequired, Required, TypedDict

Header = tuple[bytes, bytes]
Headers = dict[bytes, bytes]
"""A request's headers, by name in lower case."""


class Scope(TypedDict):
    """What ASGI passes for a request before its body."""

    type: str
    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    headers: Iterable[Header]
    extensions: NotRequired[dict[str, dict[str, Callable[[], None]]]]


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


def header_text(headers: Headers, name: bytes) -> str | None:
    """Return a header's value, or None if it was not sent. `name` is in lower case."""
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
