"""A model server whose answer never ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from tests.server import post


@asynccontextmanager
async def endless_model(*, mute: bool = False) -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Event]]:
    """Run a model server that sends one word and then stays silent, or with `mute` sends nothing at all.

    Yields its base URL, an event for a received call, and an event for a closed connection.
    """
    asked, hung_up = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        chunk = {"choices": [{"index": 0, "delta": {"content": "Well"}}]}
        if not mute:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
            writer.write(head + b"data: " + json.dumps(chunk).encode() + b"\n\n")
            await writer.drain()
        asked.set()
        while await reader.read(65536):
            pass
        hung_up.set()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", asked, hung_up


async def use_model_at(http: httpx.AsyncClient, url: str) -> str:
    """Register the model of a server that speaks Chat Completions; return its id."""
    fields = {"name": "Stub", "provider_type": "openai_completions", "base_url": url, "api_key": "none"}
    provider = await post(http, "/v1/providers?check=false", fields)
    model = await post(
        http, f"/v1/providers/{provider['id']}/models", {"model_id": "stub", "display_name": "Stub"}
    )
    return str(model["id"])
