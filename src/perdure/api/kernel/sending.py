"""Sends responses: large ones in pieces, so that what a client does not read stays out of the send buffer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType

from msgspec import Struct

from perdure.api.kernel.asgi import Header, Scope, Send, Wire
from perdure.api.kernel.call import Chunked, Reply
from perdure.domain.errors import PerdureError, TooLarge

log = logging.getLogger("perdure.api")

PIECE = 256 * 1024
"""The most bytes that are handed to a connection at a time. The next piece waits until the client has read
most of the last one."""

EXTENSION = "perdure"
"""The name of our ASGI extension, which is the request's `Wire`."""


class Begun(Struct, frozen=True):
    """A chunked response whose first chunks are there."""

    first: list[bytes]
    rest: AsyncIterator[bytes]
    answer: Chunked[object]


async def begin(answer: Chunked[object], status: int) -> Reply | Begun:
    """Take the first chunks of a response. A response of up to about `PIECE` bytes ends as a whole one."""
    first: list[bytes] = []
    size = 0
    async for chunk in answer.chunks:
        first.append(chunk)
        size += len(chunk)
        if size > PIECE:
            return Begun(first, answer.chunks, answer)
    return Reply(b"".join(first), status, answer.content_type, answer.headers)


async def collect(begun: Begun, limit: int) -> Reply:
    """Read the whole of a response of up to `limit` bytes.

    Raises:
        TooLarge: it is larger.
    """
    parts, size = begun.first, sum(len(each) for each in begun.first)
    async for chunk in begun.rest:
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"the response has more than {limit} bytes: use the route itself, or ask for less")
    return Reply(b"".join(parts), 200, begun.answer.content_type, begun.answer.headers)


def abort_connection(scope: Scope) -> None:
    """Close the connection at once, so that the client sees that the response is incomplete."""
    wire = _wire_of(scope)
    if wire is not None:
        wire.abort()


def is_closed(scope: Scope) -> bool:
    """Whether the client has left."""
    wire = _wire_of(scope)
    return wire is not None and wire.is_closing()


def is_unread(scope: Scope, *, unknown: bool = False) -> bool:
    """Whether a part of the request's body has not arrived; `unknown` if the connection cannot tell."""
    wire = _wire_of(scope)
    return unknown if wire is None else wire.is_unread()


def is_paused(scope: Scope) -> bool:
    """Whether sending has to wait for the client, or may have to."""
    wire = _wire_of(scope)
    return wire is None or wire.is_paused()


def _wire_of(scope: Scope) -> Wire | None:
    return scope.get("extensions", _NONE).get(EXTENSION)


_NONE: Mapping[str, Wire] = MappingProxyType({})


async def send_reply(scope: Scope, send: Send, reply: Reply) -> None:
    """Send a whole response."""
    headers, body = _headers(scope, reply.headers), reply.body
    if reply.status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(body)))
    if body or reply.status != 204:
        headers.append((b"content-type", reply.content_type))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if len(body) <= PIECE:
        await send({"type": "http.response.body", "body": body, "more_body": False})
    else:
        await _send_body(send, body, last=True)


async def send_chunks(scope: Scope, send: Send, begun: Begun) -> None:
    """Send a response while it is made. If that fails, abort the connection."""
    answer = begun.answer
    head = [*_headers(scope, answer.headers), (b"content-type", answer.content_type)]
    if answer.size is not None:
        head.append((b"content-length", b"%d" % answer.size))
    await send({"type": "http.response.start", "status": 200, "headers": head})
    try:
        while begun.first:
            await _send_body(send, begun.first.pop(0))
        async for chunk in begun.rest:
            if is_closed(scope):
                return
            await _send_body(send, chunk)
            chunk = b""  # noqa: PLW2901 (it may be large, and the next one is about to be made)
        await _send_body(send, b"", last=True)
    except PerdureError as error:
        log.warning("%s %r ended early: %s", scope["method"], scope["path"], error.message)
        abort_connection(scope)
    except Exception:
        log.exception("%s %r failed", scope["method"], scope["path"])
        abort_connection(scope)


def _headers(scope: Scope, more: tuple[Header, ...]) -> list[Header]:
    headers = [(b"x-content-type-options", b"nosniff"), *more]
    if is_unread(scope):
        headers.append((b"connection", b"close"))  # what follows on the connection is not a request
    return headers


async def _send_body(send: Send, body: bytes, *, last: bool = False) -> None:
    for start in range(0, len(body) - PIECE, PIECE):
        await send({"type": "http.response.body", "body": body[start : start + PIECE], "more_body": True})
    rest = len(body) % PIECE or min(len(body), PIECE)
    await send({"type": "http.response.body", "body": body[len(body) - rest :], "more_body": not last})
