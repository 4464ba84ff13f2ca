"""Measure what a typed result adds to a turn."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import median
from typing import Any

import msgspec

from bench.callbacks import simulated
from bench.figures import Figures, Once, Scale, nothing
from bench.site import ENDED, Site, open_site
from bench.variant import Stopwatch, Variant
from bench.wire import connect

FIELDS = 10
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "items": {"type": "array", "maxItems": 20, "items": {"$ref": "#/$defs/item"}},
        **{f"text_{n}": {"type": "string", "maxLength": 200} for n in range(FIELDS)},
        **{f"number_{n}": {"type": "integer", "minimum": 0} for n in range(FIELDS)},
    },
    "required": ["items", *(f"{kind}_{n}" for kind in ("text", "number") for n in range(FIELDS))],
    "additionalProperties": False,
    "$defs": {
        "item": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "kind": {"enum": ["a", "b", None]}},
            "required": ["name", "kind"],
            "additionalProperties": False,
        }
    },
}
VALUE = {
    "items": [{"name": f"item {n}", "kind": "b"} for n in range(10)],
    **{f"text_{n}": "A text of usual length, as in a form." for n in range(FIELDS)},
    **{f"number_{n}": n for n in range(FIELDS)},
}


@contextlib.asynccontextmanager
async def outputs(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Measure turns with the same JSON answer, with and without a schema of 23 fields."""
    if variant.source is not None:
        yield nothing  # an older source may not know typed results
        return
    async with variant.server() as server, open_site(server, variant.model) as site:

        async def once() -> Figures:
            plain, typed = await _open(site, None), await _open(site, SCHEMA)
            for _ in range(20):
                await plain()
                await typed()
            added, cpu = [], []
            for _ in range(scale.turns):  # in turns, so that drift of the machine affects both
                watch = Stopwatch(server)
                took, used = await plain(), watch.cpu()
                watch = Stopwatch(server)
                added.append(await typed() - took)
                cpu.append(watch.cpu() - used)
            return {"output_ms": median(added) * 1e3, "output_cpu_ms": sum(cpu) / len(cpu) * 1e3}

        yield once


async def _open(site: Site, schema: dict[str, Any] | None) -> Callable[[], Awaitable[float]]:
    """Create a session; return what plays a turn in it, and returns its seconds."""
    fields = {"harness_name": "base", "model_id": await simulated(site)}
    made = await site.desk.json(
        "POST", "/v1/sessions", fields if schema is None else {**fields, "output_schema": schema}
    )
    path = f"/v1/sessions/{made['id']}"
    feed = await connect(site.server.url)
    feed.follow("GET", f"{path}/sse?{'&'.join(f'types={kind}' for kind in ENDED)}")
    await feed.frame()
    text = {"type": "text", "text": f"Go. [[sim {json.dumps({'text': json.dumps(VALUE)})}]]"}
    body = msgspec.json.encode({"message": {"role": "user", "content": [text]}})

    async def turn() -> float:
        began = time.perf_counter()
        await site.desk.send("POST", f"{path}/messages", body)
        while True:
            frame = await feed.frame()
            if frame.event in ENDED:
                if frame.event != "turn.completed":
                    raise RuntimeError(f"a turn did not complete: {frame.event}")
                return frame.at - began

    return turn
