"""A capability of tools whose effects on the world outlive every crash."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from perdure.capabilities.port import (
    ONCE,
    READ_ONLY,
    REPEATABLE,
    Capability,
    Later,
    Tool,
    ToolContext,
    ToolOutcome,
    ToolRun,
    schema,
)
from perdure.domain.errors import ToolError
from perdure.domain.messages import JsonObject
from tests.simulation.callbacks import OPEN_FOR

TIMEOUT = 5.0
"""The timeout of each of these tools, in seconds."""


class Hands(Protocol):
    """What a tool needs of the process that it runs in."""

    async def pause(self, seconds: float) -> None: ...

    async def point(self, where: str) -> None:
        """A point: anything can be injected here, including a crash."""
        ...

    def touch_world(self, tool: str, call_id: str) -> str:
        """Have an effect that outlives the process; returns the effect's name."""
        ...

    def take_url(self, url: str, call_id: str, deadline: int) -> None:
        """Give the world the URL of a callback."""
        ...


HANDS: ContextVar[Hands] = ContextVar("hands")


async def _act(context: ToolContext, arguments: JsonObject, tool: str) -> ToolOutcome:
    hands = HANDS.get()
    await hands.point("tool.before")
    if seconds := arguments.get("seconds"):
        await hands.pause(seconds)
    effect = hands.touch_world(tool, context.tool_call_id)
    context.progress(effect)
    await hands.point("tool.after")
    return ToolOutcome(effect)


async def _once(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    return await _act(context, arguments, "once")


async def _again(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    return await _act(context, arguments, "again")


async def _look(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    return await _act(context, arguments, "look")


async def _refuse(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    await _act(context, arguments, "refuse")
    raise ToolError("refused")


async def _burst(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    await _act(context, arguments, "burst")
    raise RuntimeError("burst")


async def _defer(context: ToolContext, arguments: JsonObject, tool: str) -> Later:
    """Send a request with the URL of a callback, and do not wait for the answer."""
    hands = HANDS.get()
    callback = await context.callback(OPEN_FOR)
    await _act(context, arguments, tool)
    hands.take_url(callback.url, context.tool_call_id, callback.deadline)
    await hands.point("tool.sent")
    if seconds := arguments.get("slowly"):
        await hands.pause(seconds)
    return Later("callback", callback.deadline, "an answer from the world")


async def _later(context: ToolContext, arguments: JsonObject) -> Later:
    return await _defer(context, arguments, "later")


async def _later_again(context: ToolContext, arguments: JsonObject) -> Later:
    return await _defer(context, arguments, "later_again")


PARAMETERS = schema({"seconds": {"type": "number"}, "slowly": {"type": "number"}})


def _tool(name: str, run: ToolRun, hints: object) -> Tool:
    return Tool(name, f"Simulated: {name}.", PARAMETERS, run, hints=hints, timeout=TIMEOUT)


TOOLS = (
    _tool("once", _once, ONCE),
    _tool("again", _again, REPEATABLE),
    _tool("look", _look, READ_ONLY),
    _tool("refuse", _refuse, ONCE),
    _tool("burst", _burst, ONCE),
    _tool("later", _later, ONCE),
    _tool("later_again", _later_again, REPEATABLE),
)
REPLAYABLE = frozenset({"again", "look", "later_again"})

SIMULATION = Capability(
    id="simulation",
    name="Simulation",
    description="Tools whose effects are recorded.",
    category="test",
    tools=lambda config: TOOLS,
)
