"""Messages and their parts: one definition for domain, wire and log.

A process keeps hundreds of thousands of them at hand. They are trees, never cycles, so the garbage collector
need not walk them (`gc=False`): its longest pause over 20,000 conversations is 9 ms instead of 37.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.ids import MessageId, SessionId, ToolCallId
from perdure.domain.times import Timestamp

Role = Literal["system", "user", "agent", "tool_result"]
Phase = Literal["commentary", "final_answer"]
JsonObject = dict[str, Any]

MAX_TEXT = 1_000_000
"""The longest text part, in characters: about what the largest model windows hold."""

MAX_PARTS = 100
"""The most content parts in one message."""


class TextPart(Struct, frozen=True, gc=False, tag_field="type", tag="text"):
    """Plain text."""

    text: Annotated[str, Meta(max_length=MAX_TEXT, examples=["What is the capital of France?"])]


class ImagePart(Struct, frozen=True, gc=False, tag_field="type", tag="image", omit_defaults=True):
    """An image by URL, or inline as base64 together with its media type."""

    url: Annotated[str, Meta(max_length=8192)] | None = None
    base64: str | None = None
    media_type: Annotated[str, Meta(max_length=100, examples=["image/png"])] | None = None


class ImageFilePart(Struct, frozen=True, gc=False, tag_field="type", tag="image_file", omit_defaults=True):
    """An image that was uploaded before, by its id."""

    image_id: str
    filename: str | None = None


class ToolCallPart(Struct, frozen=True, gc=False, tag_field="type", tag="tool_call"):
    """The model asks for a tool.

    `arguments` is the JSON value that it wrote: an object unless the model erred.
    """

    id: ToolCallId
    name: str
    arguments: Any


class ToolResultPart(Struct, frozen=True, gc=False, tag_field="type", tag="tool_result", omit_defaults=True):
    """What a tool call gave: a result, or an error in words."""

    tool_call_id: ToolCallId
    result: Any = None
    error: str | None = None


InputPart = TextPart | ImagePart | ImageFilePart
ContentPart = TextPart | ImagePart | ImageFilePart | ToolCallPart | ToolResultPart


class ReasoningConfig(Struct, frozen=True, omit_defaults=True):
    """How hard a reasoning model should think, in the vendor's own words (`low`, `medium`, `high` ...)."""

    effort: Annotated[str, Meta(max_length=40, examples=["medium"])] | None = None


class Controls(Struct, frozen=True, omit_defaults=True):
    """Choices that a message makes for the turn that it starts or steers."""

    model_id: str | None = None
    reasoning: ReasoningConfig | None = None
    locale: Annotated[str, Meta(max_length=35)] | None = None
    error_disclosure: Annotated[str, Meta(max_length=40)] | None = None
    hints: JsonObject | None = None


class ExternalActor(Struct, frozen=True, omit_defaults=True):
    """Who wrote a message, when that is somebody outside (a chat user behind a bot, say)."""

    actor_id: Annotated[str, Meta(max_length=200)]
    source: Annotated[str, Meta(max_length=100)]
    actor_name: Annotated[str, Meta(max_length=200)] | None = None
    metadata: dict[str, str] | None = None


class Message(Struct, frozen=True, gc=False, omit_defaults=True):
    """One message of a session, as the log holds it and the wire shows it.

    `reasoning_items` are the vendor's own reasoning blocks (signed or encrypted), kept word for word and sent
    back only to the kind of provider that made them (`reasoning_provider`).
    """

    id: MessageId
    role: Role
    content: tuple[ContentPart, ...]
    created_at: Timestamp
    phase: Phase | None = None
    controls: Controls | None = None
    external_actor: ExternalActor | None = None
    metadata: JsonObject | None = None
    tags: tuple[str, ...] | None = None
    thinking: str | None = None
    thinking_signature: str | None = None
    reasoning_provider: str | None = None
    reasoning_items: tuple[JsonObject, ...] | None = None
    sequence: int | None = None
    session_id: SessionId | None = None


class InputMessage(Struct, frozen=True):
    """What a client writes."""

    content: Annotated[tuple[InputPart, ...], Meta(min_length=1, max_length=MAX_PARTS)]
    role: Literal["user"] = "user"


class CreateMessage(Struct, frozen=True):
    """The body of `POST /v1/sessions/{session_id}/messages`."""

    message: InputMessage
    controls: Controls | None = None
    metadata: JsonObject | None = None
    tags: (
        Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=100)], ...], Meta(max_length=50)] | None
    ) = None
    external_actor: ExternalActor | None = None
    addressed_participant_id: str | None | UnsetType = UNSET


class Usage(Struct, frozen=True, omit_defaults=True):
    """Tokens of one or many model calls. `input_tokens` counts all input, the cached part included."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int | None = None
    cache_creation_tokens: int | None = None
    estimated_cost_usd: float | None = None

    def plus(self, other: Usage | None) -> Usage:
        """The sum; a part that neither side knows stays unknown."""
        if other is None:
            return self
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            _add(self.cache_read_tokens, other.cache_read_tokens),
            _add(self.cache_creation_tokens, other.cache_creation_tokens),
            None
            if self.estimated_cost_usd is None and other.estimated_cost_usd is None
            else (self.estimated_cost_usd or 0.0) + (other.estimated_cost_usd or 0.0),
        )


def _add(left: int | None, right: int | None) -> int | None:
    return None if left is None and right is None else (left or 0) + (right or 0)


def storable(text: str) -> str:
    """The text, with U+FFFD for NUL and `?` for half a surrogate pair, which no database or no JSON can
    hold.
    """
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def text_of(content: tuple[ContentPart, ...]) -> str:
    """The text parts, joined."""
    return "".join(part.text for part in content if isinstance(part, TextPart))


def tool_calls_of(message: Message) -> tuple[ToolCallPart, ...]:
    """The tool calls that the message carries, in order."""
    return tuple(part for part in message.content if isinstance(part, ToolCallPart))


def preview_of(text: str, limit: int = 200) -> str:
    """The first `limit` characters, with white space at the ends removed (200.

    The wire contract's previews).
    """
    return text.strip()[:limit]
