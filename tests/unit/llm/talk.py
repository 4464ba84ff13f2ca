"""Helpers that build messages and calls for the driver tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.domain.ids import new_id
from perdure.domain.messages import (
    ContentPart,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from perdure.llm.driver import ModelRequest, ModelResponse, ToolSpec

AT = "2026-01-01T00:00:00.000000Z"

WEATHER = ToolSpec(
    "weather",
    "Tells the weather of a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
CLOCK = ToolSpec("clock", "Tells the time.", {})


def user(*parts: str | ContentPart) -> Message:
    """Build a user message."""
    return Message(new_id("message"), "user", _content(parts), AT)


def system(*parts: str | ContentPart) -> Message:
    """Build a system message in the conversation."""
    return Message(new_id("message"), "system", _content(parts), AT)


def agent(*parts: str | ContentPart, **fields: Any) -> Message:
    """Build an agent message."""
    return Message(new_id("message"), "agent", _content(parts), AT, **fields)


def call(call_id: str, name: str = "weather", arguments: Any = None) -> ToolCallPart:
    """Build a tool call of an agent message."""
    return ToolCallPart(call_id, name, {} if arguments is None else arguments)


def result(call_id: str, value: Any = None, error: str | None = None, *more: ContentPart) -> Message:
    """Build the result of a tool call."""
    return Message(new_id("message"), "tool_result", (ToolResultPart(call_id, value, error), *more), AT)


def kept(response: ModelResponse, provider_type: str) -> Message:
    """Convert a response to the message that the log stores and later calls send as history."""
    content: tuple[ContentPart, ...] = (TextPart(response.text),) if response.text else ()
    return Message(
        new_id("message"),
        "agent",
        (*content, *response.tool_calls),
        AT,
        phase="commentary" if response.tool_calls else "final_answer",
        thinking=response.thinking,
        reasoning_provider=provider_type if response.reasoning_items else None,
        reasoning_items=response.reasoning_items or None,
    )


def ask(*messages: Message, **fields: Any) -> ModelRequest:
    """Build a model request."""
    return ModelRequest(**{"model": "model-1", "system": "", "messages": messages, **fields})


def _content(parts: Sequence[str | ContentPart]) -> tuple[ContentPart, ...]:
    return tuple(TextPart(part) if isinstance(part, str) else part for part in parts)


class Heard:
    """Records deltas."""

    def __init__(self) -> None:
        self.deltas: list[tuple[str, str]] = []

    def __call__(self, kind: str, piece: str) -> None:
        self.deltas.append((kind, piece))

    def joined(self, kind: str) -> str:
        return "".join(piece for one, piece in self.deltas if one == kind)

    def pieces(self, kind: str) -> list[str]:
        return [piece for one, piece in self.deltas if one == kind]
