"""Secret arguments of tool calls: they reach the tool, and nothing else."""

from __future__ import annotations

import msgspec

from perdure.capabilities.port import Tool
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.messages import JsonValue, ToolCallPart
from perdure.domain.redaction import mark_of
from perdure.engine.run import Run
from perdure.llm.driver import ModelResponse
from perdure.store.rows import to_json


def withhold(run: Run, agent: ResolvedAgent, calls: tuple[ToolCallPart, ...]) -> tuple[ToolCallPart, ...]:
    """The calls as everybody may see them.

    What is secret in their arguments is kept for the tools, and known from here on.
    """
    shown = []
    for call in calls:
        bound = agent.bound.get(call.name)
        blanked, secrets = (
            (call.arguments, {}) if bound is None else blank_secrets(bound.tool, call.arguments)
        )
        run.redactor.learn(secrets)
        shown.append(call if blanked is call.arguments else msgspec.structs.replace(call, arguments=blanked))
    if run.redactor or any(after is not before for after, before in zip(shown, calls, strict=True)):
        for call in calls:
            run.withheld[call.id] = call.arguments
    return tuple(shown)


def shown_response(
    response: ModelResponse, calls: tuple[ToolCallPart, ...], shown: tuple[ToolCallPart, ...]
) -> ModelResponse:
    """The model's answer as it came, with those arguments blanked that are blanked in its calls."""
    kept = [
        given
        if after.arguments is before.arguments
        else msgspec.structs.replace(given, arguments=after.arguments)
        for given, before, after in zip(response.tool_calls, calls, shown, strict=True)
    ]
    return msgspec.structs.replace(response, tool_calls=tuple(kept))


def blank_secrets(tool: Tool, arguments: JsonValue) -> tuple[JsonValue, dict[str, str]]:
    """The arguments without what is secret, and that, under the name that stands for it.

    The very same when nothing is.

    Of a tool that takes secrets, an argument that it does not know may be one under a wrong name, and JSON
    that cannot be read may hold one anywhere.
    """
    if not tool.secret_arguments:
        return arguments, {}
    if not isinstance(arguments, dict):
        return mark_of(tool.name), {}
    known = tool.parameters.get("properties", {})
    blanked, secrets = dict(arguments), {}
    for name, value in arguments.items():
        if (name in tool.secret_arguments or name not in known) and value not in (None, "", True, False):
            label = str(arguments.get("key", name))
            blanked[name] = mark_of(label)
            secrets[label] = value if isinstance(value, str) else to_json(value)
    return (blanked, secrets) if secrets else (arguments, {})
