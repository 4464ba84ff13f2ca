"""Tools in the background: a call that asks for it begins a task, and the turn goes on without its result."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from perdure.domain.ids import ExecId, ToolCallId
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.speakers import AgentAt

FLAG = "run_in_background"
"""The argument with which a model asks for it. The tool itself never sees it."""
_FLAG: JsonObject = {
    "type": "boolean",
    "description": (
        "Run this in the background: you receive the id of a task at once and can go on. Its result comes as "
        "a message, or from `wait_tasks`."
    ),
}

LATER = (
    "The tool's result comes later, from a person or another service: it cannot run in the background. Make "
    "the call without `run_in_background`; the turn waits for it then."
)
"""Why a call fails that has to wait for somebody."""

MAX_SHOWN, MAX_ARGUMENTS = 200, 20
"""Characters of an argument that the task's `spec` shows, and the most arguments; the log has all of them."""


class ToolTask(Struct, frozen=True, omit_defaults=True):
    """What a task of a tool was begun with: the `spec` of the task.

    Attributes:
        tool: the name that the model called.
        arguments: as they are shown to people: long ones are cut.
        effect_key: identifies the call's effect. No attempt changes it.
        time_limit: seconds that one attempt may take.
        announced_at: a sequence of the log before that of the call's start, which has the whole arguments.
        reads: whether the tool only reads.
        tool_list: the digest of the discovered tools that the model was offered.
        made_by: the agent whose call it is, which may be another one than the session's own.
    """

    tool: str
    arguments: JsonObject
    effect_key: str
    time_limit: float
    tool_call_id: ToolCallId
    exec_id: ExecId
    announced_at: int
    reads: bool = False
    tool_list: str | None = None
    made_by: AgentAt | None = None

    def spec(self) -> JsonObject:
        """The task's `spec`."""
        made: JsonObject = msgspec.to_builtins(self)
        return made


def read_spec(spec: JsonObject) -> ToolTask:
    """Read the `spec` of a task of a tool."""
    return msgspec.convert(spec, ToolTask)


def only_reads(spec: JsonObject) -> bool:
    """Whether the tool of a task changes nothing. One whose spec cannot be read may change something."""
    try:
        return read_spec(spec).reads
    except msgspec.ValidationError:
        return False


def with_flag(parameters: JsonObject) -> JsonObject | None:
    """A tool's parameters with the one that asks for the background; None if they cannot have it.

    A tool that has a parameter of this name means something else by it.
    """
    properties = parameters.get("properties", {})
    if parameters.get("type", "object") != "object" or not isinstance(properties, dict) or FLAG in properties:
        return None
    return {**parameters, "properties": {**properties, FLAG: _FLAG}}


def without_flag(arguments: JsonObject) -> JsonObject:
    """The arguments that the tool itself receives."""
    return {name: value for name, value in arguments.items() if name != FLAG}


def asks(arguments: JsonValue) -> bool:
    """Whether a call with these arguments is to run in the background."""
    return isinstance(arguments, dict) and arguments.get(FLAG) is True


def shown(arguments: JsonObject) -> JsonObject:
    """The arguments for people, without the one that asked for the background."""
    return {
        name[:MAX_SHOWN]: _short(value)
        for name, value in list(without_flag(arguments).items())[:MAX_ARGUMENTS]
    }


def _short(value: JsonValue) -> JsonValue:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode(errors="replace")
    return value if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."
