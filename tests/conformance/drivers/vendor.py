"""A model vendor on loopback.

A real HTTP server that plays its scripted answers in order and records the requests.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from aiohttp import web

SSE = {"Content-Type": "text/event-stream"}
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Reply:
    """A scripted answer: each piece is one network write, then the answer ends, breaks off or stays open."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: dict(SSE))
    then: Literal["end", "cut", "hang"] = "end"
    before: Literal["answer", "cut", "hang"] = "answer"


@dataclass(frozen=True)
class Asked:
    """A recorded request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class Vendor:
    """The server. `asked` lists the requests; `left` is set when a client disconnects during an answer."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.left = asyncio.Event()
        self.reached = asyncio.Event()
        self.url = ""
        self._replies: deque[Reply] = deque()

    def will(self, *replies: Reply) -> None:
        """Script the answers to the next requests."""
        self._replies.extend(replies)

    @property
    def sent(self) -> Any:
        """Return the JSON of the last request."""
        return self.asked[-1].body

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = msgspec.json.decode(raw) if raw else None
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append(Asked(request.method, request.path, dict(request.query), headers, body))
        reply = self._replies.popleft()
        if reply.before != "answer":
            return await self._stop(request, reply.before, web.StreamResponse())
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        await response.prepare(request)
        for piece in reply.pieces:
            await response.write(piece)
            await asyncio.sleep(0)
        if reply.then == "end":
            await response.write_eof()
            return response
        return await self._stop(request, reply.then, response)

    async def _stop(self, request: web.Request, how: str, response: web.StreamResponse) -> web.StreamResponse:
        assert request.transport is not None
        if how == "cut":
            request.transport.abort()
            return response
        self.reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        return response


@contextlib.asynccontextmanager
async def open_vendor(vendor: Vendor | None = None) -> AsyncIterator[Vendor]:
    """Run the server on a free loopback port."""
    vendor = vendor or Vendor()
    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", "/{path:.*}", vendor.handle)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    vendor.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield vendor
    finally:
        await runner.cleanup()
