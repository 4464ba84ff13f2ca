"""Images in messages: which ones a model can receive.

PNG, JPEG, GIF and WebP are the formats that all vendors with vision accept. Few accept others (SVG, BMP,
HEIC, PDF ...), and a history with such an image would be refused by the next model.
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import urlsplit

from msgspec.structs import replace

from perdure.domain.messages import ContentPart, FilePart, ImageFilePart, ImagePart, Message, ToolResultPart
from perdure.domain.stored_files import IMAGE_TOKENS

MAX_URL = 8_192
"""Characters of an image's URL."""
MAX_IMAGE = 9_500_000
"""Characters of an image in base64: what fits into a request of 10 MB. Many vendors accept less."""
MAX_MEDIA_TYPE = 100
LEAST_BYTES = 24
"""Bytes of the smallest image: a header without any pixel has more."""

FORMATS = "PNG, JPEG, GIF or WebP"
_ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}
_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_HEAD = 64
"""Characters of base64 that contain the header."""
_DATA_URL = re.compile(r"data:([a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60});base64,", re.IGNORECASE)


def image_bytes(message: Message) -> int:
    """Return the size of the message's images, which their tokens do not tell."""
    size = 0
    for part in message.content:
        if isinstance(part, ImagePart):
            size += len(part.base64 or "")
        elif isinstance(part, ToolResultPart) and isinstance(part.result, list):
            items = [item.get("base64") for item in part.result if isinstance(item, dict)]
            size += sum(len(item) for item in items if isinstance(item, str))
    return size


def file_tokens(part: ImagePart | ImageFilePart | FilePart) -> int:
    """Estimate the tokens of a message's file in a prompt."""
    return IMAGE_TOKENS if part.stored is None else part.stored.tokens()


class BadImage(ValueError):
    """The image cannot be sent to a model; the message says why and completes "the image ..."."""


def clean_image(part: ImagePart) -> ImagePart:
    """Return the image with the media type that vendors know.

    Raises:
        BadImage: it has no data, is no image that vendors accept, or contradicts its media type.
    """
    if part.base64 is None:
        _check_url(part.url or "")
        return part
    kind = None if part.media_type is None else _plain_type(part.media_type)
    _check_data(part.base64, kind)
    return part if kind == part.media_type else replace(part, media_type=kind)


def _check_url(url: str) -> None:
    if len(url) > MAX_URL:
        raise BadImage(
            f"has a URL of {len(url)} characters; the limit is {MAX_URL}. Send its bytes in `base64`"
        )
    if url[:5].lower() == "data:":
        head = _DATA_URL.match(url)
        if head is None:
            raise BadImage("has a data URL that is not of the form `data:image/png;base64,...`")
        _check_data(url[head.end() :], _plain_type(head[1]))
        return
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        fine = False
    if not fine or any(ch.isspace() or ord(ch) < 0x20 for ch in url):
        raise BadImage("has a URL that is not a complete http(s) or data URL")


def _plain_type(media_type: str) -> str:
    kind = media_type.partition(";")[0].strip().lower()
    return _ALIASES.get(kind, kind)


def _check_data(data: str, kind: str | None) -> None:
    if kind is not None and kind not in _TYPES:
        raise BadImage(f"has the media type {kind[:MAX_MEDIA_TYPE]!r}; models accept {FORMATS}")
    if not data:
        raise BadImage("has no data")
    if len(data) > MAX_IMAGE:
        raise BadImage(f"has {len(data)} characters of base64; the limit is {MAX_IMAGE}. Make it smaller")
    try:
        raw = binascii.a2b_base64(data, strict_mode=True)
    except (binascii.Error, ValueError):
        raise BadImage("has data that is not base64 (standard alphabet, padded, no line breaks)") from None
    found = kind_of_image(raw)
    if found is None:
        raise BadImage(f"has data that is no complete {FORMATS} image")
    if kind is not None and found != kind:
        raise BadImage(f"has the media type {kind}, but its data is {found}")


def kind_of_image(raw: bytes) -> str | None:
    """The media type by the first bytes; None for anything but the formats that all vendors accept."""
    if len(raw) < LEAST_BYTES:
        return None
    if raw.startswith(b"\x89PNG\r\n\x1a\n") and raw[12:16] == b"IHDR":
        return "image/png" if any(raw[16:20]) and any(raw[20:24]) and raw.rfind(b"IEND") > 0 else None
    if raw.startswith(b"\xff\xd8\xff"):
        return "image/jpeg" if b"\xff\xda" in raw else None  # where the pixels begin
    if raw.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif" if any(raw[6:8]) and any(raw[8:10]) and b"," in raw[13:] else None
    if raw.startswith(b"RIFF") and raw[8:12] == b"WEBP":
        return "image/webp" if int.from_bytes(raw[4:8], "little") + 8 <= len(raw) else None
    return None


def needs_reading(part: ContentPart) -> bool:
    """Whether a prompt cannot have the part as the log has it: its file is stored elsewhere, or nowhere."""
    return is_unusable(part) or (
        isinstance(part, ImagePart | ImageFilePart | FilePart) and part.stored is not None
    )


def is_unusable(part: ContentPart) -> bool:
    """Whether a prompt must leave out this part: an image without data, or one that is not stored.

    Logs of earlier releases contain such images. Only the beginning of the data is examined.
    """
    if isinstance(part, ImageFilePart | FilePart):
        return part.stored is None
    if not isinstance(part, ImagePart) or part.stored is not None:
        return False
    data = part.base64
    if not data and part.url:
        if part.url[:5].lower() != "data:":
            return False
        data = part.url.partition(",")[2]
    head = (data or "")[:_HEAD]
    try:
        return len(binascii.a2b_base64(head + "=" * (-len(head) % 4))) < LEAST_BYTES
    except (binascii.Error, ValueError):
        return True
