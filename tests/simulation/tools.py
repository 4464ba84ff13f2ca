"""Tools with effects on a world that outlives every crash, as a capability."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Protocol

from perdure.capabilities.port import (
    ONCE,
    READ_ONLY,
    REPEATABLE,
    Capability,
    Tool,
    ToolContext,
    ToolOutcome,
    schema,
)
from perdure.domain.errors import ToolError
from perdure.domain.messages import JsonObject

TIMEOUT = 5.0
"""Seconds that each of these tools may take."""


class Hands(Protocol):
    """The process that a tool runs in, as far as a tool cares."""

    async def pause(self, seconds: float) -> None: ...

    async def point(self, where: str) -> None:
        """A place where anything may happen, a crash included."""
        ...

    def touch_world(self, tool: str, call_id: str) -> str:
        """Take effect, for good; a word for the effect."""
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


PARAMETERS = schema({"seconds": {"type": "number"}})


def _tool(name: str, run: Callable[[ToolContext, JsonObject], Awaitable[ToolOutcome]], hints: object) -> Tool:
    return Tool(name, f"Simulated: {name}.", PARAMETERS, run, hints=hints, timeout=TIMEOUT)


TOOLS = (
    _tool("once", _once, ONCE),
    _tool("again", _again, REPEATABLE),
    _tool("look", _look, READ_ONLY),
    _tool("refuse", _refuse, ONCE),
    _tool("burst", _burst, ONCE),
)
REPLAYABLE = frozenset({"again", "look"})

SIMULATION = Capability(
    id="simulation",
    name="Simulation",
    description="Tools that leave their marks.",
    category="test",
    tools=lambda config: TOOLS,
)
