"""Tool results with images: the forms in which tools and clients write them."""

from __future__ import annotations

import msgspec

from perdure.domain.messages import ImagePart, TextPart

MAX_CONTENT = 100
"""Maximum number of parts that are read as content; a longer list is data."""


def content_of_result(value: object) -> tuple[TextPart | ImagePart, ...] | None:
    """Return a result's parts if it is content: text and image parts as messages have them, or as MCP does.

    Also understands a single image part, and MCP's result object, which has the parts in `content`. Anything
    else is data: returns None.
    """
    if isinstance(value, dict):
        inner = value.get("content")
        value = inner if isinstance(inner, list) and _is_mcp(value) else [value]
    if not isinstance(value, list) or not 0 < len(value) <= MAX_CONTENT:
        return None
    parts = [_part(item) for item in value]
    content = tuple(part for part in parts if part is not None)
    if len(content) < len(parts) or not any(isinstance(part, ImagePart) for part in content):
        return None
    return content


def _is_mcp(value: dict[str, object]) -> bool:
    return value.keys() <= {"content", "isError", "structuredContent", "_meta"}


def _part(item: object) -> TextPart | ImagePart | None:
    match item:
        case {"type": "text", "text": str(text)}:
            return TextPart(text)
        case {"type": "image", "data": str(data), "mimeType": str(media_type)} if data:
            return ImagePart(base64=data, media_type=media_type)
        case {
            "type": "image",
            "source": {"type": "base64", "data": str(data), "media_type": str(media_type)},
        }:
            return ImagePart(base64=data, media_type=media_type)
        case {"type": "image", "source": {"type": "url", "url": str(url)}} if url:
            return ImagePart(url=url)
        case {"type": "image_url", "image_url": {"url": str(url)}} if url:
            return ImagePart(url=url)
        case {"type": "image"}:
            return _image(item)
    return None


def _image(item: object) -> ImagePart | None:
    try:
        part = msgspec.convert(item, ImagePart)
    except msgspec.ValidationError:
        return None
    return part if part.url or part.base64 else None
