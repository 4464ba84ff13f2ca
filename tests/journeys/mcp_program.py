"""Drives an MCP server with the official Python package, for tests that run in an environment without it.

    python mcp_program.py URL MODE

MODE is `first` for the package's first generation, or what the second one calls its modes: `legacy`, `auto`
or a revision. Each line of the input is one JSON object, and so is the answer to it:

    {"list": true}                            -> {"tools": [...]}
    {"tool": "...", "arguments": {...}}       -> {"structured": ..., "text": ..., "error": ..., "told": []}
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from typing import Any


async def main(url: str, mode: str) -> None:
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"} if os.environ.get("TOKEN") else {}
    async with AsyncExitStack() as stack:
        client, revision = await connect(stack, url, mode, headers)
        say({"revision": revision})
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            say(await answer(client, json.loads(line)))


async def connect(stack: AsyncExitStack, url: str, mode: str, headers: dict[str, str]) -> tuple[Any, str]:
    if mode == "first":
        from mcp import ClientSession
        from mcp.client.streamable_http import streamablehttp_client

        reader, writer, _ = await stack.enter_async_context(streamablehttp_client(url, headers=headers))
        session = await stack.enter_async_context(ClientSession(reader, writer))
        return session, (await session.initialize()).protocolVersion
    import httpx2
    from mcp.client import Client
    from mcp.client.streamable_http import streamable_http_client

    http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=60))
    client = await stack.enter_async_context(Client(streamable_http_client(url, http_client=http), mode=mode))
    return client, client.protocol_version


async def answer(client: Any, asked: dict[str, Any]) -> dict[str, Any]:
    try:
        if asked.get("list"):
            found = await client.list_tools()
            return {"tools": [each.model_dump(mode="json", by_alias=True) for each in found.tools]}
        told: list[str | None] = []

        async def progress(_done: float, _total: float | None, message: str | None) -> None:
            told.append(message)

        result = await client.call_tool(asked["tool"], asked["arguments"], progress_callback=progress)
    except Exception as error:  # noqa: BLE001 (the test says what it expects)
        return {"refused": f"{type(error).__name__}: {error}"}
    fields = result.model_dump(mode="json", by_alias=True)
    return {
        "structured": fields.get("structuredContent"),
        "text": fields["content"][0]["text"],
        "error": bool(fields.get("isError")),
        "told": told,
    }


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


asyncio.run(main(*sys.argv[1:3]))
