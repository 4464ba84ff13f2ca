"""Makes tools and capabilities of Python functions."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.capabilities.port import TOOL_TIMEOUT, Capability, Later, Tool, ToolContext, ToolOutcome
from perdure.domain.effects import Verified
from perdure.domain.messages import JsonObject
from perdure.domain.tool_functions import CONTEXT, Signature, ToolFunction, read_signature
from perdure.domain.tools import ToolHints

CATEGORY = "tools"
"""The category of capabilities that are made of functions."""

NOTHING = "Done."
"""What the model reads if a function returns None."""


def as_tool(function: ToolFunction[..., Any]) -> Tool:
    """Make the tool of a function.

    Raises:
        InvalidToolFunction: the function has mistakes.
    """
    signature, options = read_signature(function), function.options
    return Tool(
        name=signature.name,
        description=signature.description,
        parameters=signature.parameters,
        run=partial(_run, function, signature),
        hints=ToolHints(
            readonly=options.read_only,
            idempotent=options.read_only or options.idempotent,
            destructive=options.destructive or None,
        ),
        display_name=options.display_name or humanized(signature.name),
        timeout=TOOL_TIMEOUT if options.timeout is None else float(options.timeout),
        approval=options.approval,
        verify=None if options.verify is None else partial(_verify, function, options.verify, signature),
        resumable=options.resumable,
        deferred=options.deferred,
        background=options.background,
    )


async def _run(
    function: ToolFunction[..., Any], signature: Signature, context: ToolContext, arguments: JsonObject
) -> ToolOutcome | Later:
    """Call the function with converted arguments, and make its result JSON."""
    positional, named = signature.convert(arguments)
    first = (context,) if signature.takes_context else ()
    value = await function(*first, *positional, **named)
    return value if isinstance(value, ToolOutcome | Later) else ToolOutcome(_json_of(value))


async def _verify(
    function: ToolFunction[..., Any],
    verify: Callable[..., Awaitable[Verified]],
    signature: Signature,
    context: ToolContext,
    arguments: JsonObject,
) -> Verified:
    """Ask the tool's author whether the call took effect."""
    positional, named = signature.convert(arguments)
    parameters = inspect.signature(function.function).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    by_position = dict(zip(signature.positional, positional, strict=True))
    values = {**defaults, CONTEXT: context, **by_position, **named}
    taken = inspect.signature(verify).parameters.values()
    first = [values[each.name] for each in taken if each.kind is each.POSITIONAL_ONLY]
    rest = {each.name: values[each.name] for each in taken if each.kind is not each.POSITIONAL_ONLY}
    verified = await verify(*first, **rest)
    return replace(verified, value=_json_of(verified.value)) if verified.outcome == "done" else verified


def _json_of(value: Any) -> Any:
    """A function's result as text, or as a value that JSON can express."""
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else msgspec.to_builtins(value, str_keys=True)


def capability_of(tool: Tool) -> Capability:
    """The capability of one tool, with the tool's name."""
    return capability_with(
        tool.name,
        (tool,),
        name=tool.display_name or humanized(tool.name),
        description=tool.description.partition("\n\n")[0],
    )


def capability_with(
    identifier: str, tools: Sequence[Tool], name: str | None = None, description: str = ""
) -> Capability:
    """A capability that consists of these tools."""
    held = tuple(tools)
    return Capability(
        id=identifier,
        name=name or humanized(identifier),
        description=description or f"The tools {', '.join(tool.name for tool in held)}.",
        category=CATEGORY,
        tools=lambda config: held,
    )


def humanized(name: str) -> str:
    """A name for people: `get_weather` becomes `Get weather`."""
    words = name.replace("_", " ").replace("-", " ").split()
    text = " ".join(words) or name
    return text[0].upper() + text[1:]
