"""Build a `ModelResponse` from a stream: the parts that all protocols share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar
from uuid import uuid4

import msgspec

from perdure.domain.errors import ModelError
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonObject, Message, ToolCallPart, Usage
from perdure.llm.driver import ModelResponse, OnDelta
from perdure.llm.failures import bad_response
from perdure.llm.wire import Reasoning, packed

Decoded = TypeVar("Decoded")

MAX_NESTING = 100
"""Maximum JSON nesting of a tool call's arguments. Deeper arguments are kept as text, like invalid JSON."""


def decoded(decoder: msgspec.json.Decoder[Decoded], payload: bytes) -> Decoded:
    """Decode one SSE payload into its struct.

    Replaces invalid UTF-8, because some servers split a character between two events.

    Raises:
        ModelError: the payload is not JSON of the expected shape.
    """
    try:
        return decoder.decode(payload)
    except ValueError:
        try:
            return decoder.decode(payload.decode("utf-8", "replace"))
        except (ValueError, RecursionError) as error:
            raise bad_response(f"the provider sent an event that violates its protocol: {error}") from None
    except RecursionError:
        raise bad_response("the provider sent JSON that is nested too deeply") from None


def without_nul(text: str) -> str:
    """Replace NUL by U+FFFD, because PostgreSQL cannot store NUL."""
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


def count(value: object) -> int | None:
    """Return the value if it is a valid token count, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class CallInProgress:
    """A tool call whose arguments are still arriving."""

    __slots__ = ("arguments", "extra", "id", "name")

    def __init__(self, call_id: str | None, name: str | None) -> None:
        self.id = ToolCallId(without_nul(call_id or ""))
        self.name = without_nul(name or "")
        self.arguments: list[str] = []
        self.extra: Any = None


class Answer:
    """Accumulates an answer. Protocols feed it; it emits deltas and, at the end, the response.

    Args:
        on_delta: called with every piece of text.
    """

    __slots__ = (
        "_on_delta",
        "_text",
        "_thinking",
        "calls",
        "chars",
        "finish_reason",
        "model",
        "reasoning",
        "response_id",
        "usage",
    )

    def __init__(self, on_delta: OnDelta) -> None:
        self._on_delta = on_delta
        self._text: list[str] = []
        self._thinking: list[str] = []
        self.calls: list[CallInProgress] = []
        self.chars = 0
        self.reasoning: list[Reasoning] = []
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.response_id: str | None = None
        self.model: str | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing has arrived yet."""
        return not (self._text or self._thinking or self.calls)

    @property
    def thinking_started(self) -> bool:
        return bool(self._thinking)

    def add_text(self, piece: str) -> None:
        """Append a piece of the answer's text."""
        if "\x00" in piece:
            piece = piece.replace("\x00", "\ufffd")
        self._text.append(piece)
        self.chars += len(piece)
        self._on_delta("text", piece)

    def add_thinking(self, piece: str) -> None:
        """Append a piece of readable reasoning."""
        piece = without_nul(piece)
        self._thinking.append(piece)
        self._on_delta("thinking", piece)

    def add_reasoning(self, item: dict[str, Any]) -> None:
        """Record a finished reasoning block and its position, so that it can be sent back there."""
        self.reasoning.append(Reasoning(item, self.chars, len(self.calls)))

    def packed_reasoning(self, model: str) -> tuple[JsonObject, ...]:
        """Return the reasoning blocks in the form in which a message stores them."""
        return packed(model, self.reasoning)

    def response(self, model: str, history: Iterable[Message], signature: str | None = None) -> ModelResponse:
        """Build the finished response.

        Args:
            model: the model that was called; its reasoning is sent back to this model only.
            history: the messages that were sent. Their call ids are in use; a reused id is replaced.
            signature: the signature over the thinking, if there is exactly one.
        """
        calls = _finished(self.calls, history)
        finish = self.finish_reason or "stop"
        return ModelResponse(
            text="".join(self._text),
            tool_calls=calls,
            thinking="".join(self._thinking) if self._thinking else None,
            thinking_signature=signature,
            reasoning_items=self.packed_reasoning(model),
            usage=self.usage,
            finish_reason="tool_calls" if calls and finish == "stop" else finish,
            response_id=self.response_id,
            model=self.model,
        )


def cut_off() -> ModelError:
    """Build the error for a stream that ended too early."""
    return bad_response("the provider's stream ended before the answer was complete")


def _finished(calls: list[CallInProgress], history: Iterable[Message]) -> tuple[ToolCallPart, ...]:
    if not calls:
        return ()
    taken = {
        part.id
        for message in history
        if message.role == "agent"
        for part in message.content
        if type(part) is ToolCallPart
    }
    out: list[ToolCallPart] = []
    for call in calls:
        if not call.id or call.id in taken:
            call.id = ToolCallId(f"call_{uuid4().hex[:24]}")
        taken.add(call.id)
        out.append(ToolCallPart(call.id, call.name, _arguments("".join(call.arguments))))
    return tuple(out)


def _arguments(text: str) -> Any:
    """Parse the arguments; return invalid JSON as text, and an empty text as no arguments."""
    if not text or text.isspace():
        return {}
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return without_nul(text)
    if text.count("[") + text.count("{") > MAX_NESTING and not _shallow(value, MAX_NESTING):
        return without_nul(text)
    return _deeply_without_nul(value) if "\\u0000" in text else value


def _shallow(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return not isinstance(value, list) or (levels > 0 and all(_shallow(item, levels - 1) for item in value))


def _deeply_without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return without_nul(value)
    if isinstance(value, list):
        return [_deeply_without_nul(item) for item in value]
    if isinstance(value, dict):
        return {without_nul(key): _deeply_without_nul(item) for key, item in value.items()}
    return value
