"""File paths: absolute, in one normal form, and always inside their workspace.

Files are stored in the database, so a path is only a name: it cannot lead to a link, a device or another
machine.
"""

from __future__ import annotations

import unicodedata
from uuid import UUID, uuid5

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import FileId, WorkspaceId

MAX_PATH = 1024
"""Bytes of a path in UTF-8: short enough for an index in every database."""
MAX_NAME = 255
"""Bytes of one name in UTF-8: the limit of common file systems, so that workspaces can be unpacked there."""
MAX_DEPTH = 64
"""Names in a path."""

MOUNT = "/workspace"
"""The folder in which a shell sees the session's files; the other tools accept it as a name of the root."""

RESERVED = "_"
"""A name that is not allowed at the root, because `/fs/_/...` are the routes for operations on files."""

_ALLOWED_FORMAT_CHARACTERS = frozenset(
    "\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
"""Format characters that are legitimate in names: joiners of many scripts and of emoji, and Arabic number
signs. All others are invisible or reorder text, so that a name would not be what it looks like."""


def clean_path(path: str, field: str = "path") -> str:
    """Normalize a path to its absolute form.

    `a/../b` becomes `/b`; `..` at the root stays at the root; Unicode is normalized to NFC, so that names
    that look the same are equal.

    Raises:
        InvalidInput: the path is not valid; the message says why.
    """
    if len(path) > MAX_PATH:
        raise _refused(field, f"may have at most {MAX_PATH} bytes")
    text = unicodedata.normalize("NFC", path).strip(" ")
    if not text:
        raise _refused(field, "must not be empty")
    names: list[str] = []
    for name in text.split("/"):
        if name == "..":
            del names[-1:]
        elif name not in ("", "."):
            names.append(_checked(name, field))
    if names[:1] == [RESERVED]:
        raise _refused(field, f"must not begin with /{RESERVED}, which is reserved for the server's routes")
    clean = "/" + "/".join(names)
    if len(clean.encode()) > MAX_PATH or len(names) > MAX_DEPTH:
        raise _refused(field, f"may have at most {MAX_PATH} bytes and {MAX_DEPTH} names")
    return clean


def _checked(name: str, field: str) -> str:
    if any(
        unicodedata.category(ch) in ("Cc", "Cf", "Cs", "Zl", "Zp") and ch not in _ALLOWED_FORMAT_CHARACTERS
        for ch in name
    ):
        raise _refused(field, "must not contain control characters or invisible characters")
    if "\\" in name:
        raise _refused(field, "must not contain backslashes: separate names with /")
    if name != name.strip():
        raise _refused(field, "must not contain names that begin or end with a space")
    if len(name.encode()) > MAX_NAME:
        raise _refused(field, f"may contain names of at most {MAX_NAME} bytes")
    return name


def _refused(field: str, problem: str) -> InvalidInput:
    return InvalidInput(f"`{field}` {problem}", code="invalid_path", field=field)


def name_of(path: str) -> str:
    """The last name of a clean path; `/` for the root."""
    return path.rpartition("/")[2] or "/"


def parent_of(path: str) -> str:
    """The parent folder of a clean path; the root is its own parent."""
    return path.rpartition("/")[0] or "/"


def folders_above(path: str) -> list[str]:
    """The folders above a clean path, outermost first, without the root."""
    names = path.split("/")[1:-1]
    return ["/" + "/".join(names[:depth]) for depth in range(1, len(names) + 1)]


def is_below(path: str, folder: str) -> bool:
    """Whether a clean path is inside a folder, at any depth."""
    return path != folder and path.startswith(folder.rstrip("/") + "/")


def file_id(workspace_id: WorkspaceId, path: str) -> FileId:
    """The id of a path in a workspace. It never changes."""
    return FileId(f"file_{uuid5(UUID(workspace_id[-32:]), path).hex}")
