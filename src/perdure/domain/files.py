"""Files: wire formats, and the rules about contents and sizes."""

from __future__ import annotations

import base64
import codecs
import hashlib
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.errors import InvalidInput, TooLarge
from perdure.domain.ids import FileId, SessionId
from perdure.domain.paths import MAX_PATH
from perdure.domain.texts import size_text
from perdure.domain.times import CreatedAt, UpdatedAt

Encoding = Literal["text", "base64"]
Path = Annotated[str, Meta(min_length=1, max_length=MAX_PATH, examples=["/notes/plan.md"])]
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
"""SHA-256, in hex."""

MAX_PATTERN = 1000
"""Characters of a pattern."""
MAX_ENTRIES = 20_000
"""Files and folders of a workspace: a recursive listing returns all of them in one answer."""


class FileLimits(Struct, frozen=True):
    """Limits of files.

    Attributes:
        file: bytes of a file that is held in memory: one that is sent as JSON, or that a tool reads or
            writes.
        workspace: bytes of all files of a workspace together.
        upload: bytes of a file that is uploaded as it is.
        command: bytes of the files that a command or a program gets, and of those that a program may leave.
            They are held in memory, and bashkit holds 100 MB.
    """

    file: int = 10 * 1024 * 1024
    workspace: int = 1024 * 1024 * 1024
    upload: int = 100 * 1024 * 1024
    command: int = 100 * 1024 * 1024


_PATH = Meta(description="The absolute path.")
_NAME = Meta(description="The last part of the path.")
_IS_DIRECTORY = Meta(description="Whether this is a folder.")
_IS_READONLY = Meta(description="Whether the file is protected from changes, moves and deletion.")
_SIZE = Meta(description="The size in bytes.")
_HASH = Meta(description="The SHA-256 of the content, in hex. Folders have none.")
_ENCODING = Meta(description="The encoding of `content`: `text` (UTF-8) or `base64`.")
_FILE_ID = Meta(description="The id of this path in this workspace.")
_SESSION_ID = Meta(
    description="The session that the files belong to. For a shared workspace: its id, with this prefix."
)


class FileInfo(Struct, frozen=True, omit_defaults=True):
    """A file or folder, without its content."""

    id: Annotated[FileId, _FILE_ID, Meta(examples=["file_2c8b6a526f1c5c279d0b3f1c0a7a4e11"])]
    session_id: Annotated[SessionId, _SESSION_ID, Meta(examples=["session_0192f0c1b2a37b5c8d4e5f60718293a4"])]
    path: Annotated[str, _PATH, Meta(examples=["/notes/today.md"])]
    name: Annotated[str, _NAME, Meta(examples=["today.md"])]
    is_directory: Annotated[bool, _IS_DIRECTORY]
    is_readonly: Annotated[bool, _IS_READONLY]
    size_bytes: Annotated[int, _SIZE, Meta(examples=[10])]
    created_at: CreatedAt
    updated_at: UpdatedAt
    hash: Annotated[
        str | None, _HASH, Meta(examples=["5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"])
    ] = None


class FileStat(Struct, frozen=True, omit_defaults=True):
    """The metadata of the file or folder at a path."""

    path: Annotated[str, _PATH, Meta(examples=["/notes/today.md"])]
    name: Annotated[str, _NAME, Meta(examples=["today.md"])]
    is_directory: Annotated[bool, _IS_DIRECTORY]
    is_readonly: Annotated[bool, _IS_READONLY]
    size_bytes: Annotated[int, _SIZE, Meta(examples=[10])]
    created_at: CreatedAt
    updated_at: UpdatedAt
    hash: Annotated[
        str | None, _HASH, Meta(examples=["5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"])
    ] = None


class SessionFile(FileInfo, frozen=True, omit_defaults=True):
    """A file or folder. The content is present only when a single file is read."""

    content: Annotated[
        str | None,
        Meta(
            description="The file's content. Present only when a single file is read.",
            examples=["Buy milk.\n"],
        ),
    ] = None
    encoding: Annotated[Encoding | UnsetType, _ENCODING, Meta(examples=["text"])] = UNSET


class CreateFile(Struct, frozen=True, omit_defaults=True):
    """The body that creates a file or a folder."""

    content: Annotated[str | None, Meta(description="The file's content. Default: empty.")] = None
    encoding: Annotated[Encoding | None, _ENCODING] = None
    is_directory: Annotated[bool | None, Meta(description="Whether to create a folder.")] = None
    is_readonly: Annotated[bool | None, _IS_READONLY] = None


class UpdateFile(Struct, frozen=True, omit_defaults=True):
    """The body that changes a file."""

    content: Annotated[str | None, Meta(description="The new content. If absent, the content stays.")] = None
    encoding: Annotated[Encoding | None, _ENCODING] = None
    is_readonly: Annotated[bool | None, _IS_READONLY] = None
    expected_hash: Annotated[
        Hash | None,
        Meta(
            description=(
                "The hash of the content that you read. If the file has changed since, the answer is 412."
            )
        ),
    ] = None


class CopyFile(Struct, frozen=True):
    """The body that copies a file or folder."""

    src_path: Annotated[Path, Meta(description="The path of the file or folder.")]
    dst_path: Annotated[Path, Meta(description="The new path. Nothing may exist there yet.")]


class MoveFile(CopyFile, frozen=True):
    """The body that moves a file or folder."""


class StatFile(Struct, frozen=True):
    """The body that asks for the metadata of a path."""

    path: Annotated[Path, Meta(description="The absolute path to look up.")]


class DeletedFile(Struct, frozen=True):
    """Whether something was deleted."""

    deleted: Annotated[bool, Meta(description="Whether anything existed at the path.", examples=[True])]


class GrepFiles(Struct, frozen=True, omit_defaults=True):
    """The body that searches files."""

    pattern: Annotated[
        str,
        Meta(
            description="The regular expression to find, in RE2 syntax.",
            min_length=1,
            max_length=MAX_PATTERN,
            examples=["TODO|FIXME"],
        ),
    ]
    path_pattern: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN, examples=["**/*.md"])] | None,
        Meta(description="A glob that limits the search to matching paths."),
    ] = None


class GrepMatch(Struct, frozen=True):
    """A matching line."""

    path: Annotated[str, _PATH, Meta(examples=["/plan.md"])]
    line_number: Annotated[int, Meta(description="The line's number, starting at 1.", examples=[7])]
    line: Annotated[
        str,
        Meta(description="The line's text. Long lines are cut around the match.", examples=["TODO: ask Ada"]),
    ]


class GrepResult(Struct, frozen=True):
    """The matching lines of one file."""

    path: Annotated[str, _PATH, Meta(examples=["/plan.md"])]
    matches: Annotated[tuple[GrepMatch, ...], Meta(description="The matching lines.")]


class GrepResults(Struct, frozen=True):
    """The result of a search."""

    data: Annotated[
        tuple[GrepResult, ...], Meta(description="The files that contain matching lines, sorted by path.")
    ]
    truncated: Annotated[bool, Meta(description="Whether there may be more matches.", examples=[False])]


class Content(Struct, frozen=True):
    """A file's content. Create it with `content_of`; in a thread if it is longer than LONG."""

    data: bytes
    hash: str
    is_text: bool

    @property
    def size_bytes(self) -> int:
        return len(self.data)


class Uploaded(Struct, frozen=True):
    """A content that has arrived in parts, and is in the database already.

    Attributes:
        key: under which it was stored, as long as its hash was not known.
    """

    key: str
    hash: str
    is_text: bool
    size_bytes: int


class Measure:
    """Computes the size and the hash of a content that comes in pieces, and detects whether it is text."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._is_text = True

    def add(self, piece: bytes) -> None:
        """Take the next piece. In a thread if it is longer than LONG."""
        self.size += len(piece)
        self._hash.update(piece)
        self._check(piece)

    def done(self, key: str) -> Uploaded:
        """Return the whole content, after the last piece."""
        self._check(b"", final=True)
        return Uploaded(key, self._hash.hexdigest(), self._is_text, self.size)

    def _check(self, piece: bytes, *, final: bool = False) -> None:
        if self._is_text:
            try:
                self._decoder.decode(piece, final)
            except UnicodeDecodeError:
                self._is_text = False
            else:
                self._is_text = b"\0" not in piece


LONG = 256 * 1024
"""Bytes above which a content is hashed, encoded or decoded in a thread rather than on the event loop."""


def content_of(data: bytes) -> Content:
    """Hash a content with SHA-256, and detect whether it is text: UTF-8 without NUL characters."""
    return Content(data, hashlib.sha256(data).hexdigest(), is_text(data))


def is_text(data: bytes) -> bool:
    """Whether these bytes can be shown as text and stored again without change."""
    if b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def decoded(content: str, encoding: Encoding, limit: int, field: str = "content") -> bytes:
    """Decode the content of a body or a tool call.

    Args:
        limit: bytes of a file.
        field: the name of the content's field, for errors.

    Raises:
        TooLarge: the content is over the limit.
        InvalidInput: the content is not valid base64, or is text that UTF-8 cannot encode.
    """
    if (len(content) if encoding == "text" else len(content) // 4 * 3 - 2) > limit:
        raise too_large(limit)
    try:
        data = content.encode() if encoding == "text" else base64.b64decode(content, validate=True)
    except ValueError:
        problem = "cannot be encoded as UTF-8" if encoding == "text" else "is not valid base64"
        raise InvalidInput(f"`{field}` {problem}", code="invalid_content", field=field) from None
    if len(data) > limit:
        raise too_large(limit)
    return data


def too_large(limit: int) -> TooLarge:
    """The error for a file that is over the limit of `limit` bytes."""
    return TooLarge(f"a file may have at most {size_text(limit)}", code="file_too_large")


def encoded(data: bytes, as_text: bool) -> str:
    """Encode a content as a string: text unchanged, anything else in base64."""
    return data.decode() if as_text else base64.b64encode(data).decode()
