"""Server-sent events: frames, heartbeats, cycling, and followers who read too slowly."""

from __future__ import annotations

import asyncio
import random
import time

from perdure.api.kernel.asgi import Receive, Scope, Send
from perdure.app.feed import Follower, Frame
from perdure.domain.errors import Unavailable

HEARTBEAT = 30.0
"""Seconds of silence before a comment keeps the connection alive (wire contract)."""

CYCLE = 300.0
"""Seconds after which a connection is ended, give or take a fifth, so that followers spread over processes
(wire contract)."""

PIECE = 64 * 1024
"""Bytes that are handed to a connection at a time."""

SLOW = 10.0
"""Seconds that a piece may wait until the one before it is taken in: who reads less than 6 KB/s is cut off,
and resumes by id."""

LAST_WORDS = 1.0
"""Seconds that a stream's last frame may wait before the connection is given up without it."""

EXTENSION = "perdure"
"""The ASGI extension of our server: `abort` ends the connection at once, whatever it still holds."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
CONNECTED = b'event: connected\ndata: {"status":"connected"}\n\n'


def frame_bytes(frame: Frame) -> bytes:
    """A frame as it stands on the wire."""
    return b"".join(
        (
            b"id: ",
            frame.id.encode(),
            b"\nevent: ",
            frame.type.encode(),
            b"\nretry: 1000\ndata: ",
            frame.data,
            b"\n\n",
        )
    )


def disconnecting(reason: str) -> bytes:
    """The last frame of a connection that the server ends."""
    return b'event: disconnecting\ndata: {"reason":"%s","retry_ms":100}\n\n' % reason.encode()


class EventStream:
    """One follower's connection."""

    def __init__(
        self,
        follower: Follower,
        closing: asyncio.Event,
        *,
        cycle: float = CYCLE,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self._follower = follower
        self._closing = closing
        self._heartbeat = heartbeat
        self._until = time.monotonic() + cycle * random.uniform(0.8, 1.2)  # noqa: S311 (spreads load, guards nothing)
        self._whole = True
        """Whether what was sent ends with the end of a frame."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(_wait_for_end(receive))
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({writer, leaving, closing}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                return
            if not writer.done():
                self._follower.hurry()
                await asyncio.wait({writer}, timeout=LAST_WORDS)
                writer.cancel()
                await asyncio.wait({writer})
            await self._end(scope, send, "shutdown" if writer.cancelled() else writer.result())
        finally:
            for task in (writer, leaving, closing):
                task.cancel()
            self._follower.close()

    async def _write(self, send: Send) -> str:
        """Send what happens; why that ended."""
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        try:
            return await self._tell(send)
        except TimeoutError:
            return "slow_consumer"
        except Unavailable:
            return "unavailable"

    async def _tell(self, send: Send) -> str:
        await self._say(send, CONNECTED)
        spoke = time.monotonic()
        while not self._follower.gone:
            news = await self._news()
            now = time.monotonic()
            if news:
                await self._say(send, news)
                spoke = now
            elif now - spoke >= self._heartbeat:
                await self._say(send, b": heartbeat\n\n")
                spoke = now
            if self._closing.is_set() and not self._follower.behind:
                return "shutdown"
            if now >= self._until:
                return "connection_cycle"
        return "session_deleted"

    async def _news(self) -> bytes:
        """What has come; nothing after a time of silence."""
        frames = await self._follower.frames(min(self._heartbeat, max(self._until - time.monotonic(), 0.01)))
        return b"".join(map(frame_bytes, frames))

    async def _say(self, send: Send, body: bytes) -> None:
        """Send whole frames. Raises TimeoutError when the follower does not take them in."""
        for start in range(0, len(body), PIECE):
            async with asyncio.timeout(SLOW):
                await send(
                    {"type": "http.response.body", "body": body[start : start + PIECE], "more_body": True}
                )
            self._whole = start + PIECE >= len(body)

    async def _end(self, scope: Scope, send: Send, reason: str) -> None:
        """Say why the stream ends, or give the connection up when that cannot be said."""
        if self._whole:
            try:
                async with asyncio.timeout(LAST_WORDS):
                    await send(
                        {"type": "http.response.body", "body": disconnecting(reason), "more_body": False}
                    )
                return
            except TimeoutError:
                pass
        abort = scope.get("extensions", {}).get(EXTENSION, {}).get("abort")
        if abort is not None:
            abort()


async def _wait_for_end(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
