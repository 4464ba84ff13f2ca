"""The official MCP client in a process of its own, and bare requests to the MCP endpoint."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.mcp_peers import NEW, OLD, require
from tests.talk import PATIENCE, Json

PROGRAM = Path(__file__).parent / "journeys" / "mcp_program.py"

STATELESS = "2026-07-28"
MODES = {"first": OLD, "legacy": NEW, STATELESS: NEW}
"""The official client's generations and eras."""
ACCEPT = {"accept": "application/json, text/event-stream"}


class OfficialClient:
    """Calls the tools of a server; `revision` is the one that client and server agreed on."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.revision = ""

    async def tools(self) -> dict[str, Json]:
        return {each["name"]: each for each in (await self.ask({"list": True}))["tools"]}

    async def call(self, tool: str, **arguments: Any) -> Json:
        """Call a tool that must not fail; its structured result."""
        found = await self.ask({"tool": tool, "arguments": arguments})
        assert found.get("error") is False, found
        assert json.loads(found["text"]) == found["structured"]
        result: Json = found["structured"]
        return result

    async def ask(self, question: Json) -> Json:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        await self._process.stdin.drain()
        return await self.read()

    async def read(self) -> Json:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 2 * PATIENCE)
        assert line, "the official client has ended"
        found: Json = json.loads(line)
        return found


@asynccontextmanager
async def official_client(url: str, mode: str, token: str = "") -> AsyncIterator[OfficialClient]:
    """Connect the official client to a server's MCP endpoint."""
    process = await asyncio.create_subprocess_exec(
        str(require(MODES[mode])),
        str(PROGRAM),
        f"{url}/mcp",
        mode,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TOKEN": token, "PYTHONPATH": ""},
        limit=1 << 22,
    )
    try:
        client = OfficialClient(process)
        client.revision = (await client.read())["revision"]
        yield client
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()


def envelope(method: str, params: Json, *, stateless: bool, number: int | str = 1) -> tuple[Json, Json]:
    """The body and the headers of a request."""
    body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    if not stateless:
        return body, {**ACCEPT, "mcp-protocol-version": "2025-11-25"}
    meta = {
        "io.modelcontextprotocol/protocolVersion": STATELESS,
        "io.modelcontextprotocol/clientCapabilities": {},
        **params.get("_meta", {}),
    }
    headers = {**ACCEPT, "mcp-protocol-version": STATELESS, "mcp-method": method}
    if method == "tools/call":
        headers["mcp-name"] = params["name"]
    return {**body, "params": {**params, "_meta": meta}}, headers


async def rpc(
    http: httpx.AsyncClient, method: str, params: Json | None = None, *, stateless: bool = False
) -> Json:
    """Send a bare request that must have a result; the result."""
    body, headers = envelope(method, params or {}, stateless=stateless)
    answer = await http.post("/mcp", json=body, headers=headers, timeout=2 * PATIENCE)
    assert answer.status_code == 200, answer.text
    result: Json = message_in(answer)["result"]
    return result


async def use_tool(http: httpx.AsyncClient, tool: str, **arguments: Any) -> Json:
    """Call a tool with a bare request; its structured result, or `{"failed": text}`."""
    result = await rpc(http, "tools/call", {"name": tool, "arguments": arguments})
    if result["isError"]:
        return {"failed": result["content"][0]["text"]}
    found: Json = result["structuredContent"]
    return found


def message_in(answer: httpx.Response) -> Json:
    """The response in an answer, which may be a stream of events."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        return messages_in(answer.text)[-1]
    found: Json = answer.json()
    return found


def messages_in(stream: str) -> list[Json]:
    """The messages of a stream of events."""
    return [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
