"""Measure what each tool costs: its rounds in a turn, minus the rounds of a tool that returns the time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from statistics import median
from typing import Any

import msgspec

from bench.figures import Figures, Once, Scale
from bench.site import Seat, Site, open_site
from bench.variant import Variant

ROUNDS = 10
"""Calls of the tool per turn, one after the other."""
TURNS = 13

FOUR_KB = "0123456789abcde\n" * 256
Call = tuple[str, dict[str, Any]]

EMPTY: tuple[Call, Call] = (
    ("get_current_time", {"timezone": "UTC"}),
    ("get_current_time", {"timezone": "Etc/UTC"}),
)
CALLS: dict[str, tuple[Call, Call]] = {
    "bash": (("bash", {"command": "echo hi"}), ("bash", {"command": "echo ho"})),
    "read_file": (("read_file", {"path": "/notes.txt"}), ("read_file", {"path": "/copy.txt"})),
    "write_file": (
        ("write_file", {"path": "/notes.txt", "content": FOUR_KB}),
        ("write_file", {"path": "/copy.txt", "content": FOUR_KB}),
    ),
    "grep_files": (("grep_files", {"pattern": "needle"}), ("grep_files", {"pattern": "pin"})),
    "kv_set": (
        ("kv_store", {"operation": "set", "key": "count", "value": "seven"}),
        ("kv_store", {"operation": "set", "key": "count", "value": "eight"}),
    ),
    "kv_get": (
        ("kv_store", {"operation": "get", "key": "count"}),
        ("kv_store", {"operation": "get", "key": "total"}),
    ),
    "sql_execute": (
        ("sql_execute", {"database": "shop", "sql": "INSERT INTO orders VALUES (1, 'one')"}),
        ("sql_execute", {"database": "shop", "sql": "INSERT INTO orders VALUES (2, 'two')"}),
    ),
    "sql_query": (
        ("sql_query", {"database": "shop", "sql": "SELECT * FROM orders LIMIT 10"}),
        ("sql_query", {"database": "shop", "sql": "SELECT * FROM orders LIMIT 9"}),
    ),
    "title": (
        ("write_session_title", {"title": "Orders of the day"}),
        ("write_session_title", {"title": "Orders of the week"}),
    ),
}
"""Each tool with two calls that take turns: the harness stops a model that repeats the same call."""
PREPARED = (
    ("sql_execute", {"database": "shop", "sql": "CREATE TABLE orders (id, name)"}),
    ("write_file", {"path": "/notes.txt", "content": FOUR_KB}),
    ("write_file", {"path": "/copy.txt", "content": FOUR_KB}),
)


@contextlib.asynccontextmanager
async def tools(variant: Variant, _scale: Scale) -> AsyncIterator[Once]:
    """Measure in young sessions on the built-in harness with SQL databases and the simulated model."""
    roomy = {"PERDURE_HISTORY_TOKENS": "400000"}  # the calls of one turn are not summarized
    async with variant.server(roomy) as server, open_site(server, variant.model) as site:
        body = await session_body(site)

        async def once() -> Figures:
            figures: Figures = {}
            empty: list[float] = []
            for name, calls in CALLS.items():
                pairs = []
                for _ in range(TURNS):
                    async with prepared(site, body, calls) as play, prepared(site, body, EMPTY) as rest:
                        pairs.append((await rest(), await play()))
                empty += [without for without, _ in pairs]
                figures[f"tool_{name}_ms"] = max(median(taken - without for without, taken in pairs), 0.0)
            return {"tool_empty_ms": median(empty), **figures}

        yield once


async def session_body(site: Site) -> dict[str, Any]:
    """Register the simulated model; return the body of a session that may repeat calls."""
    patient = {"ref": "loop_detection", "config": {"limit": 2 * ROUNDS}}
    return {"model_id": await simulated(site), "capabilities": [{"ref": "session_sql_database"}, patient]}


@contextlib.asynccontextmanager
async def prepared(
    site: Site, body: dict[str, Any], calls: tuple[Call, Call]
) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """Create a session in which each of the calls has run once.

    Yields a function that plays a turn with `ROUNDS` calls. It returns the milliseconds of a model call and a
    call of the tool, including their log entries.
    """
    seat = await site.seat_of(str((await site.desk.json("POST", "/v1/sessions", body))["id"]))
    await seat.turn(site.desk, script_of((*PREPARED, *EMPTY, *calls)))
    repeated = script_of(calls * (ROUNDS // 2))

    async def play() -> float:
        return (await seat.turn(site.desk, repeated)).total / (ROUNDS + 1) * 1e3

    yield play
    await _check(site, seat)
    seat.close()


async def simulated(site: Site) -> str:
    """Register the simulated model; return its id."""
    provider = await site.desk.json("POST", "/v1/providers", {"name": "Simulated", "provider_type": "llmsim"})
    about = {"model_id": "simulated", "display_name": "Simulated"}
    return str((await site.desk.json("POST", f"/v1/providers/{provider['id']}/models", about))["id"])


def script_of(calls: Sequence[Call]) -> str:
    """Return the text that makes the simulated model call these tools, one after the other."""
    steps = [{"tool_calls": [{"name": name, "arguments": arguments}]} for name, arguments in calls]
    return f"[[sim {json.dumps([*steps, {'text': 'END.'}])}]]"


async def _check(site: Site, seat: Seat) -> None:
    """Check that the last tool call succeeded: the time of a failed call means nothing."""
    done = await site.desk.json(
        "GET", f"/v1/sessions/{seat.session_id}/events?types=tool.completed&limit=1&order_desc=true"
    )
    if not done["data"][0]["data"]["success"]:
        raise RuntimeError(f"a tool failed: {msgspec.json.encode(done)[:300]!r}")
