"""Messages that the conversation has and the log does not: they are derived from events.

Their ids are derived too, so they are the same whoever reads the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from perdure.domain.decisions import Decided
from perdure.domain.events import ChangedText, HookDecidedData, OutputRejectedData, ToolCompletedData
from perdure.domain.ids import EventId, MessageId
from perdure.domain.messages import (
    ContentPart,
    JsonObject,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    text_of,
)
from perdure.domain.speakers import Reader, label_of
from perdure.domain.texts import without_middle
from perdure.domain.times import Micros, to_rfc3339

MAX_EDIT = 4_000
"""Characters of the JSON of edited arguments that the model is shown."""


def note_of(decided: Decided | None, changed: HookDecidedData | None = None) -> str:
    """What the model is told with the result of a call: how its arguments were changed, and by whom.

    Empty for a call that ran as the model wrote it, approved or not.
    """
    parts = []
    allowed = decided if decided is not None and decided.decision.startswith("allow") else None
    if allowed is not None and allowed.arguments is not None:
        parts.append(_ran_with("The user", allowed.arguments))
    elif changed is not None and changed.arguments is not None:
        parts.append(_ran_with("A policy", changed.arguments))
    if changed is not None and changed.reason:
        parts.append(f"The reason: {changed.reason}")
    if allowed is not None and allowed.reason:
        parts.append(f"The user said: {allowed.reason}")
    return f"[{' '.join(parts)}]" if parts else ""


def _ran_with(who: str, arguments: JsonObject) -> str:
    written = msgspec.json.encode(arguments).decode()
    shown = without_middle(written, MAX_EDIT, lambda left: f"...[{left} characters]...")
    return f"{who} changed the arguments of this call before it ran. It ran with: {shown}"


def result_message(
    data: ToolCompletedData,
    ts: Micros,
    event_id: EventId | None = None,
    decided: Decided | None = None,
    changed: HookDecidedData | None = None,
) -> Message:
    """The `tool_result` message of a completed call. Its id is derived from the call, so it is stable.

    Args:
        decided: the approval of the call, of which the model is told what is not obvious.
        changed: the decision of a policy hook that has changed the call's arguments.
    """
    parts, error = data.result, data.error
    note = note_of(decided, changed)
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


def with_text(message: Message, changed: Sequence[ChangedText]) -> Message:
    """The message with its new text, if there is one for its id; what is not text stays."""
    text = next((each.text for each in changed if each.id == message.id), None)
    if text is None:
        return message
    others = (part for part in message.content if not isinstance(part, TextPart))
    return msgspec.structs.replace(message, content=(TextPart(text), *others))


def correction_message(data: OutputRejectedData, ts: Micros) -> Message:
    """What the model is told about an answer that does not match its schema."""
    identity = blake2b(f"{data.message_id}/rejected".encode(), digest_size=16).hexdigest()
    problems = "\n".join(f"- {error}" for error in data.errors)
    text = (
        f"Your answer was not accepted, because it does not match the required schema:\n{problems}\n"
        "Give the whole answer again, corrected."
    )
    return Message(MessageId(f"message_{identity}"), "system", (TextPart(text),), to_rfc3339(ts))


def as_read_by(messages: Sequence[Message], reader: Reader | None) -> list[Message]:
    """The messages with the names of other agents before what these wrote.

    Args:
        reader: the agent that reads them; None for the one that the session was created with.
    """
    return [_labelled(message, reader) if message.role == "agent" else message for message in messages]


def _labelled(message: Message, reader: Reader | None) -> Message:
    author = message.author
    if author is None:
        name = None if reader is None else reader.first
    else:
        name = None if reader is not None and reader.agent_id == author.agent_id else author.agent_name
    if name is None:
        return message
    label, content = label_of(name), message.content
    if content and isinstance(content[0], TextPart):
        content = (TextPart(f"{label}\n{content[0].text}"), *content[1:])
    else:
        content = (TextPart(label), *content)
    return msgspec.structs.replace(message, content=content)


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
