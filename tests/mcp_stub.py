"""An MCP server of the stateless era, whose answers tests choose: also those that no honest server gives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

Json = dict[str, Any]
Answer = Callable[["Call"], Awaitable[Json]]


@dataclass
class Call:
    """A call of a tool, as the server received it; `port` is the connection's, at the client."""

    name: str
    arguments: Json
    meta: Json
    headers: dict[str, str]
    more: Json = field(default_factory=dict)
    port: int = 0


def text(said: str, **more: Any) -> Json:
    """Build the result of a call that is one text."""
    return {"content": [{"type": "text", "text": said}], **more}


def tool(name: str, description: str = "A tool.", schema: Json | None = None, **hints: bool) -> Json:
    """Build a tool as a server lists it."""
    listed = {"name": name, "description": description, "inputSchema": schema or {"type": "object"}}
    return listed | ({"annotations": hints} if hints else {})


async def _echo(made: Call) -> Json:
    return text(f"{made.name} {made.arguments}")


@dataclass
class McpStub:
    """The server.

    Attributes:
        tools: what it lists.
        answer: answers a call. `RpcFault` is a JSON-RPC error, `ConnectionResetError` drops the connection.
        calls: the calls that arrived, also those that got no answer.
        asked: what it was asked for prompts with.
        lists: how often its tools were listed.
        changed: whether its next answer to a call says that its tools have changed.
        status: the HTTP status of every answer, if it is not 200.
        hangs: the methods that it never answers; refuses: those that it refuses, with the messages.
    """

    tools: list[Json] = field(default_factory=list)
    answer: Answer = _echo
    instructions: str = ""
    resources: dict[str, Json] = field(default_factory=dict)
    prompts: dict[str, list[Json]] = field(default_factory=dict)
    skills: list[Json] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    asked: list[Json] = field(default_factory=list)
    lists: int = 0
    changed: bool = False
    status: int = 200
    hangs: set[str] = field(default_factory=set)
    refuses: dict[str, str] = field(default_factory=dict)
    url: str = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/mcp", self._post)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/mcp"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    async def _post(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.status != 200:
            return web.Response(status=self.status)
        if "id" not in body:
            return web.Response(status=202)
        answer: Json = {"jsonrpc": "2.0", "id": body["id"]}
        try:
            headers = dict(request.headers)
            port = 0 if request.transport is None else request.transport.get_extra_info("peername")[1]
            result = await self._result(body["method"], body.get("params", {}), headers, port)
        except RpcFault as fault:
            error = {"code": fault.code, "message": str(fault), **fault.data}
            return web.json_response(answer | {"error": error})
        except ConnectionResetError:
            if request.transport is not None:
                request.transport.abort()
            raise
        answer |= {"result": {"resultType": "complete"} | result}
        if body["method"] != "tools/call" or not self.changed:
            return web.json_response(answer)
        self.changed = False
        news = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        frames = "".join(f"data: {json.dumps(each)}\n\n" for each in (news, answer))
        return web.Response(text=frames, content_type="text/event-stream")

    async def _result(self, method: str, params: Json, headers: dict[str, str], port: int) -> Json:
        if method in self.hangs:
            await asyncio.Event().wait()
        if method in self.refuses:
            raise RpcFault(-32000, self.refuses[method])
        match method:
            case "server/discover":
                can: Json = {"tools": {}}
                can |= {"resources": {}} if self.resources else {}
                can |= {"prompts": {}} if self.prompts else {}
                can |= {"extensions": {"io.modelcontextprotocol/skills": {}}} if self.skills else {}
                about = {"supportedVersions": ["2026-07-28"], "capabilities": can}
                return about | {"instructions": self.instructions}
            case "tools/list":
                self.lists += 1
                return {"tools": self.tools}
            case "tools/call":
                meta = params.get("_meta", {})
                more = {name: each for name, each in params.items() if name.startswith(("input", "request"))}
                made = Call(params["name"], params.get("arguments", {}), meta, headers, more, port)
                self.calls.append(made)
                return await self.answer(made)
            case "skills/list":
                return {"skills": self.skills, "ttlMs": 0, "cacheScope": "public"}
            case "resources/list":
                return {"resources": [{"uri": uri, "name": uri} for uri in self.resources]}
            case "resources/read":
                return {"contents": [{"uri": params["uri"], **self.resources[params["uri"]]}]}
            case "prompts/list":
                return {"prompts": [{"name": name} for name in self.prompts]}
            case "prompts/get":
                self.asked.append(params)
                if params["name"] not in self.prompts:
                    raise RpcFault(-32602, f"no prompt {params['name']}")
                return {"messages": self.prompts[params["name"]]}
        raise RpcFault(-32601, f"no method {method}")


class RpcFault(Exception):
    """An answer that is a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data: Json = {} if data is None else {"data": data}


async def never(made: Call) -> Json:
    """Answer no call."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")
