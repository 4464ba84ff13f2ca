"""Server-sent events: frames, heartbeats, cycling, and followers who read too slowly."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

from perdure.api.http import Receive, Scope, Send
from perdure.app.feed import Follower, Frame

HEARTBEAT = 30.0
"""Seconds of silence before a comment keeps the connection alive (wire contract)."""

CYCLE = 300.0
"""Seconds after which a connection is ended, give or take a fifth, so that followers spread over processes (wire contract)."""

SLOW = 10.0
"""Seconds that one batch may take to be taken in; a slower follower is cut off and resumes by id."""

RETRY_MS = 1000

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
CONNECTED = b'event: connected\ndata: {"status":"connected"}\n\n'


def frame_bytes(frame: Frame) -> bytes:
    """A frame as it stands on the wire."""
    return b"".join((b"id: ", frame.id.encode(), b"\nevent: ", frame.type.encode(), b"\nretry: 1000\ndata: ", frame.data, b"\n\n"))


def disconnecting(reason: str) -> bytes:
    """The last frame of a connection that the server ends."""
    return b'event: disconnecting\ndata: {"reason":"%s","retry_ms":100}\n\n' % reason.encode()


class EventStream:
    """One follower's connection."""

    def __init__(self, follower: Follower, closing: asyncio.Event, *, cycle: float = CYCLE, heartbeat: float = HEARTBEAT) -> None:
        self._follower = follower
        self._closing = closing
        self._heartbeat = heartbeat
        self._until = time.monotonic() + cycle * random.uniform(0.8, 1.2)  # noqa: S311 (spreads load, guards nothing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(_wait_for_end(receive))
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({writer, leaving, closing}, return_when=asyncio.FIRST_COMPLETED)
            if closing.done() and not writer.done() and not leaving.done():
                writer.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await writer
                await _end(send, "shutdown")
        finally:
            for task in (writer, leaving, closing):
                task.cancel()
            self._follower.close()
        if writer.done() and not writer.cancelled() and writer.exception() is not None:
            raise writer.exception()  # type: ignore[misc]

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await _part(send, CONNECTED)
        spoke = time.monotonic()
        while not self._follower.gone:
            frames = await self._follower.frames(min(self._heartbeat, max(self._until - time.monotonic(), 0.01)))
            now = time.monotonic()
            if frames:
                await _part(send, b"".join(map(frame_bytes, frames)))
                spoke = time.monotonic()
                if spoke - now > SLOW:
                    await _end(send, "slow_consumer")
                    return
            elif now - spoke >= self._heartbeat:
                await _part(send, b": heartbeat\n\n")
                spoke = now
            if now >= self._until:
                await _end(send, "connection_cycle")
                return
        await _end(send, "session_deleted")


async def _part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _end(send: Send, reason: str) -> None:
    await send({"type": "http.response.body", "body": disconnecting(reason), "more_body": False})


async def _wait_for_end(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
