"""Turns what MCP servers answer into what models receive."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from perdure.capabilities.port import ToolOutcome
from perdure.domain.mcp import McpContent
from perdure.domain.media import BadImage, clean_image
from perdure.domain.messages import ImagePart, JsonObject, JsonValue
from perdure.domain.visible import without_hidden

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
    if structured is not None and not _repeats(texts, structured):
        if not texts:
            return Result(structured, tuple(images))
        texts.append(msgspec.json.encode(structured).decode())
    return Result("\n\n".join(texts), tuple(images))


def error_of(content: McpContent) -> str:
    """Return what a failed call says."""
    said = result_of(content).value
    text = said if isinstance(said, str) else msgspec.json.encode(said).decode()
    return text or "The tool failed without saying why."


def _repeats(texts: list[str], structured: JsonValue) -> bool:
    """Whether a text part is the structured content as JSON, as the protocol recommends.

    One widely used server wraps results that are not objects: {"result": ...}.
    """
    wanted = [structured]
    if isinstance(structured, dict) and list(structured) == ["result"]:
        wanted.append(structured["result"])
    return any(text in wanted or _decoded(text) in wanted for text in texts)


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
