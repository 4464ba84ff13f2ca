"""Secret arguments of tool calls: only the tool receives them."""

from __future__ import annotations

import msgspec

from perdure.capabilities.port import Tool
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.messages import JsonValue, ToolCallPart
from perdure.domain.redaction import mark_of
from perdure.engine.run import Run
from perdure.llm.driver import ModelResponse
from perdure.store.rows import to_json


def redact_secret_arguments(
    run: Run, agent: ResolvedAgent, calls: tuple[ToolCallPart, ...]
) -> tuple[ToolCallPart, ...]:
    """Redact the secret arguments of the calls.

    Keeps the original arguments in `run.secret_arguments` for the tools, and makes the run's redactor
    recognize the secrets from now on.
    """
    redacted = []
    for call in calls:
        bound = agent.bound.get(call.name)
        arguments, secrets = (
            (call.arguments, {}) if bound is None else redact_arguments(bound.tool, call.arguments)
        )
        run.redactor.learn(secrets)
        unchanged = arguments is call.arguments
        redacted.append(call if unchanged else msgspec.structs.replace(call, arguments=arguments))
    if run.redactor or any(after is not before for after, before in zip(redacted, calls, strict=True)):
        for call in calls:
            run.secret_arguments[call.id] = call.arguments
    return tuple(redacted)


def redact_response(
    response: ModelResponse, calls: tuple[ToolCallPart, ...], redacted: tuple[ToolCallPart, ...]
) -> ModelResponse:
    """The model's response, with the arguments redacted that are redacted in its calls.

    Args:
        calls: the response's calls, possibly repaired; redacted: the same calls after redaction.
    """
    redacted_calls = [
        original
        if after.arguments is before.arguments
        else msgspec.structs.replace(original, arguments=after.arguments)
        for original, before, after in zip(response.tool_calls, calls, redacted, strict=True)
    ]
    return msgspec.structs.replace(response, tool_calls=tuple(redacted_calls))


def redact_arguments(tool: Tool, arguments: JsonValue) -> tuple[JsonValue, dict[str, str]]:
    """Redact a call's secret arguments.

    If a tool takes secrets, an argument with an unknown name may be a secret with a misspelled name, and
    invalid JSON may contain one anywhere, so both are redacted too.

    Returns:
        The redacted arguments (the same object if nothing is secret), and the secrets by the label that
        replaces them.
    """
    if not tool.secret_arguments:
        return arguments, {}
    if not isinstance(arguments, dict):
        return mark_of(tool.name), {}
    known = tool.parameters.get("properties", {})
    redacted, secrets = dict(arguments), {}
    for name, value in arguments.items():
        if (name in tool.secret_arguments or name not in known) and value not in (None, "", True, False):
            label = str(arguments.get("key", name))
            redacted[name] = mark_of(label)
            secrets[label] = value if isinstance(value, str) else to_json(value)
    return (redacted, secrets) if secrets else (arguments, {})
