"""Turns what MCP servers answer into what models receive."""

from __future__ import annotations

import msgspec

from perdure.domain.mcp import McpContent
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.visible import without_hidden

MAX_IMAGE = 48_000
"""Characters of an image in base64. A larger one would be cut with the tool's output."""

_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""The media types that models accept."""


def value_of(content: McpContent) -> JsonValue:
    """Return a result for the model: text, or a list of text and image parts (`content_of_result`).

    Structured content follows the text, unless the text says the same. It is the result if there is no text.
    """
    parts = [part for block in content.content for part in _parts(block)]
    structured = content.structured
    if structured is not None and not _repeats(parts, structured):
        if not parts:
            return structured
        parts.append(_text(msgspec.json.encode(structured).decode()))
    if any(part["type"] == "image" for part in parts):
        return list(parts)
    return "\n\n".join(str(part["text"]) for part in parts)


def error_of(content: McpContent) -> str:
    """Return what a failed call says."""
    said = value_of(content)
    text = said if isinstance(said, str) else msgspec.json.encode(said).decode()
    return text or "The tool failed without saying why."


def _repeats(parts: list[JsonObject], structured: JsonValue) -> bool:
    """Whether a text part is the structured content as JSON, as the protocol recommends.

    One widely used server wraps results that are not objects: {"result": ...}.
    """
    wanted = [structured]
    if isinstance(structured, dict) and list(structured) == ["result"]:
        wanted.append(structured["result"])
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return any(text in wanted or _decoded(text) in wanted for text in texts if isinstance(text, str))


def _decoded(text: str) -> JsonValue:
    try:
        value: JsonValue = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return text
    return value


def _parts(block: JsonObject) -> list[JsonObject]:
    match block:
        case {"type": "text", "text": str(text)}:
            return [_text(without_hidden(text))]
        case {"type": "image", "data": str(data), "mimeType": str(kind)}:
            return [_image(data, kind)]
        case {"type": "audio", "data": str(data), "mimeType": str(kind)}:
            return [_text(f"[audio, {_shown(kind)}, {_bytes(data)}: it cannot be shown]")]
        case {"type": "resource_link", "uri": str(uri)}:
            return [_text(_link(uri, block))]
        case {"type": "resource", "resource": dict(resource)}:
            return _resource(resource)
        case {"type": kind}:
            return [_text(f"[content of the type {_shown(str(kind))}: it cannot be shown]")]
    return []


def _resource(resource: JsonObject) -> list[JsonObject]:
    uri, kind = _shown(str(resource.get("uri", ""))), resource.get("mimeType")
    about = f"{uri}, {_shown(kind)}" if isinstance(kind, str) else uri
    match resource:
        case {"text": str(text)}:
            return [_text(f"[resource {about}]\n{without_hidden(text)}")]
        case {"blob": str(data)} if kind in _IMAGES:
            return [_text(f"[resource {about}]"), _image(data, str(kind))]
        case {"blob": str(data)}:
            return [_text(f"[resource {about}, {_bytes(data)}: it is not text, and cannot be shown]")]
    return [_text(f"[resource {about}]")]


def _link(uri: str, block: JsonObject) -> str:
    facts = [_shown(uri)]
    facts += [_shown(text) for key in ("name", "mimeType") if isinstance(text := block.get(key), str)]
    size, said = block.get("size"), block.get("description")
    if isinstance(size, int) and not isinstance(size, bool):
        facts.append(f"{size} bytes")
    text = f"[link to the resource {', '.join(facts)}]"
    return f"{text} {without_hidden(said)[:2000]}" if isinstance(said, str) and said else text


def _image(data: str, kind: str) -> JsonObject:
    if kind not in _IMAGES:
        return _text(f"[image, {_shown(kind)}, {_bytes(data)}: models cannot read this kind]")
    if len(data) > MAX_IMAGE:
        return _text(f"[image, {kind}, {_bytes(data)}: it is too large to be shown]")
    return {"type": "image", "data": data, "mimeType": kind}


def _text(text: str) -> JsonObject:
    return {"type": "text", "text": text}


def _shown(text: str) -> str:
    return without_hidden(text).replace("\n", " ")[:500]


def _bytes(data: str) -> str:
    return f"{len(data) * 3 // 4} bytes"
