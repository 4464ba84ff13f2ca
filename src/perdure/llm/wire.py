"""Encode messages for vendors: the parts that all protocols share.

A message is encoded once and cached as bytes (`fragment_cache.py`), so a call with a long history costs one
lookup per message and one join.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Literal

import msgspec
from msgspec import Struct, structs

from perdure.domain.errors import ModelError
from perdure.domain.ids import ToolCallId, digest_call_id
from perdure.domain.messages import (
    ContentPart,
    ImageFilePart,
    ImagePart,
    JsonObject,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    text_of,
)
from perdure.llm.driver import ToolSpec
from perdure.llm.schemas import acceptable

NO_RESULT = "No result of this call was recorded."
"""The result that a model sees for a call without a result in the history."""

NO_CONTENT = "(no content)"
"""Replaces an empty message for vendors that reject one."""

NO_LONGER_OFFERED = "This tool is no longer available: do not call it."
"""Describes a tool that only the history has, for vendors that want each tool of the history described."""

ACKNOWLEDGED = "I have the results."
"""The model's words between tool results and a user message, where a user must not write."""

CONTINUE = "Please continue."
"""Follows a final message of the model: newer models reject a conversation that ends with their own text."""

_encode = msgspec.json.encode


class Fragment(Struct, frozen=True, gc=False):
    """A message in a vendor's encoding.

    Attributes:
        role: whose turn it belongs to.
        data: JSON values, separated by commas.
        calls: ids of its tool calls.
        answers: ids of the calls whose results it holds.
        late: JSON values that must follow all results of the turn.
        several: one fragment per result, if the message holds more than one.
        thinks: whether it begins with the model's signed reasoning.
    """

    role: Literal["user", "assistant", "system"]
    data: bytes
    calls: tuple[ToolCallId, ...] = ()
    answers: tuple[ToolCallId, ...] = ()
    late: bytes = b""
    several: tuple[Fragment, ...] = ()
    thinks: bool = False


def in_blocks(
    message: Message,
    *,
    text: Callable[[str], JsonObject],
    answer: Callable[[Message], Fragment],
    results: Callable[[Message, list[ToolResultPart]], Fragment],
    content: Callable[[Sequence[ContentPart]], list[JsonObject]],
) -> Fragment:
    """Encode a message for a protocol whose messages consist of blocks, and that has one system prompt.

    Args:
        text: encodes text as a block.
        answer: encodes a message of the model.
        results: encodes a message with these results of tool calls.
        content: encodes what a person sent as blocks.

    Raises:
        ModelError: a part cannot be sent.
    """
    refuse_files(message.content)
    if message.role == "agent":
        return answer(message)
    given = [part for part in message.content if isinstance(part, ToolResultPart)]
    if message.role == "tool_result" and given:
        return results(message, given)
    if message.role == "system":
        # The one system prompt is at the top. A later system message keeps its position as user text in a tag
        # that names its author.
        words = text_of(message.content).strip()
        return Fragment("system", dumps(text(f"<system>\n{words}\n</system>")) if words else b"")
    blocks = content(message.content) or [text(NO_CONTENT)]
    return Fragment("user", b",".join(map(dumps, blocks)))


def alternating(fragments: Sequence[Fragment]) -> list[bytes] | None:
    """Return the values of a conversation that needs no arranging; None for any other.

    User and assistant take turns in it, the user begins and ends it, and no tool is called.
    """
    users, answers = fragments[::2], fragments[1::2]
    if (
        len(users) != len(answers) + 1
        or any(each.role != "user" or each.answers for each in users)
        or any(each.role != "assistant" or each.calls for each in answers)
    ):
        return None
    values = [each.data for each in fragments]
    return values if all(values) else None


def arranged(fragments: Iterable[Fragment], missing: Callable[[ToolCallId], Fragment]) -> list[Fragment]:
    """Order the fragments as vendors require: the results of all tool calls directly after their message.

    A message in between (from a user, while the tools ran) moves behind the results. A result without its
    call is dropped. A call without a result gets `missing(id)`.
    """
    out: list[Fragment] = []
    waiting: list[ToolCallId] = []
    held: list[Fragment] = []
    late: list[Fragment] = []

    def settle() -> None:
        out.extend(missing(call) for call in waiting)
        out.extend(late)
        out.extend(held)
        waiting.clear()
        late.clear()
        held.clear()

    for fragment in fragments:
        if not waiting:
            if not fragment.answers:
                out.append(fragment)
                if fragment.calls:
                    waiting.extend(fragment.calls)
        elif fragment.answers:
            for answer in fragment.several or (fragment,):
                if answer.answers[0] in waiting:
                    out.append(answer)
                    waiting.remove(answer.answers[0])
            if fragment.late:
                late.append(Fragment("user", fragment.late))
            if not waiting:
                settle()
        elif fragment.role == "assistant":
            settle()
            out.append(fragment)
            waiting.extend(fragment.calls)
        else:
            held.append(fragment)
    settle()
    return out


def with_distinct_ids(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages with distinct ids of tool calls: servers number the calls of each answer anew.

    The log keeps such ids apart by position. Results belong to the call before them.
    """
    used: set[str] = set()
    renamed: dict[ToolCallId, ToolCallId] = {}
    out: list[Message] = []
    for message in messages:
        if message.role == "agent":
            renamed = {}
            for part in calls_of(message):
                identity, number = part.id, 1
                while identity in used:
                    number += 1
                    identity = ToolCallId(f"{part.id}_{number}")
                used.add(identity)
                if identity != part.id:
                    renamed[part.id] = identity
        out.append(_renamed(message, renamed) if renamed else message)
    return out


def _renamed(message: Message, ids: dict[ToolCallId, ToolCallId]) -> Message:
    content: list[ContentPart] = []
    for part in message.content:
        if isinstance(part, ToolCallPart):
            content.append(structs.replace(part, id=ids.get(part.id, part.id)))
        elif isinstance(part, ToolResultPart):
            content.append(structs.replace(part, tool_call_id=ids.get(part.tool_call_id, part.tool_call_id)))
        else:
            content.append(part)
    return structs.replace(message, content=tuple(content))


def reuses_ids(fragments: Iterable[Fragment]) -> bool:
    """Whether two tool calls have the same id."""
    calls = [call for fragment in fragments if fragment.calls for call in fragment.calls]
    return len(set(calls)) != len(calls)


def result_fragment(results: Sequence[tuple[ToolCallId, bytes]], late: bytes = b"") -> Fragment:
    """Build the fragment of a message's results, each given as its call's id and one JSON value."""
    if len(results) == 1:
        return Fragment("user", results[0][1], answers=(results[0][0],), late=late)
    several = tuple(Fragment("user", data, answers=(call,)) for call, data in results)
    data = b",".join(data for _, data in results)
    return Fragment("user", data, answers=tuple(call for call, _ in results), late=late, several=several)


def calls_of(message: Message) -> list[ToolCallPart]:
    """Return the message's calls; of two with the same id, which no vendor accepts, only the first."""
    return list(
        {part.id: part for part in reversed(message.content) if isinstance(part, ToolCallPart)}.values()
    )[::-1]


# --- an agent message's parts, in the model's order ---------------------------


class Reasoning(Struct, frozen=True):
    """A vendor's reasoning block and its position.

    It follows `chars` characters of text and `calls` tool calls.
    """

    item: JsonObject
    chars: int = 0
    calls: int = 0


_HEAD = "perdure.reasoning"
Piece = str | ToolCallPart | JsonObject


def packed(model: str, blocks: Sequence[Reasoning]) -> tuple[JsonObject, ...]:
    """Return reasoning in its stored form: a header (the model, the blocks' positions), then the blocks."""
    if not blocks:
        return ()
    head = {"type": _HEAD, "model": model, "places": [[block.chars, block.calls] for block in blocks]}
    return (head, *(block.item for block in blocks))


def unpacked(message: Message, provider_type: str, model: str) -> list[Reasoning]:
    """Return the reasoning blocks to send back: none if another provider type or model made them.

    Blocks are signed or encrypted for one model; other models ignore or reject them.
    """
    items = message.reasoning_items
    if not items or message.reasoning_provider != provider_type:
        return []
    head, *blocks = items
    if head.get("type") != _HEAD:
        return [Reasoning(item) for item in items]
    places = head.get("places") or []
    if head.get("model") != model or len(places) != len(blocks):
        return []
    return [Reasoning(item, chars, calls) for item, (chars, calls) in zip(blocks, places, strict=True)]


def woven(message: Message, reasoning: Sequence[Reasoning]) -> list[Piece]:
    """Return text (str), tool calls and reasoning blocks (dict) in their original order.

    Leaves out reasoning at the end, which vendors reject.
    """
    text = "".join(part.text for part in message.content if isinstance(part, TextPart))
    calls = calls_of(message)
    out: list[Piece] = []
    at = called = 0
    for block in reasoning:
        if text[at : block.chars]:
            out.append(text[at : block.chars])
            at = block.chars
        if block.calls > called:
            out.extend(calls[called : block.calls])
            called = block.calls
        out.append(block.item)
    if text[at:]:
        out.append(text[at:])
    out.extend(calls[called:])
    return _without_last_reasoning(out)


def without_blanks(pieces: Iterable[Piece]) -> list[Piece]:
    """Leave out blank texts, and the reasoning that nothing follows then: vendors reject both."""
    return _without_last_reasoning([piece for piece in pieces if not isinstance(piece, str) or piece.strip()])


def _without_last_reasoning(pieces: list[Piece]) -> list[Piece]:
    while pieces and isinstance(pieces[-1], dict):
        pieces.pop()
    return pieces


# --- values -------------------------------------------------------------------


def dumps(value: object) -> bytes:
    """Encode as JSON. Values that JSON cannot hold (lone surrogates, huge integers) are replaced."""
    try:
        return _encode(value)
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
        return _encode(_cleaned(value))


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_cleaned(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_cleaned(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    return _cleaned(msgspec.to_builtins(value)) if isinstance(value, Struct) else str(value)


def argument_object(arguments: object) -> JsonObject:
    """Return a call's arguments as the object that vendors expect, whatever the model wrote."""
    return arguments if isinstance(arguments, dict) else {"invalid_arguments": arguments}


_PARTS = frozenset({"text", "image"})


def result_content(part: ToolResultPart) -> tuple[str, list[ImagePart]]:
    """Return a tool result's text (an error begins with `Error: `) and its images.

    A result that is a list of text and image parts is content; any other value is encoded as JSON.
    """
    result = part.result
    images: list[ImagePart] = []
    if isinstance(result, list) and all(
        isinstance(item, dict) and item.get("type") in _PARTS for item in result
    ):
        with contextlib.suppress(msgspec.ValidationError):
            images = [msgspec.convert(item, ImagePart) for item in result if item["type"] == "image"]
    if images:
        result = "\n".join(str(item.get("text", "")) for item in result if item["type"] == "text")
    text = result if isinstance(result, str) else "" if result is None else dumps(result).decode()
    if part.error is not None:
        text = f"Error: {part.error}\n{text}" if text else f"Error: {part.error}"
    return text, images


def parameters_of(tool: ToolSpec) -> JsonObject:
    """Return the tool's JSON Schema in the form that vendors require."""
    return acceptable(tool.parameters)


_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


def plain_name(name: str, limit: int = 64) -> str:
    """Make a tool's name acceptable to vendors, even one that the model invented."""
    return _NOT_IN_NAMES.sub("_", name)[:limit] or "unknown"


def plain_id(call_id: ToolCallId, limit: int = 64) -> str:
    """Return the call's id, or its digest if the vendor would reject an id that another vendor made."""
    if 0 < len(call_id) <= limit and not _NOT_IN_NAMES.search(call_id):
        return call_id
    return digest_call_id(call_id)


_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
SHORT_ID = 9
"""The length of call ids that Mistral's servers want: letters and digits only."""


def short_id(call_id: ToolCallId) -> str:
    """Return the call's id if it has nine letters and digits, else nine that are derived from it."""
    if len(call_id) == SHORT_ID and call_id.isascii() and call_id.isalnum():
        return call_id
    number = int.from_bytes(blake2b(call_id.encode("utf-8", "replace"), digest_size=8).digest())
    signs = []
    for _ in range(SHORT_ID):
        number, digit = divmod(number, len(_DIGITS))
        signs.append(_DIGITS[digit])
    return "".join(signs)


_MAGIC = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lG": "image/gif", "UklG": "image/webp"}


def image_data(part: ImagePart) -> tuple[str, str] | None:
    """Return media type and base64 data of an inline image; None for an image with an external URL.

    What the data begin with decides the media type, because vendors refuse an image of another type than its
    label says.

    Raises:
        ModelError: the image has neither a URL nor data.
    """
    label, data = part.media_type or "", part.base64 or ""
    if not data:
        if not part.url:
            raise ModelError("an image has neither a URL nor data", code="invalid_model_request")
        if not part.url.startswith("data:"):
            return None
        head, _, data = part.url[5:].partition(",")
        label = head.partition(";")[0]
    found = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    return found or label or "image/png", data


def image_url(part: ImagePart) -> str:
    """Return the image's URL, or a `data:` URL for an inline image."""
    inline = image_data(part)
    return part.url or "" if inline is None else f"data:{inline[0]};base64,{inline[1]}"


def refuse_files(content: Iterable[ContentPart]) -> None:
    """Refuse references to uploaded images, which the caller must have resolved.

    Raises:
        ModelError: the content has such a reference.
    """
    if any(isinstance(part, ImageFilePart) for part in content):
        raise ModelError("an uploaded image was not resolved before the call", code="invalid_model_request")
