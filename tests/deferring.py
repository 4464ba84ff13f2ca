"""Capabilities of a package that a test's server finds (see `installed`): one whose tools defer their results
or have steps, and one whose tool is deferred itself."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from perdure.capabilities.port import (
    ONCE,
    READ_ONLY,
    REPEATABLE,
    Capability,
    Later,
    Tool,
    ToolContext,
    ToolOutcome,
    schema,
)
from perdure.domain.messages import JsonObject
from tests.fork_server import ROOT
from tests.talk import PATIENCE, Json

PARAMETERS = schema(
    {
        "desk": {"type": "string"},
        "note": {"type": "string"},
        "seconds": {"type": "number"},
        "slow": {"type": "number"},
        "early": {"type": "string"},
        "urls": {"type": "integer"},
    },
    "desk",
    "note",
)


async def _order(context: ToolContext, arguments: JsonObject) -> ToolOutcome | Later:
    """Put the URLs of callbacks into a file on the desk; `slow`: then take so long."""
    opened = [
        await context.callback(arguments.get("seconds", 3600.0)) for _ in range(arguments.get("urls", 1))
    ]
    _put(arguments, [callback.url for callback in opened])
    context.progress(f"The URL is {opened[0].url}")
    await asyncio.sleep(arguments.get("slow", 0))
    if early := arguments.get("early"):
        return ToolOutcome(early)
    return Later("callback", opened[0].deadline, f"a delivery to {opened[0].url}")


def _put(arguments: JsonObject, urls: list[str], more: str = "") -> None:
    path = Path(arguments["desk"]) / f"{arguments['note']}{more}"
    path.with_suffix(".new").write_text(json.dumps(urls))
    path.with_suffix(".new").rename(path)


async def _order_in_a_step(context: ToolContext, arguments: JsonObject) -> Later:
    """Put the URL on the desk in a step, which the first attempt does not come to."""
    callback = await context.callback(3600.0)
    begun = Path(arguments["desk"]) / f"{arguments['note']} has begun"
    if not begun.exists():
        _put(arguments, [], " has begun")
        await asyncio.Event().wait()

    async def put() -> None:
        _put(arguments, [callback.url])

    await context.step("put", put)
    return Later("callback", callback.deadline)


async def _forget(context: ToolContext, arguments: JsonObject) -> Later:
    return Later("callback", context.now() + 1_000_000_000)


async def _odd(context: ToolContext, arguments: JsonObject) -> Later:
    """Return what no tool should return."""
    odd: Any = {
        "a person": lambda: Later("approval", context.now() + 1_000_000_000),
        "no time": lambda: Later("callback", None),  # type: ignore[arg-type]
        "long ago": lambda: Later("callback", 7),
        "a fraction": lambda: Later("callback", context.now() + 60_000_000.25),  # type: ignore[arg-type]
        "never": lambda: Later("callback", 1 << 80),
        "much to say": lambda: Later("callback", context.now() + 60_000_000, "\ud800\x00" + "x" * 100_000),
        "a number to say": lambda: Later("callback", context.now() + 60_000_000, 7),  # type: ignore[arg-type]
        "no time at all": lambda: context.callback(0),
        "too much time": lambda: context.callback(float("inf")),
        "no number": lambda: context.callback(float("nan")),
    }
    await context.callback(60)
    made = odd[arguments["how"]]()
    return await made if asyncio.iscoroutine(made) else made


async def _in_steps(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    """Two steps. The tool hangs between them, or in the second one, as long as the desk is there."""

    async def hang(where: str) -> None:
        if arguments["note"] == where and Path(arguments["desk"]).is_dir():
            await asyncio.Event().wait()

    async def first() -> str:
        return f"first {context.now()}"

    async def second() -> str:
        await hang("inside")
        return "second"

    said = await context.step("first", first)
    await hang("between")
    return ToolOutcome([said, await context.step("second", second), context.effect_key])


DEFERRING = Capability(
    id="deferring",
    name="Deferring",
    description="For tests.",
    category="test",
    tools=lambda config: (
        Tool("order", "Order something.", PARAMETERS, _order, hints=ONCE, display_name="Order"),
        Tool("order_again", "Order something once.", PARAMETERS, _order, hints=REPEATABLE),
        Tool("order_in_a_step", "Order in a step.", PARAMETERS, _order_in_a_step, resumable=True),
        Tool("odd", "Be odd.", schema({"how": {"type": "string"}}, "how"), _odd),
        Tool("in_steps", "Do two things.", PARAMETERS, _in_steps, timeout=600.0),
        Tool("forget", "Wait for nothing.", schema({}), _forget),
    ),
)


async def _whisper(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    return ToolOutcome("psst")


HIDDEN: Json = {"deferred": True} if "deferred" in Tool.__struct_fields__ else {}
"""Releases before 0.3.0 know no deferred tools."""

HIDING = Capability(
    id="hiding",
    name="Hiding",
    description="For tests.",
    category="test",
    tools=lambda config: (Tool("whisper", "Say it softly.", schema({}), _whisper, READ_ONLY, **HIDDEN),),
)


def installed(folder: Path) -> dict[str, str]:
    """Install the capabilities for a server; returns the environment that the server needs."""
    info = folder / "perdure_deferring-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: perdure-deferring\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(
        "[perdure.capabilities]\ndeferring = tests.deferring:DEFERRING\nhiding = tests.deferring:HIDING\n"
    )
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


async def urls_on(desk: Path, name: str) -> list[str]:
    """The URLs of an order, once its tool has put them on the desk."""
    async with asyncio.timeout(PATIENCE):
        while not (desk / name).exists():
            await asyncio.sleep(0.005)
    found: list[str] = json.loads((desk / name).read_text())
    return found


def result_of(events: list[Json], call_id: str) -> Json:
    """The only `tool.completed` of a call."""
    (found,) = [
        event["data"]
        for event in events
        if event["type"] == "tool.completed" and event["data"]["tool_call_id"] == call_id
    ]
    data: Json = found
    return data
