"""Files: what is on the wire, and the rules about contents and sizes."""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.errors import InvalidInput, TooLarge
from perdure.domain.ids import Uuid
from perdure.domain.paths import MAX_PATH
from perdure.domain.times import Timestamp

Encoding = Literal["text", "base64"]
Path = Annotated[str, Meta(min_length=1, max_length=MAX_PATH, examples=["/notes/plan.md"])]
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
"""SHA-256, in hex."""

MAX_PATTERN = 1000
"""Characters of a pattern."""
MAX_ENTRIES = 20_000
"""Files and folders of a workspace: a list of all of them is one answer."""


class FileLimits(Struct, frozen=True):
    """How much a file, and all files of a workspace together, may hold; bytes."""

    file: int = 10 * 1024 * 1024
    workspace: int = 100 * 1024 * 1024


class FileInfo(Struct, frozen=True, omit_defaults=True):
    """A file or folder, without its content."""

    id: Uuid
    session_id: Uuid
    path: str
    name: str
    is_directory: bool
    is_readonly: bool
    size_bytes: int
    created_at: Timestamp
    updated_at: Timestamp
    hash: str | None = None


class FileStat(Struct, frozen=True, omit_defaults=True):
    """What is at a path."""

    path: str
    name: str
    is_directory: bool
    is_readonly: bool
    size_bytes: int
    created_at: Timestamp
    updated_at: Timestamp
    hash: str | None = None


class SessionFile(FileInfo, frozen=True, omit_defaults=True):
    """A file or folder. Only reading a file brings its content along."""

    content: str | None = None
    encoding: Encoding | UnsetType = UNSET


class CreateFile(Struct, frozen=True, omit_defaults=True):
    """The body that makes a file, or a folder."""

    content: str | None = None
    encoding: Encoding | None = None
    is_directory: bool | None = None
    is_readonly: bool | None = None


class UpdateFile(Struct, frozen=True, omit_defaults=True):
    """The body that changes a file."""

    content: str | None = None
    encoding: Encoding | None = None
    is_readonly: bool | None = None
    expected_hash: Hash | None = None


class CopyFile(Struct, frozen=True):
    """The body that copies a file or folder."""

    src_path: Path
    dst_path: Path


class MoveFile(CopyFile, frozen=True):
    """The body that moves a file or folder."""


class StatFile(Struct, frozen=True):
    """The body that asks what is at a path."""

    path: Path


class DeletedFile(Struct, frozen=True):
    """Whether there was something to delete."""

    deleted: bool


class GrepFiles(Struct, frozen=True, omit_defaults=True):
    """The body that searches files."""

    pattern: Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN, examples=["TODO|FIXME"])]
    path_pattern: Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN, examples=["**/*.md"])] | None = (
        None
    )


class GrepMatch(Struct, frozen=True):
    """A line that matches."""

    path: str
    line_number: int
    line: str


class GrepResult(Struct, frozen=True):
    """The lines of one file that match."""

    path: str
    matches: tuple[GrepMatch, ...]


class GrepResults(Struct, frozen=True):
    """What a search found."""

    data: tuple[GrepResult, ...]
    truncated: bool


class Content(Struct, frozen=True):
    """What a file holds. Make it with `content_of`, off the event loop when it is long."""

    data: bytes
    hash: str
    is_text: bool


LONG = 256 * 1024
"""Bytes from which a content is hashed, encoded or decoded in a thread rather than on the event loop."""


def content_of(data: bytes) -> Content:
    """A content with its SHA-256, and whether it is text: UTF-8 without NUL characters."""
    return Content(data, hashlib.sha256(data).hexdigest(), is_text(data))


def is_text(data: bytes) -> bool:
    """Whether these bytes can be shown as text, and come back as the same bytes."""
    if b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def decoded(content: str, encoding: Encoding, limit: int, field: str = "content") -> bytes:
    """The bytes that a body or a tool call means.

    Raises:
        TooLarge: over the limit, in bytes.
        InvalidInput: not base64, or text that cannot be written in UTF-8.
    """
    if (len(content) if encoding == "text" else len(content) // 4 * 3 - 2) > limit:
        raise too_large(limit)
    try:
        data = content.encode() if encoding == "text" else base64.b64decode(content, validate=True)
    except ValueError:
        wrong = "is not text that can be stored" if encoding == "text" else "is not valid base64"
        raise InvalidInput(f"`{field}` {wrong}", code="invalid_content", field=field) from None
    if len(data) > limit:
        raise too_large(limit)
    return data


def too_large(limit: int) -> TooLarge:
    """The error of a file over the limit, in bytes."""
    return TooLarge(f"a file may hold {limit} bytes", code="file_too_large")


def encoded(data: bytes, as_text: bool) -> str:
    """A content as a string: text as it is, anything else in base64."""
    return data.decode() if as_text else base64.b64encode(data).decode()
