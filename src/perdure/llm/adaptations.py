"""Changes to a history for servers that refuse what others accept.

A driver sends what the strict servers of its protocol accept. Some servers accept still less, and say so only
by refusing a call. Their wishes have the names below. Those that concern every protocol are carried out here,
on the messages; the others by the driver, from `ModelRequest.changes`.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from perdure.domain.events import HistoryAdaptation
from perdure.domain.messages import (
    ContentPart,
    FilePart,
    ImagePart,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from perdure.llm.wire import dumps, result_content

ALTERNATING_ROLES = "alternating_roles"
"""User and assistant take turns, also after tool results."""

SHORT_CALL_IDS = "short_call_ids"
"""Ids of tool calls have nine letters and digits."""

SYSTEM_AS_USER = "system_as_user"
"""The system prompt is a part of the first user message."""

CALLS_WITHOUT_TEXT = "calls_without_text"
"""A message with tool calls has no text."""

REASONING_WITH_CALLS = "reasoning_with_calls"
"""Messages with tool calls have their reasoning."""

REASONING_ALWAYS = "reasoning_always"
"""All messages of the model have their reasoning."""

NO_REASONING = "no_reasoning"
"""No message has reasoning."""

NO_IMAGES = "no_images"
"""No message has images."""

TOOLS_AS_TEXT = "tools_as_text"
"""Tool calls and their results are text."""

IMAGE_LEFT_OUT = "[image left out: the model refused it]"
"""Replaces an image that a model's server refused."""

FILE_LEFT_OUT = "[file left out: the model refused it]"
"""Replaces a file that a model's server refused, and that has no text."""


def adapted(messages: Sequence[Message], adaptation: HistoryAdaptation) -> list[Message]:
    """Return the messages with the changes that concern every protocol."""
    changes = frozenset(adaptation.changes)
    out = list(messages)
    if NO_IMAGES in changes:
        out = [_without_images(message) for message in out]
    elif adaptation.images_left_out:
        refused = frozenset(adaptation.images_left_out)
        out = [_without_images(message) if message.id in refused else message for message in out]
    if TOOLS_AS_TEXT in changes:
        out = _with_tools_as_text(out)
    elif NO_REASONING in changes:
        out = [_without_reasoning(message) for message in out]
    return out


def has_images(message: Message) -> bool:
    """Whether the message, or a tool result in it, has an image, or a file that is sent as it is."""
    return any(
        isinstance(part, ImagePart | FilePart)
        or (isinstance(part, ToolResultPart) and isinstance(part.result, list) and result_content(part)[1])
        for part in message.content
    )


def _without_images(message: Message) -> Message:
    if not has_images(message):
        return message
    return replace(message, content=tuple(_without_image(part) for part in message.content))


def _without_image(part: ContentPart) -> ContentPart:
    if isinstance(part, ImagePart):
        return TextPart(IMAGE_LEFT_OUT)
    if isinstance(part, FilePart):
        return TextPart(FILE_LEFT_OUT)
    if isinstance(part, ToolResultPart) and isinstance(part.result, list) and result_content(part)[1]:
        texts = [
            str(item.get("text", "")) if item["type"] == "text" else IMAGE_LEFT_OUT for item in part.result
        ]
        return replace(part, result="\n".join(texts))
    return part


def _without_reasoning(message: Message) -> Message:
    if message.thinking is None and message.reasoning_items is None:
        return message
    return replace(
        message, thinking=None, thinking_signature=None, reasoning_provider=None, reasoning_items=None
    )


def _with_tools_as_text(messages: Sequence[Message]) -> list[Message]:
    names: dict[str, str] = {}
    out = []
    for message in messages:
        names |= {part.id: part.name for part in message.content if isinstance(part, ToolCallPart)}
        texts: list[str] = []
        others: list[ContentPart] = []
        for part in message.content:
            _add_as_text(part, names, texts, others)
        content = (TextPart("\n\n".join(texts)), *others) if texts else tuple(others)
        role = "user" if message.role == "tool_result" else message.role
        out.append(replace(_without_reasoning(message), role=role, content=content))
    return out


def _add_as_text(
    part: ContentPart, names: dict[str, str], texts: list[str], others: list[ContentPart]
) -> None:
    if isinstance(part, TextPart):
        texts.append(part.text)
    elif isinstance(part, ToolCallPart):
        texts.append(f"[called the tool {part.name or 'unknown'} with {dumps(part.arguments).decode()}]")
    elif isinstance(part, ToolResultPart):
        text, images = result_content(part)
        texts.append(f"[result of the tool {names.get(part.tool_call_id) or 'unknown'}]\n{text}")
        others += images
    else:
        others.append(part)
