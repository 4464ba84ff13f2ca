"""A small HTTP/1.1 client on one socket.

It shares its core with the model server, so it must use very little CPU. It reads answers with a length and
chunked answers, and can follow a chunked answer as server-sent events.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, cast

import msgspec
from msgspec import Struct

_HEAD, _FIXED, _CHUNKED = range(3)


class Refused(Exception):
    """The server answered with an error status."""


class Frame(Struct, frozen=True):
    """A server-sent event. `at` is the `time.perf_counter` at which the client read it."""

    at: float
    event: str
    data: bytes


class Connection(asyncio.Protocol):
    """A keep-alive connection for one request at a time. Create it with `connect`."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._state = _HEAD
        self._status = 0
        self._left = 0
        self._pieces: list[bytes] = []
        self._answer: asyncio.Future[bytes] | None = None
        self._following = False
        self._text = b""
        self._frames: deque[Frame] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._lost = False

    # --- what a measure uses ------------------------------------------------

    async def send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Send a request; return the answer's body.

        It connects again if the server closed the idle connection: each variant waits while the other one is
        measured, which may take longer than a server keeps connections.

        Raises:
            Refused: the status is 400 or above.
        """
        if self._lost:
            await self._reconnect()
        self._write(method, path, body)
        answer = await self._wait()
        if self._status >= 400:
            raise Refused(f"{method} {path}: {self._status} {answer[:300].decode('utf-8', 'replace')}")
        return answer

    async def json(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request with a JSON body; return the decoded JSON answer."""
        sent = None if body is None else msgspec.json.encode(body)
        answer = await self.send(method, path, sent)
        return msgspec.json.decode(answer) if answer else None

    def follow(self, method: str, path: str, body: bytes | None = None) -> None:
        """Start to read a stream; `frame` returns its events."""
        self._following = True
        self._text = b""
        self._frames.clear()
        self._write(method, path, body)

    async def frame(self) -> Frame:
        """Return the next server-sent event. Raises ConnectionError at the end of the stream."""
        while not self._frames:
            if self._lost or not self._following:
                raise ConnectionResetError("the stream has ended")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._frames.popleft()

    async def rest(self) -> None:
        """Read a stream to its end."""
        while self._following and not self._lost:
            self._frames.clear()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._frames.clear()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    async def _reconnect(self) -> None:
        name, _, port = self._host.rpartition(":")
        self._lost, self._state = False, _HEAD
        self._buffer.clear()
        await asyncio.get_running_loop().create_connection(lambda: self, name, int(port))

    # --- the protocol -------------------------------------------------------

    def _write(self, method: str, path: str, body: bytes | None) -> None:
        if self._transport is None or self._lost:
            raise ConnectionResetError("the connection is closed")
        head = f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\n"
        if body is not None:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self._transport.write(f"{head}\r\n".encode() + (body or b""))

    async def _wait(self) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._wake()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer and self._step():
            pass

    def _step(self) -> bool:
        """Parse one piece from the buffer; return whether there was one."""
        buffer = self._buffer
        if self._state == _HEAD:
            return self._head()
        if self._state == _FIXED:
            if len(buffer) < self._left:
                return False
            self._pieces.append(bytes(buffer[: self._left]))
            del buffer[: self._left]
            self._end()
            return True
        end = buffer.find(b"\r\n")
        if end < 0:
            return False
        size = int(buffer[:end], 16)
        if len(buffer) < end + size + 4:
            return False
        piece = bytes(buffer[end + 2 : end + 2 + size])
        del buffer[: end + size + 4]
        if not size:
            self._end()
        elif self._following:
            self._events(piece)
        else:
            self._pieces.append(piece)
        return True

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end]).lower()
        del self._buffer[: end + 4]
        self._status = int(head[9:12])
        self._pieces.clear()
        at = head.find(b"\r\ncontent-length:")
        if b"\r\ntransfer-encoding: chunked" in head:
            self._state = _CHUNKED
        else:
            self._left = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self._state = _FIXED
            if not self._left:
                self._end()
        return True

    def _end(self) -> None:
        self._state = _HEAD
        self._following = False
        self._wake()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(b"".join(self._pieces))

    def _events(self, piece: bytes) -> None:
        *whole, self._text = (self._text + piece).split(b"\n\n")
        now = time.perf_counter()
        for text in whole:
            event, data = "", b""
            for line in text.split(b"\n"):
                if line.startswith(b"data: "):
                    data = line[6:]
                elif line.startswith(b"event: "):
                    event = line[7:].decode()
            if data:
                self._frames.append(Frame(now, event, data))
        if self._frames:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def connect(url: str) -> Connection:
    """Connect to `http://host:port`."""
    host = url.removeprefix("http://").rstrip("/")
    name, _, port = host.rpartition(":")
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(host), name, int(port)
    )
    return connection
