"""Measure how soon a fallback model answers after the last failure of the one before."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from statistics import median

import msgspec

from bench.figures import Figures, Once, Scale, nothing
from bench.site import ENDED, Site, open_site
from bench.variant import Variant
from bench.wire import Connection, connect

REFUSED = (
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nretry-after: 30\r\n"
    b'content-length: 38\r\n\r\n{"error":{"message":"Slow down now."}}'
)
KINDS = ("output.message.delta", "turn.started", *ENDED)
TEXT = {"message": {"role": "user", "content": [{"type": "text", "text": "Hello. bench(tokens=1)"}]}}


class _Limited(asyncio.Protocol):
    """A model server that refuses every call. `refused` is the time of the last refusal."""

    refused = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        at = head.lower().find(b"content-length:")
        if found and len(body) >= int(head[at + 15 :].split(b"\r\n", 1)[0]):
            self._buffer = b""
            _Limited.refused = time.perf_counter()
            self._transport.write(REFUSED)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def fallbacks(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Measure turns whose model is rate limited, and whose fallback answers immediately."""
    if variant.source is not None:
        yield nothing  # an older source may not know fallbacks
        return

    async def once() -> Figures:
        limited = await asyncio.get_running_loop().create_server(_Limited, "127.0.0.1", 0)
        async with (
            limited,
            variant.server() as server,
            open_site(server, variant.model) as site,
        ):
            url = f"http://127.0.0.1:{limited.sockets[0].getsockname()[1]}/v1"
            return await _measure(site, url, scale.fallbacks)

    yield once


async def _measure(site: Site, url: str, count: int) -> Figures:
    desk = site.desk
    fields = {"provider_type": "openai_completions", "base_url": url, "api_key": "none"}
    provider = await desk.json("POST", "/v1/providers", {"name": "limited", **fields})
    path = f"/v1/providers/{provider['id']}"
    model = await desk.json("POST", f"{path}/models", {"model_id": "limited", "display_name": "Limited"})
    spare = next(
        each["id"] for each in (await desk.json("GET", "/v1/models"))["data"] if each["model_id"] == "bench"
    )
    body = {"harness_name": "base", "model_id": model["id"], "fallback_models": [spare]}
    session = await desk.json("POST", "/v1/sessions", body)
    feed = await connect(site.server.url)
    feed.follow("GET", f"/v1/sessions/{session['id']}/sse?{'&'.join(f'types={kind}' for kind in KINDS)}")
    await feed.frame()
    took = []
    for number in range(count + 10):
        # A change of the provider closes its circuit breaker, so that the model is called each time.
        await desk.json("PATCH", path, {"name": f"limited {number}"})
        took.append(await _turn(desk, feed, str(session["id"])))
    feed.close()
    return {"fallback_ms": median(took[10:]) * 1e3}


async def _turn(desk: Connection, feed: Connection, session_id: str) -> float:
    """Play a turn; return the seconds from the refusal to the first piece of the other model's answer."""
    await desk.send("POST", f"/v1/sessions/{session_id}/messages", msgspec.json.encode(TEXT))
    first = 0.0
    while True:
        frame = await feed.frame()
        if frame.event == "output.message.delta":
            first = first or frame.at
        elif frame.event in ENDED:
            if frame.event != "turn.completed" or not first:
                raise RuntimeError(f"a turn did not complete: {frame.event}")
            return first - _Limited.refused
