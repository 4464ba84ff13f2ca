"""Measure what sub-agents cost: one that does nothing, fifty at once, and parents that wait."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from statistics import median
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bench.callbacks import simulated
from bench.figures import Figures, Once, Scale, nothing
from bench.scale import new_rows
from bench.site import Seat, Site, open_site
from bench.variant import Stopwatch, Variant
from bench.wire import Connection, connect
from perdure.app.accounts import bootstrap
from perdure.domain.ids import ExecId, SessionId, TaskId, ToolCallId, new_id
from perdure.domain.parked import AwaitedKind, ParkedCall
from perdure.domain.tasks import SOURCE, SessionTask, TaskInputRequest, TaskLinks
from perdure.domain.times import Micros, to_rfc3339
from perdure.settings import Settings
from perdure.store.database import Tx
from perdure.store.migrate import load_migrations
from perdure.store.rows import insert, to_json, values
from perdure.store.session_counts import count_sessions
from perdure.store.sessions import SessionRow
from perdure.store.tasks import TaskRow, WaitRow
from perdure.wiring import open_parts
from perdure.worker.sorter import sort_sessions

PARENTS, CHILDREN = 2, 25
"""A session may have 25 open tasks, so fifty at once have two parents."""
PLAIN = f"[[sim {json.dumps([{'text': 'END.'}])}]]"
TASKS = 24
"""The number of the migration with which sub-agents began."""
REST = 20.0
"""Seconds in which the CPU of waiting parents is measured: ten sweeps."""


@contextlib.asynccontextmanager
async def trees(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Measure a foreground sub-agent against two turns, fifty against fifty sessions, and waiting parents."""
    newest = variant.newest_migration()
    if newest is not None and newest < TASKS:
        yield nothing  # this source does not know sub-agents
        return
    # Sessions that wait are inserted as this version does it, which needs its tables.
    same = newest is None or newest == max(number for number, _, _ in load_migrations())

    async def once() -> Figures:
        waiting = await _parked(variant, scale) if same else {}
        return {**await _spawns(variant, scale), **waiting}

    yield once


async def _spawns(variant: Variant, scale: Scale) -> Figures:
    async with variant.server() as server, open_site(server, variant.model) as site, grove(site) as places:
        spawn, two = [], []
        spawn_cpu, two_cpu = 0.0, 0.0
        for number in range(-10, scale.parked_turns):  # in turns, so that drift affects both
            watch = Stopwatch(server)
            took, used = await places.spawn(), watch.cpu()
            watch = Stopwatch(server)
            plain, plain_used = await places.two_turns(), watch.cpu()
            if number >= 0:  # the first ones warm up
                spawn.append(took)
                two.append(plain)
                spawn_cpu, two_cpu = spawn_cpu + used, two_cpu + plain_used
        tree, apart = [], []
        for number in range(-1, scale.trees):
            took, separate = await places.tree(), await places.apart()
            if number >= 0:
                tree.append(took)
                apart.append(separate)
    return {
        "spawn_ms": median(spawn) * 1e3,
        "spawn_ratio": median(spawn) / median(two),
        "spawn_cpu_ratio": spawn_cpu / two_cpu,
        "tree_ms": median(tree) * 1e3,
        "tree_ratio": median(tree) / median(apart),
    }


class Grove(Struct, frozen=True):
    """What takes one sample each, in seconds.

    Attributes:
        spawn: a turn that begins a sub-agent, waits for its answer, and ends.
        two_turns: two turns without a tool.
        tree: fifty sub-agents at once, of two parents.
        apart: fifty sessions at once, which nobody has begun.
    """

    spawn: Callable[[], Awaitable[float]]
    two_turns: Callable[[], Awaitable[float]]
    tree: Callable[[], Awaitable[float]]
    apart: Callable[[], Awaitable[float]]


@contextlib.asynccontextmanager
async def grove(site: Site) -> AsyncIterator[Grove]:
    """Prepare sessions on a server whose model is the simulated one."""
    body = {
        "harness_name": "base",
        "model_id": await simulated(site),
        "capabilities": [{"ref": "subagents"}],
    }
    parent, plain, *parents = [
        await site.seat_of(str((await site.desk.json("POST", "/v1/sessions", body))["id"]))
        for _ in range(2 + PARENTS)
    ]
    lines = [await connect(site.server.url) for _ in range(PARENTS * CHILDREN)]
    begins_one, begins_many = _begins(1), _begins(CHILDREN)

    async def spawn() -> float:
        return (await parent.turn(site.desk, begins_one)).total

    async def two_turns() -> float:
        return sum([(await plain.turn(site.desk, PLAIN)).total for _ in range(2)])

    async def tree() -> float:
        began = time.perf_counter()
        await asyncio.gather(
            *(_play(seat, line, begins_many) for seat, line in zip(parents, lines, strict=False))
        )
        return time.perf_counter() - began

    async def apart() -> float:
        run = msgspec.json.encode({**body, "message": f"Go. {PLAIN}"})
        began = time.perf_counter()
        await asyncio.gather(*(line.send("POST", "/v1/runs?wait=60", run) for line in lines))
        return time.perf_counter() - began

    try:
        yield Grove(spawn, two_turns, tree, apart)
    finally:
        for each in (parent, plain, *parents, *lines):
            each.close()


async def _play(seat: Seat, line: Connection, text: str) -> None:
    await seat.turn(line, text)


def _begins(count: int) -> str:
    """The text that makes the simulated model begin sub-agents that say one word, and wait for them."""
    calls = [
        {"name": "spawn_agent", "arguments": {"name": f"child {number}", "instructions": f"Go. {PLAIN}"}}
        for number in range(count)
    ]
    return f"[[sim {json.dumps([{'tool_calls': calls}, {'text': 'END.'}])}]]"


# --- parents that wait ----------------------------------------------------------


async def _parked(variant: Variant, scale: Scale) -> Figures:
    async with contextlib.AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(variant.server(seed=partial(_park, count=count)))
            for count in (0, scale.parents)
        ]
        await asyncio.sleep(2)
        watches = [Stopwatch(server) for server in servers]
        await asyncio.sleep(REST)
        idle, parked = [watch.cpu() for watch in watches]
        before, after = [server.rss() for server in servers]
    return {"parents_mb": after - before, "parents_cpu_pct": (parked - idle) / REST * 100}


async def _park(settings: Settings, count: int) -> None:
    """Insert sessions that wait for sub-agents, which wait for an approval, into a fresh database."""
    async with open_parts(settings) as parts:
        owner = await bootstrap(parts.app)
        now = parts.app.now()
        rows = (await new_rows(parts, owner, 2 * count))[: 2 * count]
        pairs = [_pair(parent, child, now) for parent, child in zip(rows[:count], rows[count:], strict=True)]

        async def write(tx: Tx) -> None:
            sessions = [values(row) for each in pairs for row in each[:2]]
            await tx.run_many(insert("sessions", SessionRow), sessions)
            await tx.run_many(insert("tasks", TaskRow), [values(each[2]) for each in pairs])
            await tx.run_many(insert("task_waits", WaitRow), [values(each[3]) for each in pairs])
            await count_sessions(tx, owner.organization_id, len(rows))

        await parts.database.write(write)
        await sort_sessions(parts.database, rest=0)


def _pair(
    parent: SessionRow, child: SessionRow, now: Micros
) -> tuple[SessionRow, SessionRow, TaskRow, WaitRow]:
    until, task_id = now + 1_000_000_000_000, new_id("task")
    waits = _waiting(parent, "active", "child", "spawn_agent", until)
    asks = _waiting(child, "waiting_for_tool_results", "approval", "delete_file", until)
    asks = replace(
        asks, source=SOURCE, parent_session_id=parent.id, root_session_id=parent.id, depth=1, task_id=task_id
    )
    row = _task(waits, asks, task_id, now, until)
    wait = WaitRow(
        parent.id,
        parent.org_id,
        row.turn_id,
        ExecId("exec"),
        ToolCallId("call_1"),
        "spawn_agent",
        "all",
        to_json([task_id]),
        until,
    )
    return waits, asks, row, wait


def _waiting(row: SessionRow, status: Any, kind: AwaitedKind, tool: str, until: Micros) -> SessionRow:
    parked = to_json((ParkedCall(kind, ToolCallId("call_1"), tool, until),))
    return replace(
        row, status=status, turn_id=new_id("turn"), wake_at=until, parked=parked, resting=1, started_at=until
    )


def _task(parent: SessionRow, child: SessionRow, task_id: TaskId, now: Micros, until: Micros) -> TaskRow:
    at, child_id = to_rfc3339(now), SessionId(child.id)
    task = SessionTask(
        task_id,
        parent.id,
        "subagent",
        "child",
        "awaiting_input",
        at,
        at,
        "on_terminal",
        "foreground",
        {},
        TaskLinks(child_id),
        attempt=1,
        input_request=TaskInputRequest("call_1", "May delete_file run?"),
        deadline=to_rfc3339(until),
    )
    return TaskRow(
        id=task_id,
        org_id=parent.org_id,
        session_id=parent.id,
        root_session_id=parent.id,
        kind="subagent",
        state=task.state,
        effect_key=f"key {task_id}",
        turn_id=parent.turn_id or new_id("turn"),
        child_session_id=child_id,
        heard=0,
        attempt=1,
        wish=None,
        deadline=until,
        created_at=now,
        finished_at=None,
        task=to_json(task),
    )
