"""A scripted MCP server over HTTP: it does what the test says, and notes what it received."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self

from perdure.domain.mcp import McpAnswers, McpContent, McpInputRequired, McpTool
from perdure.net.mcp.endpoints import McpEndpoint, McpStdioEndpoint
from perdure.net.mcp.hosts import McpHosts
from tests.sites import INSIDE
from tests.unit.fake_server import FakeServer, Reply, Request

Json = dict[str, Any]
Step = Callable[[Request, Reply, Json], Awaitable[None]]

STATELESS = "2026-07-28"
TOOL = McpTool("act", input_schema={"type": "object"})
LISTED: Json = {"name": "act", "description": "Acts.", "inputSchema": {"type": "object"}}


def result(message: Json, **fields: Any) -> Json:
    return {"jsonrpc": "2.0", "id": message["id"], "result": {"resultType": "complete", **fields}}


def text(message: Json, said: str) -> Json:
    return result(message, content=[{"type": "text", "text": said}])


def error(message: Json, code: int, said: str = "no", data: Any = None) -> Json:
    return {"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": code, "message": said, "data": data}}


def event(value: Any, key: str | None = None) -> str:
    return (f"id: {key}\n" if key is not None else "") + f"event: message\ndata: {json.dumps(value)}"


def says(said: str) -> Step:
    """A step that answers a call with a text."""

    async def step(_: Request, reply: Reply, message: Json) -> None:
        await reply.json(200, text(message, said))

    return step


def replies(status: int, value: Any = None, **headers: str) -> Step:
    """A step that answers with this JSON, or an error made from (code, text)."""

    async def step(_: Request, reply: Reply, message: Json) -> None:
        body = error(message, *value) if isinstance(value, tuple) else value
        await reply.json(status, body, **headers)

    return step


class Scripted:
    """The server. `steps` are by method, and by HTTP method for GET and DELETE.

    Attributes:
        era: what it speaks: `stateless` or `legacy`.
        sessions: the sessions that it knows.
        seen: the methods that it received, in order.
    """

    def __init__(self, era: str = "stateless", **steps: Step) -> None:
        self.era = era
        self.steps = {name.replace("__", "/"): step for name, step in steps.items()}
        self.sessions: set[str] = set()
        self.seen: list[str] = []
        self.messages: list[Json] = []
        self.requests: list[Request] = []
        self.tools: list[Json] = [LISTED]
        self._count = 0
        self._server = FakeServer(self._handle)

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        self.url = f"{self._server.url}/mcp"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._server.__aexit__(*error)

    def count(self, method: str) -> int:
        return self.seen.count(method)

    async def _handle(self, request: Request, reply: Reply) -> None:
        self.requests.append(request)
        if request.method != "POST":
            self.seen.append(request.method)
            step = self.steps.get(request.method, replies(405))
            await step(request, reply, {})
            return
        message = request.json()
        method = message.get("method", "response")
        self.seen.append(method)
        self.messages.append(message)
        step = self.steps.get(method) or getattr(self, f"_{self.era}")
        await step(request, reply, message)

    async def _stateless(self, request: Request, reply: Reply, message: Json) -> None:
        method = message["method"]
        if request.headers.get("mcp-protocol-version") != STATELESS or method == "initialize":
            await reply.json(404, error(message, -32601))
        elif method == "server/discover":
            listed = {"supportedVersions": [STATELESS], "capabilities": {"tools": {}}}
            await reply.json(200, result(message, **listed, ttlMs=0, cacheScope="private"))
        else:
            await self._common(reply, message)

    async def _legacy(self, request: Request, reply: Reply, message: Json) -> None:
        method, session = message.get("method"), request.headers.get("mcp-session-id")
        if method == "initialize":
            self._count += 1
            self.sessions.add(f"session-{self._count}")
            info = {"name": "old", "version": "1"}
            body = result(message, protocolVersion="2025-06-18", capabilities={"tools": {}}, serverInfo=info)
            await reply.json(200, body, mcp_session_id=f"session-{self._count}")
        elif session is None:
            await reply.json(400, error({"id": "server-error"}, -32600, "Bad Request: Missing session ID"))
        elif session not in self.sessions:
            await reply.json(404, error({"id": "server-error"}, -32600, "Session not found"))
        elif "id" not in message or method is None:
            await reply.json(202, None)
        else:
            await self._common(reply, message)

    async def _common(self, reply: Reply, message: Json) -> None:
        if message["method"] == "tools/list":
            await reply.json(200, result(message, tools=self.tools))
        elif message["method"] == "tools/call":
            await reply.json(200, text(message, "done"))
        else:
            await reply.json(200, error(message, -32601))


class Talk:
    """A client that talks to one server.

    Attributes:
        lines: the progress that it was shown.
    """

    def __init__(self, endpoint: McpEndpoint | McpStdioEndpoint, hosts: McpHosts | None = None) -> None:
        self.endpoint = endpoint
        self.hosts = hosts or McpHosts()
        self.lines: list[str] = []

    @classmethod
    def to(cls, url: str, **fields: Any) -> Talk:
        return cls(McpEndpoint(url, **{"rules": INSIDE, **fields}))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hosts.close()

    async def call(
        self,
        tool: McpTool = TOOL,
        arguments: Json | None = None,
        *,
        scope: str = "one",
        timeout: float = 10.0,
        idempotent: bool = False,
        answers: McpAnswers | None = None,
        meta: Json | None = None,
        headers: dict[str, str] | None = None,
    ) -> McpContent | McpInputRequired:
        return await self.hosts.call(
            self.endpoint,
            scope=scope,
            tool=tool,
            arguments=arguments or {},
            meta=meta or {},
            extra_headers=headers or {},
            timeout=timeout,
            idempotent=idempotent,
            progress=self.lines.append,
            answers=answers,
        )

    async def said(self, *arguments: Any, **named: Any) -> str:
        """The text of a call's result."""
        content = await self.call(*arguments, **named)
        assert isinstance(content, McpContent)
        return "".join(block.get("text", "") for block in content.content)


async def settled(check: Callable[[], bool]) -> None:
    """Wait until something that happens in the background has happened."""
    async with asyncio.timeout(10):
        while not check():
            await asyncio.sleep(0.01)
