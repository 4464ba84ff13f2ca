"""Types of files, by what they contain: a file's name and the type that a client states prove nothing."""

from __future__ import annotations

import codecs
from typing import Literal

from msgspec import Struct

from perdure.domain.media import kind_of_image
from perdure.domain.stored_files import PDF

FileKind = Literal["image", "pdf", "audio", "office", "text"]

ACCEPTED = "PNG, JPEG, GIF, WebP, PDF, WAV, MP3, FLAC, Ogg, M4A, DOCX, XLSX, PPTX, or text in UTF-8 or UTF-16"

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
ZIP = "application/zip"
"""What an office file is as long as nobody has looked inside."""

_TEXTS = {
    "md": "text/markdown", "csv": "text/csv", "html": "text/html", "htm": "text/html", "css": "text/css",
    "json": "application/json", "xml": "text/xml", "svg": "image/svg+xml", "yaml": "application/yaml",
    "yml": "application/yaml", "js": "text/javascript", "tsv": "text/tab-separated-values",
}  # fmt: skip
"""Types of text by the end of the file's name: nothing depends on them, and all are sent as text."""

_EXTENSIONS = {
    "image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp", PDF: ".pdf",
    "audio/wav": ".wav", "audio/mpeg": ".mp3", "audio/flac": ".flac", "audio/ogg": ".ogg",
    "audio/mp4": ".m4a", DOCX: ".docx", XLSX: ".xlsx", PPTX: ".pptx",
}  # fmt: skip

_CONTROLS = bytes(frozenset(range(32)) - frozenset(b"\t\n\r\f\x1b\x08"))
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_SOUND = {"M4A ": "audio/mp4", "M4B ": "audio/mp4"}
_SYNC = 0xE0
"""The bits with which a frame of MPEG audio begins, after a byte of ones."""


class FileType(Struct, frozen=True):
    """What a file is, and its text if it is text."""

    kind: FileKind
    media_type: str
    text: str | None = None


def file_type(data: bytes, filename: str | None = None) -> FileType | None:
    """Find out what a file is; None for anything that no model reads and no text can be extracted from.

    Only the form is examined here. What is inside is read in the sandbox.
    """
    image = kind_of_image(data)
    if image is not None:
        return FileType("image", image)
    if data.startswith(b"%PDF-"):
        return FileType("pdf", PDF)
    audio = _audio(data)
    if audio is not None:
        return FileType("audio", audio)
    if data.startswith(b"PK\x03\x04"):
        return FileType("office", ZIP)
    text = _text(data)
    if text is None:
        return None
    ending = (filename or "").rpartition(".")[2].lower()
    return FileType("text", _TEXTS.get(ending, "text/plain"), text)


def _audio(data: bytes) -> str | None:
    if data.startswith(b"RIFF") and data[8:12] == b"WAVE":
        whole = int.from_bytes(data[4:8], "little") + 8 <= len(data)
        return "audio/wav" if whole and b"data" in data[12:4096] else None
    if data.startswith(b"ID3") and len(data) > 128:
        return "audio/mpeg"
    if len(data) > 128 and data[0] == 0xFF and data[1] & _SYNC == _SYNC and data[1] & 6 and data[2] < 0xF0:
        return "audio/mpeg"
    if data.startswith(b"fLaC") and len(data) > 42:
        return "audio/flac"
    if data.startswith(b"OggS\0\2") and len(data) > 58:
        return "audio/ogg"
    if data[4:8] == b"ftyp" and len(data) > 64:
        return _SOUND.get(data[8:12].decode("latin-1"))
    return None


def _text(data: bytes) -> str | None:
    """The text; None for other data, also for text in encodings that cannot be told apart."""
    codec = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return None
    # Over bytes: a set of the characters takes ten times longer, and nothing else runs meanwhile.
    plain = data if codec != "utf-16" else text.encode()
    if not text.strip() or len(plain.translate(None, _CONTROLS)) < len(plain):
        return None
    return text


def extension_of(media_type: str) -> str:
    """Return the end of the name of a file of this type; empty for text, whose name says what it is."""
    return _EXTENSIONS.get(media_type, "")


def contradicts(stated: str, found: str) -> bool:
    """Whether a client's media type is one that is told by its content, and the content is another."""
    return stated in _EXTENSIONS and stated != found
