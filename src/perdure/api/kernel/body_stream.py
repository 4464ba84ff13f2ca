"""Bodies that a handler reads while they arrive, so that one of any size takes little memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from perdure.api.kernel.asgi import Headers, Receive
from perdure.api.kernel.decoding import BODY_TIMEOUT, MAX_BODY, ClientLeft, declared_size
from perdure.api.kernel.intake import Arrival
from perdure.domain.errors import InvalidInput, TooLarge
from perdure.domain.texts import size_text

HELD = 4 * 1024 * 1024
"""Bytes of memory that a body counts as, while it arrives: what its reader holds."""


class BodyStream:
    """The body of a request, chunk by chunk.

    The client must send without a pause of more than `BODY_TIMEOUT` seconds, and at least `MAX_BODY` bytes in
    that time on average. Reading to the end proves that the whole body has arrived: a client that leaves
    early, or sends less than it declared, raises `ClientLeft` instead.

    Attributes:
        content_type: the value of the header Content-Type; empty without one.
        size: the declared size in bytes; None for a chunked body.
    """

    def __init__(self, headers: Headers, receive: Receive, arrival: Arrival | None, limit: int) -> None:
        """Check the headers; nothing is read yet.

        Args:
            arrival: counts what this body holds in memory; None for a body that is there already.
            limit: the maximum size in bytes.

        Raises:
            TooLarge: the declared size is over the limit.
            UnsupportedMedia: the body is compressed.
            InvalidInput: the declared length is not a number.
        """
        self.content_type = headers.get(b"content-type", b"")
        declared = declared_size(headers, limit)
        self.size = declared if b"content-length" in headers else None
        self._receive = receive
        self._arrival = arrival
        self._limit = limit
        self._left = limit if self.size is None else self.size
        self._chunks: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Read the rest of the body.

        Raises:
            TooLarge: more than the limit arrived.
            InvalidInput: the body did not arrive in time.
            Unavailable: too many large bodies are arriving.
            ClientLeft: the client closed the connection.
        """
        if self._chunks is None:
            self._chunks = self._read()
        return self._chunks

    async def _read(self) -> AsyncIterator[bytes]:
        if self._arrival is not None:
            self._arrival.add(min(HELD, self._left))
        loop = asyncio.get_running_loop()
        end = loop.time() + BODY_TIMEOUT * max(1, self._left / MAX_BODY)
        got, more = 0, True
        while more:
            before = loop.time()
            try:
                async with asyncio.timeout_at(min(end, before + BODY_TIMEOUT)):
                    message = await self._receive()
            except TimeoutError:
                raise InvalidInput(
                    "the body did not arrive in time: send it again", code="body_timeout"
                ) from None
            if message["type"] == "http.disconnect":
                raise ClientLeft
            chunk, more = message.get("body", b""), bool(message.get("more_body"))
            got += len(chunk)
            if got > self._limit:
                raise TooLarge(f"the body may have at most {size_text(self._limit)}")
            if chunk:
                at = loop.time()
                yield chunk
                end += loop.time() - at  # the time that the reader took is not the client's

    def close(self) -> None:
        """Count the body no more. The kernel calls this after the handler."""
        if self._arrival is not None:
            self._arrival.close()
