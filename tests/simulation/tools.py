"""A capability of tools whose effects on the world outlive every crash."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from perdure.app.context import App
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
    Verify,
    schema,
)
from perdure.domain.effects import NOT_DONE, Verified, done
from perdure.domain.errors import ToolError
from perdure.domain.messages import JsonObject
from perdure.tools.mcp.consent import answers_for, authorization_for, input_required
from tests.simulation.callbacks import OPEN_FOR
from tests.simulation.consents import ASKED_QUESTIONS, QUESTIONS, server_of

TIMEOUT = 5.0
"""The timeout of each of these tools, in seconds."""
DELAY, PATIENCE = 20.0, 25.0
"""Seconds from a request to another service to its effect, and the timeout of the tools that send one. A dead
runner's session is taken over sooner than the effect takes place."""


class Hands(Protocol):
    """What a tool needs of the process that it runs in."""

    app: App

    async def pause(self, seconds: float) -> None: ...

    async def point(self, where: str) -> None:
        """A point: anything can be injected here, including a crash."""
        ...

    def touch_world(self, tool: str, call_id: str, key: str) -> str:
        """Have an effect that outlives the process; returns the effect's name."""
        ...

    def receive(self, key: str, arguments: JsonObject) -> None:
        """Note the arguments that a call was made with."""
        ...

    def take_url(self, url: str, call_id: str, deadline: int) -> None:
        """Give the world the URL of a callback."""
        ...

    def have_asked(self, call_id: str, deadline: int) -> None:
        """Note that a person is asked, until the deadline, whatever becomes of the process."""
        ...

    def send(self, tool: str, call_id: str, key: str) -> str:
        """Have an effect that others see only after `DELAY` seconds, even if the process dies."""
        ...

    def seen(self, key: str) -> str | None:
        """The first effect with this key that others see."""
        ...


HANDS: ContextVar[Hands] = ContextVar("hands")


async def _act(context: ToolContext, arguments: JsonObject, tool: str) -> ToolOutcome:
    hands = HANDS.get()
    hands.receive(context.effect_key, arguments)
    await hands.point("tool.before")
    if seconds := arguments.get("seconds"):
        await hands.pause(seconds)
    effect = hands.touch_world(tool, context.tool_call_id, context.effect_key)
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


async def _asked(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    return ToolOutcome(await _request(context, "asked", context.effect_key))


async def _request(context: ToolContext, tool: str, key: str) -> str:
    """Send a request to another service, and wait for its answer."""
    hands = HANDS.get()
    await hands.point("tool.before")
    effect = hands.send(tool, context.tool_call_id, key)
    await hands.point("tool.sent")
    await hands.pause(DELAY + 0.5)
    await hands.point("tool.after")
    return effect


async def _look_up(context: ToolContext, arguments: JsonObject) -> Verified:
    return await _found(context.effect_key)


async def _found(key: str) -> Verified:
    hands = HANDS.get()
    await hands.point("tool.verify")
    effect = hands.seen(key)
    return NOT_DONE if effect is None else done(effect)


async def _order(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    """Two steps: nobody can look the first one up."""
    hands = HANDS.get()
    first, second = context.effect("first"), context.effect("second")

    async def reserve() -> str:
        await hands.point("tool.before")
        return hands.touch_world("order", context.tool_call_id, first)

    words = [await context.step("first", reserve)]
    await hands.point("tool.between")
    words.append(
        await context.step(
            "second", lambda: _request(context, "order", second), verify=lambda: _found(second)
        )
    )
    return ToolOutcome(words)


async def _posted(context: ToolContext, arguments: JsonObject) -> Later:
    """Send the URL of a callback in a step: whoever takes over before that sends another."""
    hands = HANDS.get()
    callback = await context.callback(OPEN_FOR)
    await hands.point("tool.before")

    async def send() -> None:
        await hands.point("tool.between")
        hands.touch_world("posted", context.tool_call_id, context.effect("send"))
        hands.take_url(callback.url, context.tool_call_id, callback.deadline)

    await context.step("send", send)
    await hands.point("tool.sent")
    return Later("callback", callback.deadline, "an answer from the world")


async def _consent(context: ToolContext, arguments: JsonObject) -> ToolOutcome | Later:
    """Ask a person, and act once there is an answer."""
    hands = HANDS.get()
    answers = await answers_for(hands.app, context)
    if answers is not None:
        return await _act(context, arguments, "consent")
    await hands.point("tool.before")
    later = await input_required(hands.app, context, server_of(context), QUESTIONS)
    hands.have_asked(context.tool_call_id, later.deadline)
    await hands.point("tool.sent")
    return later


async def _sign(context: ToolContext, arguments: JsonObject) -> ToolOutcome | Later:
    """Act under a sign-in, and wait for it."""
    hands = HANDS.get()
    found = await authorization_for(hands.app, context, server_of(context))
    if isinstance(found, Later):
        hands.have_asked(context.tool_call_id, found.deadline)
        await hands.point("tool.sent")
        return found
    return await _act(context, arguments, "sign")


async def _question(context: ToolContext, arguments: JsonObject) -> Later:
    """Ask people a question of the agent."""
    hands = HANDS.get()
    await hands.point("tool.before")
    deadline = hands.app.now() + round(OPEN_FOR * 1_000_000)
    return Later("question", deadline, "May I?", questions=ASKED_QUESTIONS)


PARAMETERS = schema({"seconds": {"type": "number"}, "slowly": {"type": "number"}})


def _tool(
    name: str,
    run: ToolRun,
    hints: object,
    verify: Verify | None = None,
    timeout: float = TIMEOUT,
    *,
    resumable: bool = False,
    background: bool = False,
) -> Tool:
    return Tool(
        name,
        f"Simulated: {name}.",
        PARAMETERS,
        run,
        hints=hints,
        timeout=timeout,
        verify=verify,
        resumable=resumable,
        background=background,
    )


TOOLS = (
    _tool("once", _once, ONCE, background=True),
    _tool("again", _again, REPEATABLE, background=True),
    _tool("look", _look, READ_ONLY),
    _tool("refuse", _refuse, ONCE),
    _tool("burst", _burst, ONCE),
    _tool("later", _later, ONCE),
    _tool("later_again", _later_again, REPEATABLE),
    _tool("asked", _asked, ONCE, _look_up, PATIENCE),
    _tool("order", _order, ONCE, timeout=PATIENCE),
    _tool("posted", _posted, ONCE, resumable=True),
    _tool("consent", _consent, ONCE),
    _tool("sign", _sign, ONCE),
    _tool("question", _question, READ_ONLY),
)
REPLAYABLE = frozenset({"again", "look", "later_again", "question"})

SIMULATION = Capability(
    id="simulation",
    name="Simulation",
    description="Tools whose effects are recorded.",
    category="test",
    tools=lambda config: TOOLS,
)
