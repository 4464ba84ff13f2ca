"""Sends the response to a call that may take long: JSON if it is there soon, else a stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from perdure.api.kernel.asgi import Receive, Scope, Send
from perdure.api.kernel.call import Reply
from perdure.api.kernel.sending import abort_connection, send_reply
from perdure.api.kernel.sse import STREAM_HEADERS, send_pieces, wait_for_disconnect
from perdure.doors.mcp.progress import Progress

PATIENCE = 1.0
"""Seconds after which a stream begins. A response before that is JSON with its own HTTP status."""
KEEP_ALIVE = 15.0
"""Seconds without an event after which a comment keeps the connection alive."""
SPACING = 0.25
"""The least time between two batches of progress, in seconds."""


class Waiting:
    """One call, and the connection of the client that waits for it.

    A client that leaves ends the waiting; what the call has begun goes on.

    Args:
        work: runs the call and returns its response. It ends soon once `stop` is set.
        stop: what this sets when the client has left, or the server shuts down.
        progress: what the client is told meanwhile; None if it does not want to know.
        streams: whether the client reads streams of events.
        closing: set when the server shuts down.
    """

    def __init__(
        self,
        work: Callable[[], Awaitable[Reply]],
        stop: asyncio.Event,
        progress: Progress | None,
        closing: asyncio.Event,
        *,
        streams: bool,
    ) -> None:
        self._work = work
        self._stop = stop
        self._progress = progress
        self._closing = closing
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._work())
        writer = asyncio.create_task(self._write(scope, send, work))
        left = asyncio.create_task(wait_for_disconnect(receive))
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({writer, left, closing}, return_when=asyncio.FIRST_COMPLETED)
            self._stop.set()
            if not left.done():
                await writer
        except TimeoutError:  # the client does not read
            abort_connection(scope)
        finally:
            self._stop.set()
            for task in (writer, left, closing):
                task.cancel()
            await asyncio.wait({work})

    async def _write(self, scope: Scope, send: Send, work: asyncio.Future[Reply]) -> None:
        await asyncio.wait({work}, timeout=PATIENCE if self._streams else None)
        if work.done():
            await send_reply(scope, send, work.result())
            return
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        await send_pieces(scope, send, b": working\n\n")
        while not work.done():
            await self._next_event(work)
            if lines := self._lines():
                await send_pieces(scope, send, lines)
                await asyncio.wait({work}, timeout=SPACING)
            elif not work.done():
                await send_pieces(scope, send, b": keep-alive\n\n")
        await send_pieces(scope, send, self._lines() + _event(work.result().body))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _lines(self) -> bytes:
        """Take the progress that waits to be sent, as events."""
        return b"" if self._progress is None else b"".join(map(_event, self._progress.take()))

    async def _next_event(self, work: asyncio.Future[Reply]) -> None:
        """Wait until there is something to send: the response, progress, or a sign of life."""
        waits: set[asyncio.Future[Reply] | asyncio.Task[bool]] = {work}
        ready = None if self._progress is None else asyncio.create_task(self._progress.ready.wait())
        if ready is not None:
            waits.add(ready)
        try:
            await asyncio.wait(waits, timeout=KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if ready is not None:
                ready.cancel()


def _event(message: bytes) -> bytes:
    return b"event: message\ndata: %b\n\n" % message
