"""Tools that this program runs for a session: what they are, and how one call of them is run."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.errors import PerdureError
from perdure.domain.events import ToolCall
from perdure.domain.messages import JsonObject, storable
from perdure.domain.tool_functions import ToolFunction, read_signature
from perdure.domain.tools import MAX_RESULT, ClientSideTool, ToolCallResult, ToolHints

NOTHING = "Done."
"""What the model reads if a function returns None."""
MAX_DEPTH = 90
"""Levels of a result: a server accepts a few more, but the request has some, too."""
LONGEST_ERROR = 10_000
"""Characters of an error that the model reads."""

log = logging.getLogger(__name__)


class ToolCallContext(Struct, frozen=True):
    """What a tool function that takes `ctx` gets: the call, and the session that it is from."""

    session_id: str
    tool_call: ToolCall


OwnTool = ToolFunction[..., Any] | tuple[ClientSideTool, Callable[[JsonObject], Any]]
"""A function below `@tool`; or a definition, and an async function that takes a call's arguments."""


class Runnable(Struct, frozen=True):
    """A tool, ready to run.

    Attributes:
        timeout: seconds that a call may take; None for any time.
    """

    definition: ClientSideTool
    run: Callable[[ToolCallContext, JsonObject], Awaitable[Any]]
    timeout: float | None = None


def client_side_tool(function: ToolFunction[..., Any]) -> ClientSideTool:
    """Return the definition of a `@tool` function, for `create_session(tools=...)` or an agent.

    Raises:
        InvalidToolFunction: the function's hints or docstring have mistakes.
        ValueError: `@tool(approval=True)`, which only tools of the server can have.
    """
    return runnable_of(function).definition


def runnable_tools(tools: Iterable[OwnTool]) -> dict[str, Runnable]:
    """Return the tools by name. Raises ValueError if two have the same name, and TypeError for others."""
    by_name: dict[str, Runnable] = {}
    for tool in tools:
        made = runnable_of(tool)
        if by_name.setdefault(made.definition.name, made) is not made:
            raise ValueError(f"two tools have the name {made.definition.name!r}")
    return by_name


def runnable_of(tool: OwnTool) -> Runnable:
    """Return a tool that is ready to run. Raises as `client_side_tool` does, and TypeError."""
    match tool:
        case ToolFunction():
            return _of_function(tool)
        case (ClientSideTool() as definition, run) if callable(run):

            async def call(context: ToolCallContext, arguments: JsonObject) -> Any:
                value = run(arguments)
                return (await value) if inspect.isawaitable(value) else value

            return Runnable(definition, call)
    raise TypeError(
        f"not a tool: {tool!r:.100}. Pass functions below `@tool`, or pairs of a ClientSideTool and an async "
        "function"
    )


def _of_function(function: ToolFunction[..., Any]) -> Runnable:
    signature, options = read_signature(function), function.options
    if options.approval:
        raise ValueError(
            f"{signature.name}: a client-side tool cannot have `approval=True`: the program that runs it "
            "decides whether to run it"
        )
    hints = ToolHints(
        readonly=options.read_only or None,
        idempotent=options.read_only or options.idempotent or None,
        destructive=options.destructive or None,
    )
    definition = ClientSideTool(
        signature.name,
        signature.description,
        signature.parameters,
        options.display_name,
        hints=None if hints == ToolHints() else hints,
    )

    async def call(context: ToolCallContext, arguments: JsonObject) -> Any:
        positional, named = signature.convert(arguments)
        first = (context,) if signature.takes_context else ()
        return await function(*first, *positional, **named)

    return Runnable(definition, call, options.timeout)


async def result_of(tool: Runnable, session_id: str, call: ToolCall) -> ToolCallResult:
    """Run a call. Whatever goes wrong becomes the error that the model reads."""
    limit = asyncio.timeout(tool.timeout)
    try:
        if not isinstance(call.arguments, dict):
            raise PerdureError("Invalid arguments. An object is needed.", code="invalid_arguments")
        async with limit:
            value = await tool.run(ToolCallContext(session_id, call), call.arguments)
        return ToolCallResult(call.id, result=_as_json(value))
    except PerdureError as error:
        text = error.message
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        text = "The tool failed: it was cancelled from inside."
    except Exception as error:
        if limit.expired():
            text = f"The tool did not finish within {tool.timeout:g} seconds."
        else:
            # The model learns no details: the message may contain what is no business of the session.
            log.exception("the tool %s failed", call.name)
            text = f"The tool failed: {type(error).__name__}."
    return ToolCallResult(call.id, error=storable(text)[:LONGEST_ERROR] or "The tool failed.")


def _as_json(value: Any) -> Any:
    """Return a result as JSON. Raises PerdureError if the server would refuse it."""
    if value is None:
        return NOTHING
    plain = value if isinstance(value, str) else msgspec.to_builtins(value, str_keys=True)
    size = len(msgspec.json.encode(plain))
    if size > MAX_RESULT:
        raise PerdureError(
            f"The tool's result has {size} bytes, and at most {MAX_RESULT} are possible.",
            code="tool_result_too_large",
        )
    problem = _problem_of(plain)
    if problem is not None:
        raise PerdureError(f"The tool's result {problem}.", code="invalid_tool_result")
    return plain


def _problem_of(value: Any) -> str | None:
    """Why no server accepts a request with this value; None if nothing is known."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += [*each, *each.values()]
            elif isinstance(each, list | tuple):
                inner += each
            elif isinstance(each, str) and "\x00" in each:
                return "contains NUL characters: encode it, as base64 for one"
            elif isinstance(each, int) and not -(1 << 63) <= each < 1 << 63:
                return "contains an integer of more than 64 bits: return it as a text"
        if not inner:
            return None
        level = inner
    return f"is nested more than {MAX_DEPTH} levels deep: return a flatter value"
