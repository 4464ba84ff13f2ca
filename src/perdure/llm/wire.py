"""From messages to what vendors read: parts that all protocols share.

A message is encoded once and remembered as bytes (`FragmentCache`), so that a call with a long history costs
a look-up a message and one join. What is remembered is checked against the message's content, so a message
that the caller shortened is encoded again.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Literal

import msgspec
from msgspec import Struct

from perdure.domain.errors import ModelError
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import (
    ContentPart,
    ImageFilePart,
    ImagePart,
    JsonObject,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from perdure.llm.driver import ToolSpec

CACHE_BYTES = 64 << 20
"""What a `FragmentCache` may hold: some 100,000 messages of a few sentences."""

NO_RESULT = "No result of this call was recorded."
"""What a model is told about a call that the history has no result for."""

NO_CONTENT = "(no content)"
"""Stands for an empty message with vendors that refuse one."""

CONTINUE = "Please continue."
"""Ends a conversation that would end with the model's own words, which newer models refuse."""

_ENTRY_OVERHEAD = 400
_encode = msgspec.json.encode


class Fragment(Struct, frozen=True, gc=False):
    """A message as a vendor reads it.

    Attributes:
        role: whose turn it belongs to.
        data: JSON values, separated by commas.
        calls: ids of the tool calls in it.
        answers: ids of the calls that it has results for.
        late: JSON values that must wait until all results of the turn are there.
        several: where the message holds more than one result: each of them.
        thinks: it begins with the model's signed reasoning.
    """

    role: Literal["user", "assistant", "system"]
    data: bytes
    calls: tuple[ToolCallId, ...] = ()
    answers: tuple[ToolCallId, ...] = ()
    late: bytes = b""
    several: tuple[Fragment, ...] = ()
    thinks: bool = False


class _Entry(Struct, frozen=True, gc=False):
    content: tuple[ContentPart, ...]
    items: tuple[JsonObject, ...] | None
    fragment: Fragment
    size: int


class FragmentCache:
    """Encoded messages, bounded by bytes.

    Two generations stand in for exact order of use: a hit costs one look-up.

    Args:
        limit: bytes, estimated: each fragment counts twice, for the content that it is checked against.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._half = limit // 2
        self._young: dict[tuple[str, str], _Entry] = {}
        self._old: dict[tuple[str, str], _Entry] = {}
        self._young_size = 0
        self._old_size = 0

    @property
    def size(self) -> int:
        """The estimated bytes held."""
        return self._young_size + self._old_size

    def fragments(
        self, variant: str, messages: Iterable[Message], encode: Callable[[Message], Fragment]
    ) -> list[Fragment]:
        """The messages' fragments, from memory where possible.

        Args:
            variant: names everything besides the message that shapes the bytes: protocol, model, options.
            messages: what to send.
            encode: makes one fragment.
        """
        young = self._young
        out: list[Fragment] = []
        for message in messages:
            key = (variant, message.id)
            entry = young.get(key)
            if entry is None or (
                (entry.content is not message.content or entry.items is not message.reasoning_items)
                and (entry.content != message.content or entry.items != message.reasoning_items)
            ):
                entry = self._second_look(key, message, encode)
                young = self._young
            out.append(entry.fragment)
        return out

    def _second_look(
        self, key: tuple[str, str], message: Message, encode: Callable[[Message], Fragment]
    ) -> _Entry:
        entry = self._old.get(key)
        if entry is None or entry.content != message.content or entry.items != message.reasoning_items:
            fragment = encode(message)
            size = 2 * (len(fragment.data) + len(fragment.late)) + _ENTRY_OVERHEAD
            entry = _Entry(message.content, message.reasoning_items, fragment, size)
        before = self._young.pop(key, None)
        if before is not None:
            self._young_size -= before.size
        if self._young_size + entry.size > self._half:
            self._old, self._old_size = self._young, self._young_size
            self._young, self._young_size = {}, 0
        if entry.size <= self._half:
            self._young[key] = entry
            self._young_size += entry.size
        return entry


class ToolCache:
    """The last few encoded tool lists of a driver: agents offer the same tools call after call."""

    _KEPT = 8

    def __init__(self, encode: Callable[[Sequence[ToolSpec]], bytes]) -> None:
        self._encode = encode
        self._known: list[tuple[Sequence[ToolSpec], bytes]] = []

    def encoded(self, tools: Sequence[ToolSpec]) -> bytes:
        """The list as the vendor reads it."""
        for known, data in self._known:
            if known is tools or known == tools:
                return data
        data = self._encode(tools)
        self._known.append((tools, data))
        del self._known[: -self._KEPT]
        return data


def arranged(fragments: Iterable[Fragment], missing: Callable[[ToolCallId], Fragment]) -> list[Fragment]:
    """The fragments in the order that vendors insist on.

    After a message with tool calls, the results of all of them.

    What came between (a user's message during the tools' run) moves behind the results; a result without its
    call is dropped; a call without a result gets `missing(id)`.
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


def result_fragment(results: Sequence[tuple[ToolCallId, bytes]], late: bytes = b"") -> Fragment:
    """A message's results, each the id of its call and one JSON value."""
    if len(results) == 1:
        return Fragment("user", results[0][1], answers=(results[0][0],), late=late)
    several = tuple(Fragment("user", data, answers=(call,)) for call, data in results)
    data = b",".join(data for _, data in results)
    return Fragment("user", data, answers=tuple(call for call, _ in results), late=late, several=several)


def calls_of(message: Message) -> list[ToolCallPart]:
    """The message's calls; of two with the same id, which no vendor accepts, the first."""
    return list(
        {part.id: part for part in reversed(message.content) if isinstance(part, ToolCallPart)}.values()
    )[::-1]


# --- an agent message's parts, in the order in which the model gave them ------


class Reasoning(Struct, frozen=True):
    """A vendor's reasoning block, and where it stood.

    After that many characters of text and that many tool calls.
    """

    item: JsonObject
    chars: int = 0
    calls: int = 0


_HEAD = "perdure.reasoning"
Piece = str | ToolCallPart | JsonObject


def packed(model: str, blocks: Sequence[Reasoning]) -> tuple[JsonObject, ...]:
    """What a message keeps of its reasoning.

    A head (for which model, at which places), then the blocks as such.
    """
    if not blocks:
        return ()
    head = {"type": _HEAD, "model": model, "places": [[block.chars, block.calls] for block in blocks]}
    return (head, *(block.item for block in blocks))


def unpacked(message: Message, provider_type: str, model: str) -> list[Reasoning]:
    """The reasoning blocks to send back: none when another kind of provider or another model made them.

    Blocks are signed or encrypted for one model; others ignore or refuse them.
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
    """Text (str), tool calls and reasoning blocks (dict) in their original order.

    Reasoning that nothing follows is left out: vendors refuse it there.
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
    while out and isinstance(out[-1], dict):
        out.pop()
    return out


# --- values -------------------------------------------------------------------


def dumps(value: object) -> bytes:
    """JSON. What JSON cannot hold (lone surrogates, huge integers) is replaced, not refused."""
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
    """A tool's result in words (an error begins with `Error: `), and the images in it.

    A result that is a list of text and image parts is content; any other is a value, told as JSON.
    """
    result = part.result
    images: list[ImagePart] = []
    if isinstance(result, list) and all(
        isinstance(one, dict) and one.get("type") in _PARTS for one in result
    ):
        with contextlib.suppress(msgspec.ValidationError):
            images = [msgspec.convert(one, ImagePart) for one in result if one["type"] == "image"]
    if images:
        result = "\n".join(str(one.get("text", "")) for one in result if one["type"] == "text")
    text = result if isinstance(result, str) else "" if result is None else dumps(result).decode()
    if part.error is not None:
        text = f"Error: {part.error}\n{text}" if text else f"Error: {part.error}"
    return text, images


def parameters_of(tool: ToolSpec) -> JsonObject:
    """The tool's JSON Schema; vendors want at least the type and the properties spelled out."""
    return (
        tool.parameters
        if tool.parameters.get("type")
        else {"type": "object", "properties": {}, **tool.parameters}
    )


_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


def plain_name(name: str, limit: int = 64) -> str:
    """A tool's name as vendors accept it in a history, also when the model made one up."""
    return _NOT_IN_NAMES.sub("_", name)[:limit] or "unknown"


def plain_id(call_id: ToolCallId, limit: int = 64) -> str:
    """A call's id as vendors accept it.

    Itself, or a digest when another vendor made one that this one refuses.
    """
    if 0 < len(call_id) <= limit and not _NOT_IN_NAMES.search(call_id):
        return call_id
    return f"call_{blake2b(call_id.encode('utf-8', 'replace'), digest_size=12).hexdigest()}"


_MAGIC = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lG": "image/gif", "UklG": "image/webp"}


def image_data(part: ImagePart) -> tuple[str, str] | None:
    """Media type and base64 of an inline image; None when it is somewhere else, by URL.

    Raises:
        ModelError: the image is neither.
    """
    if part.base64:
        guess = next((kind for magic, kind in _MAGIC.items() if part.base64.startswith(magic)), "image/png")
        return part.media_type or guess, part.base64
    if not part.url:
        raise ModelError("an image has neither a URL nor data", code="invalid_model_request")
    if part.url.startswith("data:"):
        head, _, data = part.url[5:].partition(",")
        return head.partition(";")[0] or "image/png", data
    return None


def image_url(part: ImagePart) -> str:
    """The image as a URL, inline ones as a `data:` URL."""
    inline = image_data(part)
    return part.url or "" if inline is None else f"data:{inline[0]};base64,{inline[1]}"


def refuse_files(content: Iterable[ContentPart]) -> None:
    """Uploaded images must have been turned into images before.

    Raises:
        ModelError: one was not.
    """
    if any(isinstance(part, ImageFilePart) for part in content):
        raise ModelError("an uploaded image was not resolved before the call", code="invalid_model_request")
