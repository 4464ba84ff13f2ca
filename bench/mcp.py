"""Measure what MCP servers cost: those that a turn does not use, and a round of one of their tools."""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figures, Once, Scale, nothing
from bench.site import Seat, Site, open_site
from bench.tools import simulated
from bench.variant import Process, Stopwatch, Variant, start_process

SERVERS = 20
ROUNDS = 10
"""Calls of a tool in one turn, one after the other."""
PLACES = {"PERDURE_PRIVATE_ADDRESSES": "true", "PERDURE_HISTORY_TOKENS": "400000"}
IDLE = '[[sim [{"text": "END."}]]]'


@contextlib.asynccontextmanager
async def mcp(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Measure turns with twenty servers of fifty tools against turns with none, and rounds of a tool."""
    if variant.source is not None:
        yield nothing  # an older source may not know MCP servers
        return

    async def once() -> Figures:
        return {**await _idle(variant, scale), **await _rounds(variant, scale)}

    yield once


async def _idle(variant: Variant, scale: Scale) -> Figures:
    async with shop() as peer, variant.server(PLACES) as server, open_site(server, variant.model) as site:
        none = await seat_with(site, {})
        for _ in range(20):
            await none.turn(site.desk, IDLE)
        before = server.rss()
        many = await seat_with(site, servers(peer))
        for _ in range(20):
            await many.turn(site.desk, IDLE)
        grown = server.rss() - before
        added, cpu = [], []
        for _ in range(scale.turns):  # in turns, so that drift of the machine affects both
            watch = Stopwatch(server)
            without, used = (await none.turn(site.desk, IDLE)).total, watch.cpu()
            watch = Stopwatch(server)
            added.append((await many.turn(site.desk, IDLE)).total - without)
            cpu.append(watch.cpu() - used)
    return {
        "mcp_idle_ms": median(added) * 1e3,
        "mcp_idle_cpu_ms": median(cpu) * 1e3,
        "mcp_idle_mb": grown,
    }


async def _rounds(variant: Variant, scale: Scale) -> Figures:
    async with shop() as peer, variant.server(PLACES) as server, open_site(server, variant.model) as site:
        play = await rounds(site, peer)
        added, cpu = [], []
        for _ in range(scale.tool_turns):
            watch = Stopwatch(server)
            without, used = await play("get_current_time"), watch.cpu()
            watch = Stopwatch(server)
            added.append(await play("mcp_s0__tool_0") - without)
            cpu.append((watch.cpu() - used) / (ROUNDS + 1))
    return {"mcp_round_ms": median(added) * 1e3, "mcp_round_cpu_ms": median(cpu) * 1e3}


@contextlib.asynccontextmanager
async def shop() -> AsyncIterator[Process]:
    """Run a server with fifty tools that answer at once."""
    with tempfile.TemporaryDirectory(prefix="perdure-bench-mcp-") as folder:
        peer = await start_process(["-m", "bench.mcp_peer"], Path(folder) / "log")
        try:
            yield peer
        finally:
            await peer.stop()


def servers(peer: Process, count: int = SERVERS) -> dict[str, Any]:
    """Return the configuration of so many servers, whose tools a model has to search for."""
    return {f"S{n}": {"url": f"{peer.url}?server={n}", "deferred": count > 1} for n in range(count)}


async def seat_with(site: Site, configured: dict[str, Any]) -> Seat:
    """Create and follow a session with these servers, and the simulated model."""
    body = {"harness_name": "base", "model_id": await simulated(site), "mcpServers": configured}
    time = {"ref": "current_time"}
    patient = {"ref": "loop_detection", "config": {"limit": 50}}
    made = await site.desk.json("POST", "/v1/sessions", {**body, "capabilities": [time, patient]})
    return await site.seat_of(str(made["id"]))


async def rounds(site: Site, peer: Process) -> Callable[[str], Awaitable[float]]:
    """Return what plays a turn that calls a tool again and again, and returns its seconds for each call."""
    seats = {name: await seat_with(site, servers(peer, 1)) for name in ("get_current_time", "mcp_s0__tool_0")}
    numbers = itertools.count()

    async def play(name: str) -> float:
        zones = ("UTC", "Etc/UTC")
        steps: list[dict[str, Any]] = []
        for _ in range(ROUNDS):
            number = next(numbers)
            given = (
                {"timezone": zones[number % 2]} if name == "get_current_time" else {"project": str(number)}
            )
            steps.append({"tool_calls": [{"name": name, "arguments": given}]})
        turn = await seats[name].turn(site.desk, f"[[sim {json.dumps([*steps, {'text': 'END.'}])}]]")
        return turn.total / (ROUNDS + 1)

    for name in seats:
        await play(name)
    return play
