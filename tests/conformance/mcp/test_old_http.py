"""MCP servers that speak HTTP/1.0, or close each connection: every call is made once, and answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.mcp_scripts import STATELESS, Json, Talk, result, text
from tests.mcp_stub import Call, McpStub, tool

WAYS = ("1.0 without a length", "1.0 stream", "1.1 closes without a word", "1.1 closes half", "1.1 resets")


def _answer(era: str, message: Json) -> Json | None:
    match message.get("method"):
        case "server/discover" if era == "stateless":
            return result(message, supportedVersions=[STATELESS], capabilities={"tools": {}})
        case "initialize" if era == "legacy":
            info = {"name": "old", "version": "1"}
            return result(message, protocolVersion="2025-06-18", capabilities={"tools": {}}, serverInfo=info)
        case "tools/call":
            return text(message, str(message["params"]["arguments"]["number"]))
        case method if method is not None and "id" in message:
            error = {"code": -32601, "message": f"no {method}"}
            return {"jsonrpc": "2.0", "id": message["id"], "error": error}
    return None


@asynccontextmanager
async def serving(era: str, way: str) -> AsyncIterator[tuple[str, list[int]]]:
    """A server; its URL, and the numbers of the calls that arrived."""
    arrived: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r")[0] or 0)
            message = json.loads(await reader.readexactly(length)) if length else {}
        except asyncio.IncompleteReadError:
            writer.close()
            return
        if message.get("method") == "tools/call":
            arrived.append(message["params"]["arguments"]["number"])
        answer = _answer(era, message)
        body = b"" if answer is None else json.dumps(answer).encode()
        kind = "application/json"
        if "stream" in way and answer is not None:
            kind, body = "text/event-stream", b"data: " + body + b"\n\n"
        status = "202 Accepted" if answer is None else "200 OK"
        length_line = (
            "" if way.startswith("1.0") and answer is not None else f"Content-Length: {len(body)}\r\n"
        )
        lines = f"HTTP/{way[:3]} {status}\r\nContent-Type: {kind}\r\n{length_line}\r\n"
        writer.write(lines.encode() + body)
        await writer.drain()
        if way.endswith("resets"):
            await asyncio.sleep(0)
            writer.transport.abort()
        elif way.endswith("half"):
            writer.write_eof()
            await reader.read()
            writer.close()
        else:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp", arrived
    finally:
        server.close()


@pytest.mark.parametrize("era", ["stateless", "legacy"])
@pytest.mark.parametrize("way", WAYS)
async def test_each_call_is_made_once_and_answered(way: str, era: str) -> None:
    async with serving(era, way) as (url, arrived), Talk.to(url) as talk:
        for number in range(20):
            assert await talk.said(arguments={"number": number}) == str(number)
        together = await asyncio.gather(
            *(talk.said(arguments={"number": number}) for number in range(20, 40))
        )
        assert together == [str(number) for number in range(20, 40)]
        assert sorted(arrived) == list(range(40))


async def test_calls_share_a_connection_once_the_server_is_known_to_keep_it() -> None:
    async with McpStub([tool("act")]) as stub, Talk.to(stub.url) as talk:
        opened: list[object] = []

        async def note(made: Call) -> Json:
            opened.append(made.port)
            return {"content": [{"type": "text", "text": "done"}]}

        stub.answer = note
        await talk.hosts.offer(talk.endpoint, timeout=10)  # two requests, so the second one shows it
        for _ in range(10):
            assert await talk.said() == "done"
        assert len(set(opened)) == 1
