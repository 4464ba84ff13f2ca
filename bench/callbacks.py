"""Measure what a callback costs, and what sessions cost that wait for one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from bench.deferring import installed
from bench.figures import Figures, Once, Scale, nothing
from bench.scale import new_rows
from bench.site import ENDED, Site, open_site
from bench.variant import Stopwatch, Variant
from bench.wire import Connection, connect
from perdure.app.accounts import bootstrap
from perdure.domain.ids import ToolCallId, new_id
from perdure.domain.parked import ParkedCall
from perdure.settings import Settings
from perdure.store.database import Tx
from perdure.store.rows import insert, to_json, values
from perdure.store.session_counts import count_sessions
from perdure.store.sessions import SessionRow
from perdure.wiring import open_parts
from perdure.worker.sorter import sort_sessions

KINDS = ("act.completed", *ENDED)
REST = 8.0
"""Seconds in which the CPU of an idle server is measured: four sweeps."""


@contextlib.asynccontextmanager
async def callbacks(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Measure turns whose only call is parked and answered at once, and 10,000 parked sessions at rest."""
    if variant.source is not None:
        yield nothing  # an older source may not know callbacks
        return

    async def once() -> Figures:
        return {**await _turns(variant, scale), **await _parked(variant, scale)}

    yield once


async def _turns(variant: Variant, scale: Scale) -> Figures:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox,
    ):
        inbox.bind(("127.0.0.1", 0))
        inbox.setblocking(False)
        environment = installed(Path(folder), inbox.getsockname()[1])
        async with variant.server(environment) as server, open_site(server, variant.model) as site:
            plain, deferred = await _open(site, inbox, "plain"), await _open(site, inbox, "defer")
            for _ in range(20):
                await plain()
                await deferred()
            added, cpu = [], []
            for _ in range(scale.parked_turns):  # in turns, so that drift of the machine affects both
                watch = Stopwatch(server)
                took, used = await plain(), watch.cpu()
                watch = Stopwatch(server)
                added.append(await deferred() - took)
                cpu.append(watch.cpu() - used)
    return {"callback_ms": median(added) * 1e3, "callback_cpu_ms": median(cpu) * 1e3}


async def _open(site: Site, inbox: socket.socket, tool: str) -> Callable[[], Awaitable[float]]:
    """Create a session; return what plays a turn with one call of this tool, and returns its seconds."""
    made = await site.desk.json(
        "POST",
        "/v1/sessions",
        {"harness_name": "base", "model_id": await simulated(site), "capabilities": [{"ref": "deferring"}]},
    )
    session_id = str(made["id"])
    feed = await connect(site.server.url)
    feed.follow("GET", f"/v1/sessions/{session_id}/sse?{'&'.join(f'types={kind}' for kind in KINDS)}")
    await feed.frame()
    steps = json.dumps([{"tool_calls": [{"name": tool, "arguments": {}}]}, {"text": "END."}])
    text = {"type": "text", "text": f"Go. [[sim {steps}]]"}
    body = msgspec.json.encode({"message": {"role": "user", "content": [text]}})
    return lambda: _turn(site.desk, feed, inbox, session_id, body, tool)


async def _turn(
    desk: Connection, feed: Connection, inbox: socket.socket, session_id: str, body: bytes, tool: str
) -> float:
    began = time.perf_counter()
    await desk.send("POST", f"/v1/sessions/{session_id}/messages", body)
    while True:
        frame = await feed.frame()
        if frame.event == "act.completed" and tool == "defer":
            url = (await asyncio.get_running_loop().sock_recv(inbox, 1000)).decode()
            await desk.send("POST", urlsplit(url).path, b'{"result": "done"}')
        elif frame.event in ENDED:
            if frame.event != "turn.completed":
                raise RuntimeError(f"a turn did not complete: {frame.event}")
            return frame.at - began


async def simulated(site: Site) -> str:
    """Return the simulated model, registered once."""
    models = (await site.desk.json("GET", "/v1/models"))["data"]
    known = next((model["id"] for model in models if model["model_id"] == "simulated"), None)
    if known is not None:
        return str(known)
    provider = await site.desk.json("POST", "/v1/providers", {"name": "simulated", "provider_type": "llmsim"})
    fields = {"model_id": "simulated", "display_name": "Simulated"}
    return str((await site.desk.json("POST", f"/v1/providers/{provider['id']}/models", fields))["id"])


async def _parked(variant: Variant, scale: Scale) -> Figures:
    async with contextlib.AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(variant.server(seed=partial(_park, count=count)))
            for count in (0, scale.parked_sessions)
        ]
        await asyncio.sleep(2)
        watches = [Stopwatch(server) for server in servers]
        await asyncio.sleep(REST)
        (idle, parked), (before, after) = (
            [watch.cpu() for watch in watches],
            [server.rss() for server in servers],
        )
    return {"parked_mb": after - before, "parked_cpu_pct": (parked - idle) / REST * 100}


async def _park(settings: Settings, count: int) -> None:
    """Insert sessions that wait for a callback into a fresh database."""
    async with open_parts(settings) as parts:
        owner = await bootstrap(parts.app)
        until = parts.app.now() + 1_000_000_000_000
        waiting = to_json((ParkedCall("callback", ToolCallId("call_1"), "defer", until),))
        rows = [
            replace(
                row,
                status="active",
                turn_id=new_id("turn"),
                wake_at=until,
                parked=waiting,
                resting=1,
            )
            for row in await new_rows(parts, owner, count)
        ]

        async def write(tx: Tx) -> None:
            await tx.run_many(insert("sessions", SessionRow), [values(row) for row in rows])
            await count_sessions(tx, owner.organization_id, len(rows))

        await parts.database.write(write)
        await sort_sessions(parts.database, rest=0)
