"""Server-sent events: frames, heartbeats, connection cycling, and cutting off slow consumers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from perdure.api.kernel.asgi import Message, Receive, Scope, Send
from perdure.api.kernel.sending import abort_connection, is_paused
from perdure.app.feed import Frame
from perdure.domain.errors import Unavailable
from perdure.domain.ids import millis_of
from perdure.domain.metrics import Metrics

HEARTBEAT = 30.0
"""The time without frames after which a comment keeps the connection alive, in seconds (wire contract)."""

CYCLE = 300.0
"""The time after which the server ends a connection, in seconds, with a jitter of 20%. Followers reconnect,
which spreads them over the processes (wire contract)."""

CHUNK = 64 * 1024
"""The number of bytes that are handed to a connection at a time."""

SEND_TIMEOUT = 10.0
"""The maximum time to send a chunk, in seconds. A client that reads less than 6 KB/s is cut off; it can
resume by the last id."""

END_TIMEOUT = 1.0
"""The maximum time to send a stream's last frames, in seconds. After it, the connection is aborted."""

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]
CONNECTED = b'event: connected\ndata: {"status":"connected"}\n\n'


def frame_bytes(frame: Frame) -> bytes:
    """Encode a frame."""
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
    """Encode the last frame of a connection that the server ends."""
    return b'event: disconnecting\ndata: {"reason":"%s","retry_ms":100}\n\n' % reason.encode()


class Followed(Protocol):
    """What a stream follows: a session's events, or an organization's inbox."""

    @property
    def gone(self) -> bool:
        """Whether nothing is left to follow."""
        ...

    @property
    def behind(self) -> bool:
        """Whether there are frames that were not returned yet."""
        ...

    async def frames(self, timeout: float) -> list[Frame]:
        """Return the next frames, after waiting up to `timeout` seconds; an empty list if none came."""
        ...

    def hurry(self) -> None:
        """Look again at once."""
        ...

    def close(self) -> None: ...


class EventStream:
    """One follower's connection.

    Args:
        allowed: returns whether the follower may still read. It is asked once per heartbeat.
    """

    def __init__(
        self,
        follower: Followed,
        closing: asyncio.Event,
        *,
        cycle: float = CYCLE,
        heartbeat: float = HEARTBEAT,
        allowed: Callable[[], Awaitable[bool]],
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._began_ms = time.time_ns() // 1_000_000
        self._follower = follower
        self._allowed = allowed
        self._closing = closing
        self._heartbeat = heartbeat
        spread = random.uniform(0.8, 1.2)  # noqa: S311 (spreads load, guards nothing)
        self._until = time.monotonic() + cycle * spread
        self._at_frame_end = True
        """Whether the data sent so far ends with a complete frame."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.create_task(self._write(scope, send))
        disconnect = asyncio.create_task(wait_for_disconnect(receive))
        closing = asyncio.create_task(self._closing.wait())
        reason = "client_left"
        self._metrics.followers.move(1)
        try:
            await asyncio.wait({writer, disconnect, closing}, return_when=asyncio.FIRST_COMPLETED)
            if disconnect.done():
                return
            if not writer.done():
                self._follower.hurry()
                await asyncio.wait({writer}, timeout=END_TIMEOUT)
                writer.cancel()
                await asyncio.wait({writer})
            reason = "shutdown" if writer.cancelled() else writer.result()
            await self._end(scope, send, reason)
        finally:
            self._metrics.followers.move(-1)
            self._metrics.sse_ends.add(reason)
            for task in (writer, disconnect, closing):
                task.cancel()
            self._follower.close()

    async def _write(self, scope: Scope, send: Send) -> str:
        """Send the response until it ends; return the reason."""
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        try:
            return await self._send_events(scope, send)
        except TimeoutError:
            return "slow_consumer"
        except Unavailable:
            return "unavailable"

    async def _send_events(self, scope: Scope, send: Send) -> str:
        await self._send_frames(scope, send, CONNECTED)
        last_sent = checked = time.monotonic()
        while not self._follower.gone:
            frames = await self._next_frames()
            now = time.monotonic()
            if now - checked >= self._heartbeat:
                if not await self._allowed():
                    return "access_ended"
                checked = now
            if frames:
                await self._send_frames(scope, send, b"".join(map(frame_bytes, frames)))
                self._note(frames)
                last_sent = now
            elif now - last_sent >= self._heartbeat:
                await self._send_frames(scope, send, b": heartbeat\n\n")
                last_sent = now
            if self._closing.is_set() and not self._follower.behind:
                return "shutdown"
            if now >= self._until:
                return "connection_cycle"
        return "session_deleted"

    async def _next_frames(self) -> list[Frame]:
        """Wait for new frames; return none if none come within a heartbeat."""
        return await self._follower.frames(min(self._heartbeat, max(self._until - time.monotonic(), 0.01)))

    def _note(self, frames: list[Frame]) -> None:
        """Note what was sent, and how late: only for what has happened since this stream began."""
        self._metrics.sse_events.add(by=len(frames))
        last = frames[-1].id
        if last and (made := millis_of(last)) >= self._began_ms:
            self._metrics.sse_lag.observe(max(0.0, time.time() - made / 1000))

    async def _send_frames(self, scope: Scope, send: Send, body: bytes) -> None:
        """Send complete frames. Raises TimeoutError if the client does not read them in time."""
        for start in range(0, len(body), CHUNK):
            await _send_chunk(scope, send, body[start : start + CHUNK])
            self._at_frame_end = start + CHUNK >= len(body)

    async def _end(self, scope: Scope, send: Send, reason: str) -> None:
        """Send the reason as the last frame. If that is impossible, abort the connection."""
        if self._at_frame_end:
            try:
                async with asyncio.timeout(END_TIMEOUT):
                    await send(
                        {"type": "http.response.body", "body": disconnecting(reason), "more_body": False}
                    )
                return
            except TimeoutError:
                pass
        abort_connection(scope)


async def send_pieces(scope: Scope, send: Send, body: bytes) -> None:
    """Send a part of a stream. Raises TimeoutError if the client does not read it in time."""
    for start in range(0, len(body), CHUNK):
        await _send_chunk(scope, send, body[start : start + CHUNK])


async def _send_chunk(scope: Scope, send: Send, body: bytes) -> None:
    chunk: Message = {"type": "http.response.body", "body": body, "more_body": True}
    if is_paused(scope):
        async with asyncio.timeout(SEND_TIMEOUT):
            await send(chunk)
    else:
        await send(chunk)


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has left."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
