"""Turns what MCP servers answer into what models receive."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from perdure.capabilities.port import ToolOutcome
from perdure.domain.mcp import McpContent
from perdure.domain.media import BadImage, clean_image
from perdure.domain.messages import ImagePart, JsonObject, JsonValue
from perdure.domain.visible import without_hidden

MAX_STRUCTURED = 64 << 10
"""Bytes of structured content that stays a value; more becomes a text, which costs the engine much less."""
MAX_REPEATS = 4
_SPACED = 8  # a text may have line breaks, indentation and escapes that the encoded value has not
_WIDEST = 4  # bytes of a character
MAX_IMAGES = 5_000_000
"""Characters of all images of a result in base64."""


class Result(Struct, frozen=True):
    """A result for the model: a text, or structured content if there is no text; and images after it."""

    value: JsonValue
    images: tuple[ImagePart, ...] = ()

    def outcome(self) -> ToolOutcome:
        """Return it as a tool does."""
        return ToolOutcome(self.value, images=self.images)


def result_of(content: McpContent) -> Result:
    """Return a result for the model.

    Structured content follows the text, unless the text says the same. It is the result if there is no text.
    Images come last; the text says where they were.
    """
    texts: list[str] = []
    images: list[ImagePart] = []
    for block in content.content:
        for part in _parts(block, MAX_IMAGES - sum(len(image.base64 or "") for image in images)):
            if isinstance(part, ImagePart):
                images.append(part)
            else:
                texts.append(part)
    structured = content.structured
    if structured is not None:
        body = msgspec.json.encode(structured)
        if not texts and len(body) <= MAX_STRUCTURED:
            return Result(structured, tuple(images))
        if not _repeats(texts, structured, len(body)):
            texts.append(body.decode())
    return Result("\n\n".join(texts), tuple(images))


def error_of(content: McpContent) -> str:
    """Return what a failed call says."""
    said = result_of(content).value
    text = said if isinstance(said, str) else msgspec.json.encode(said).decode()
    return text or "The tool failed without saying why."


def _repeats(texts: list[str], structured: JsonValue, size: int) -> bool:
    """Whether a text part is the structured content as JSON, as the protocol recommends.

    One widely used server wraps results that are not objects: {"result": ...}.

    Args:
        size: the bytes of the structured content. Only texts that may be the same are decoded, and few.
    """
    wanted = [structured]
    if isinstance(structured, dict) and list(structured) == ["result"]:
        wanted.append(structured["result"])
    if any(text in wanted for text in texts):
        return True
    least, most = (size - len('{"result":}')) // _WIDEST, _SPACED * size
    alike = [text for text in texts if least <= len(text) <= most]
    return any(_decoded(text) in wanted for text in alike[:MAX_REPEATS])


def _decoded(text: str) -> JsonValue:
    try:
        value: JsonValue = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return text
    return value


def _parts(block: JsonObject, room: int) -> list[str | ImagePart]:
    """A block as texts and images; `room`: characters that images may still have."""
    match block:
        case {"type": "text", "text": str(text)}:
            return [without_hidden(text)]
        case {"type": "image", "data": str(data), "mimeType": str(kind)}:
            return [_image(data, kind, room)]
        case {"type": "audio", "data": str(data), "mimeType": str(kind)}:
            return [f"[audio, {_shown(kind)}, {_bytes(data)}: it cannot be shown]"]
        case {"type": "resource_link", "uri": str(uri)}:
            return [_link(uri, block)]
        case {"type": "resource", "resource": dict(resource)}:
            return _resource(resource, room)
        case {"type": kind}:
            return [f"[content of the type {_shown(str(kind))}: it cannot be shown]"]
    return []


def _resource(resource: JsonObject, room: int) -> list[str | ImagePart]:
    uri, kind = _shown(str(resource.get("uri", ""))), resource.get("mimeType")
    about = f"{uri}, {_shown(kind)}" if isinstance(kind, str) else uri
    match resource:
        case {"text": str(text)}:
            return [f"[resource {about}]\n{without_hidden(text)}"]
        case {"blob": str(data)} if isinstance(kind, str) and kind.startswith("image/"):
            return [f"[resource {about}]", _image(data, kind, room)]
        case {"blob": str(data)}:
            return [f"[resource {about}, {_bytes(data)}: it is not text, and cannot be shown]"]
    return [f"[resource {about}]"]


def _link(uri: str, block: JsonObject) -> str:
    facts = [_shown(uri)]
    facts += [_shown(text) for key in ("name", "mimeType") if isinstance(text := block.get(key), str)]
    size, said = block.get("size"), block.get("description")
    if isinstance(size, int) and not isinstance(size, bool):
        facts.append(f"{size} bytes")
    text = f"[link to the resource {', '.join(facts)}]"
    return f"{text} {without_hidden(said)[:2000]}" if isinstance(said, str) and said else text


def _image(data: str, kind: str, room: int) -> str | ImagePart:
    if len(data) > room:
        return f"[image, {_shown(kind)}, {_bytes(data)}: the images are too large to be shown]"
    try:
        return clean_image(ImagePart(base64=data, media_type=kind))
    except BadImage as problem:
        return f"[image, {_shown(kind)}, {_bytes(data)}: it cannot be shown, because it {problem}]"


def _shown(text: str) -> str:
    return without_hidden(text).replace("\n", " ")[:500]


def _bytes(data: str) -> str:
    return f"{len(data) * 3 // 4} bytes"
