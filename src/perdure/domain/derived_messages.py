"""Messages that the conversation has and the log does not: they are derived from events.

Their ids are derived too, so they are the same whoever reads the log.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from perdure.domain.events import OutputRejectedData, ToolCompletedData
from perdure.domain.ids import EventId, MessageId
from perdure.domain.messages import ContentPart, Message, TextPart, ToolCallPart, ToolResultPart, text_of
from perdure.domain.times import Micros, to_rfc3339


def result_message(data: ToolCompletedData, ts: Micros, event_id: EventId | None = None) -> Message:
    """The `tool_result` message of a completed call. Its id is derived from the call, so it is stable."""
    result: object = None
    if data.result is not None:
        result = _result_value(data.result)
    content = (ToolResultPart(data.tool_call_id, result, data.error),)
    identity = (
        event_id[6:]
        if event_id
        else blake2b(f"{data.tool_call_id}/{ts}".encode(), digest_size=16).hexdigest()
    )
    return Message(MessageId(f"message_{identity}"), "tool_result", content, to_rfc3339(ts))


def correction_message(data: OutputRejectedData, ts: Micros) -> Message:
    """What the model is told about an answer that does not match its schema."""
    identity = blake2b(f"{data.message_id}/rejected".encode(), digest_size=16).hexdigest()
    problems = "\n".join(f"- {error}" for error in data.errors)
    text = (
        f"Your answer was not accepted, because it does not match the required schema:\n{problems}\n"
        "Give the whole answer again, corrected."
    )
    return Message(MessageId(f"message_{identity}"), "system", (TextPart(text),), to_rfc3339(ts))


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
