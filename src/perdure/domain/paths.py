"""Paths of files: absolute, in one form, and never out of their workspace, since there is nothing outside.

Files live in the database, so a path is only a name: no link, device or other machine can be behind it.
"""

from __future__ import annotations

import unicodedata
from uuid import UUID, uuid5

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import WorkspaceId

MAX_PATH = 1024
"""Bytes of a path in UTF-8: what every database can index."""
MAX_NAME = 255
"""Bytes of one name in UTF-8: what the usual file systems take, so that a workspace can be unpacked
anywhere."""
MAX_DEPTH = 64
"""Names in a path."""

MOUNT = "/workspace"
"""Where a shell finds the session's files, and what other tools take for another name of their root."""

RESERVED = "_"
"""A name that nothing at the top can have: `/fs/_/...` are the routes that do something with files."""

_SEEN = frozenset(
    "\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
"""Format characters that belong to words: the joiners of many scripts and of emoji, and signs under which
Arabic numbers stand. All
others are not seen, or turn text around: a name with them is not what it looks like."""


def clean_path(path: str, field: str = "path") -> str:
    """The absolute, normal form.

    `a/../b` is `/b`, nothing climbs above `/`, and names that look the same are the same (NFC).

    Raises:
        InvalidInput: it cannot be a path; the message says why.
    """
    if len(path) > MAX_PATH:
        raise _refused(field, f"may hold {MAX_PATH} bytes")
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
        raise _refused(field, f"must not begin with /{RESERVED}, which is kept for the server's own routes")
    clean = "/" + "/".join(names)
    if len(clean.encode()) > MAX_PATH or len(names) > MAX_DEPTH:
        raise _refused(field, f"may hold {MAX_PATH} bytes and {MAX_DEPTH} names")
    return clean


def _checked(name: str, field: str) -> str:
    if any(unicodedata.category(ch) in ("Cc", "Cf", "Cs", "Zl", "Zp") and ch not in _SEEN for ch in name):
        raise _refused(field, "must not hold control characters or others that are not seen")
    if "\\" in name:
        raise _refused(field, "must not hold backslashes: names are separated by /")
    if name != name.strip():
        raise _refused(field, "must not hold names that begin or end with a space")
    if len(name.encode()) > MAX_NAME:
        raise _refused(field, f"may hold names of {MAX_NAME} bytes")
    return name


def _refused(field: str, words: str) -> InvalidInput:
    return InvalidInput(f"`{field}` {words}", code="invalid_path", field=field)


def name_of(path: str) -> str:
    """The last name of a clean path; `/` for the top."""
    return path.rpartition("/")[2] or "/"


def parent_of(path: str) -> str:
    """The folder that a clean path is in; the top is in itself."""
    return path.rpartition("/")[0] or "/"


def folders_above(path: str) -> list[str]:
    """The folders that a clean path is in, the topmost first, without `/` itself."""
    names = path.split("/")[1:-1]
    return ["/" + "/".join(names[:depth]) for depth in range(1, len(names) + 1)]


def is_below(path: str, folder: str) -> bool:
    """Whether a clean path lies in a folder, at any depth."""
    return path != folder and path.startswith(folder.rstrip("/") + "/")


def file_id(workspace_id: WorkspaceId, path: str) -> str:
    """The id of what is at a path: a bare UUID (wire contract), the same for as long as it is there."""
    return str(uuid5(UUID(workspace_id[-32:]), path))
