"""Secret arguments of tool calls: only the tool receives them."""

from __future__ import annotations

import re

import msgspec

from perdure.capabilities.port import Tool
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.messages import JsonObject, JsonValue, ToolCallPart
from perdure.domain.redaction import mark_of
from perdure.engine.run import Run
from perdure.llm.driver import ModelResponse
from perdure.store.rows import to_json

MAX_NAME, MAX_TEXT = 100, 100_000
"""Characters of a tool's name, and of arguments that are not JSON, that are searched."""

LONG = 12
"""Characters above which a misplaced value is no common word."""

ALIKE = 0.6
"""How alike two tools' names are, from 0 to 1, if one may be a misspelling of the other."""

_SECRETIVE = (
    "secret", "credential", "password", "passwd", "token", "apikey", "api_key", "vault", "private_key",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z_][\w. -]{0,63}")
"""What a secret's name looks like."""

_LABELS = frozenset({"key", "name", "label", "id", "operation", "op", "action", "type"})
"""Arguments that usually name a secret: other texts may have the same words, and are left as they are."""

_WITHOUT_VALUE = ("get", "delete", "list")


def redact_secret_arguments(
    run: Run, agent: ResolvedAgent, calls: tuple[ToolCallPart, ...]
) -> tuple[ToolCallPart, ...]:
    """Redact the secret arguments of the calls.

    Keeps the original arguments in `run.secret_arguments` for the tools, and makes the run's redactor
    recognize the secrets from now on.
    """
    redacted = []
    for call in calls:
        arguments, secrets = _redact_call(agent, agent.keepers, call)
        run.redactor.learn(secrets)
        unchanged = arguments is call.arguments
        redacted.append(call if unchanged else msgspec.structs.replace(call, arguments=arguments))
    if run.redactor or any(after is not before for after, before in zip(redacted, calls, strict=True)):
        for call in calls:
            run.secret_arguments[call.id] = call.arguments
    return tuple(redacted)


def _redact_call(
    agent: ResolvedAgent, keepers: tuple[Tool, ...], call: ToolCallPart
) -> tuple[JsonValue, dict[str, str]]:
    """Redact the secret arguments of a call, also if it was meant for another tool than it names.

    Args:
        keepers: the agent's tools that take secrets.
    """
    bound = agent.bound.get(call.name)
    if bound is not None and bound.tool.secret_arguments:
        return redact_arguments(bound.tool, call.arguments)
    for keeper in keepers:
        if bound is None and call.name not in agent.client and _may_mean(call, keeper):
            return redact_arguments(keeper, call.arguments)
        known = {} if bound is None else bound.tool.parameters.get("properties", {})
        if bound is not None and _has_its_arguments(call.arguments, keeper, known):
            return redact_arguments(keeper, call.arguments)
    return call.arguments, {}


def _may_mean(call: ToolCallPart, keeper: Tool) -> bool:
    """Whether a call of an unknown tool may be meant for a tool that takes secrets."""
    name = re.sub(r"[^a-z]", "", call.name[:MAX_NAME].lower())
    meant = re.sub(r"[^a-z]", "", keeper.name.lower())
    from difflib import SequenceMatcher  # few models call unknown tools

    if any(word in name for word in _SECRETIVE) or SequenceMatcher(None, name, meant).ratio() >= ALIKE:
        return True
    if isinstance(call.arguments, dict):
        names = {str(each).lower() for each in call.arguments}
        return bool(names & {*keeper.secret_arguments, *_SECRETIVE})
    text = str(call.arguments)[:MAX_TEXT].lower()
    return any(word in text for word in (*keeper.secret_arguments, *_SECRETIVE))


def _has_its_arguments(arguments: JsonValue, keeper: Tool, known: JsonObject) -> bool:
    """Whether a call of a tool without secrets has the arguments of one with secrets."""
    return isinstance(arguments, dict) and any(
        name in arguments and name not in known for name in keeper.secret_arguments
    )


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

    If a tool takes secrets, an argument with an unknown name or a value that it cannot have may be a secret
    in the wrong place, and invalid JSON may contain one anywhere, so these are redacted too.

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
    key = arguments.get("key")
    lost = not any(arguments.get(name) for name in tool.secret_arguments)
    misplaced = lost and arguments.get("operation") not in _WITHOUT_VALUE
    if not isinstance(key, str) or misplaced or not _NAME.fullmatch(key):
        key = None  # it may be the secret itself, or a pair such as NAME=secret
    for name, value in arguments.items():
        if value in (None, "", True, False) or (name == "key" and value == key):
            continue
        if name in tool.secret_arguments or name not in known or not _is_plain(name, value, known):
            label = str(key or (name if name in known else tool.name))
            redacted[name] = mark_of(label)
            if name not in _LABELS or (name in known and (name == "key" or len(str(value)) > LONG)):
                label = label if label not in secrets else f"{label}_{name}"
                secrets[label] = value if isinstance(value, str) else to_json(value)
    return (arguments if redacted == arguments else redacted), secrets


def _is_plain(name: str, value: JsonValue, known: JsonObject) -> bool:
    """Whether an argument that takes no secret has a value that it may have."""
    allowed = known[name].get("enum")
    return name != "key" and isinstance(value, str) and (allowed is None or value in allowed)
