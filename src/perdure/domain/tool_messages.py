"""The messages that tell a model the results of its tool calls."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from perdure.domain.decisions import Decided
from perdure.domain.events import ToolCompletedData
from perdure.domain.ids import EventId, MessageId
from perdure.domain.messages import ContentPart, Message, TextPart, ToolCallPart, ToolResultPart, text_of
from perdure.domain.texts import without_middle
from perdure.domain.times import Micros, to_rfc3339

MAX_EDIT = 4_000
"""Characters of the JSON of edited arguments that the model is shown."""


def note_of(decided: Decided) -> str:
    """What the model is told with the result of a call that was approved; empty for a plain approval."""
    parts = []
    if decided.arguments is not None:
        written = msgspec.json.encode(decided.arguments).decode()
        edited = without_middle(written, MAX_EDIT, lambda left: f"...[{left} characters]...")
        parts.append(f"The user changed the arguments of this call before it ran. It ran with: {edited}")
    if decided.reason:
        parts.append(f"The user said: {decided.reason}")
    return f"[{' '.join(parts)}]" if parts else ""


def result_message(
    data: ToolCompletedData, ts: Micros, event_id: EventId | None = None, decided: Decided | None = None
) -> Message:
    """The `tool_result` message of a completed call. Its id is derived from the call, so it is stable.

    Args:
        decided: the approval of the call, of which the model is told what is not obvious.
    """
    parts, error = data.result, data.error
    note = "" if decided is None or not decided.decision.startswith("allow") else note_of(decided)
    if note and error is not None:
        error = f"{error}\n{note}"
    elif note:
        parts = (TextPart(f"{note}\n"), *(parts or ()))
    result: object = None
    if parts is not None:
        result = _result_value(parts)
    content = (ToolResultPart(data.tool_call_id, result, error),)
    identity = (
        event_id[6:]
        if event_id
        else blake2b(f"{data.tool_call_id}/{ts}".encode(), digest_size=16).hexdigest()
    )
    return Message(MessageId(f"message_{identity}"), "tool_result", content, to_rfc3339(ts))


def _result_value(parts: tuple[ContentPart, ...]) -> object:
    if all(isinstance(part, TextPart) for part in parts):
        return text_of(parts)
    return list(msgspec.to_builtins(parts))


def missing_result(call: ToolCallPart, ts: Micros) -> Message:
    """The result of a call that has none in the log: an error."""
    identity = blake2b(f"{call.id}/missing".encode(), digest_size=16).hexdigest()
    error = "This call did not finish: the turn ended before its result came."
    content = (ToolResultPart(call.id, None, error),)
    return Message(MessageId(f"message_{identity}"), "tool_result", content, to_rfc3339(ts))
