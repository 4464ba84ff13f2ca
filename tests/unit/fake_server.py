"""An HTTP server for tests of the client.

It does what the test says, cut connections and silence included.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


class Request:
    """What the client sent."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        split = urlsplit(target)
        self.method = method
        self.raw_path = split.path
        self.path = unquote(split.path)
        self.query = parse_qs(split.query)
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)


class Reply:
    """Writes the answer. Nothing is sent that the test does not ask for."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def send(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    async def json(self, status: int, value: Any, **headers: str) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        await self.start(status, "application/json", **headers, content_length=str(len(body)))
        await self.send(body)

    async def start(self, status: int, content_type: str, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Word", f"Content-Type: {content_type}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def stream(self, *frames: str) -> None:
        """Begin an event stream, with these frames."""
        await self.start(200, "text/event-stream; charset=utf-8")
        await self.frames('event: connected\ndata: {"status":"connected"}', *frames)

    async def frames(self, *frames: str) -> None:
        for frame in frames:
            await self.send(f"{frame}\n\n".encode())

    async def silence(self) -> None:
        """Say nothing until the test is over."""
        await asyncio.Event().wait()

    def cut(self) -> None:
        """Reset the connection."""
        self._writer.transport.abort()


Handler = Callable[[Request, Reply], Awaitable[None]]


class FakeServer:
    """Runs the handler once for every request; `requests` are all that came in."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.requests: list[Request] = []
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._running:
            task.cancel()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *rest = head.strip().split("\r\n")
            method, target, _ = first.split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            request = Request(method, target, headers, body)
            self.requests.append(request)
            await self._handler(request, Reply(writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the test is over
        finally:
            self._running.discard(task)
            writer.close()


def script(*steps: Handler) -> Handler:
    """A handler that does the first step for the first request, the second for the second ...

    And the last for ever.
    """
    left = list(steps)

    async def handle(request: Request, reply: Reply) -> None:
        step = left.pop(0) if len(left) > 1 else left[0]
        await step(request, reply)

    return handle


def answers(status: int, value: Any = None, **headers: str) -> Handler:
    """A step that answers with JSON."""

    async def step(_: Request, reply: Reply) -> None:
        await reply.json(status, value, **headers)

    return step


def streams(*frames: str) -> Handler:
    """A step that sends these frames and ends the stream in good order."""

    async def step(_: Request, reply: Reply) -> None:
        await reply.stream(*frames)

    return step


def cuts(*frames: str) -> Handler:
    """A step that sends these frames and resets the connection."""

    async def step(_: Request, reply: Reply) -> None:
        if frames:
            await reply.stream(*frames)
        reply.cut()

    return step
