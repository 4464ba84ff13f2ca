"""Paths of a session's files: absolute, normal, and never out of the session, since there is nothing outside."""

from __future__ import annotations

import posixpath

MAX_PATH = 1024
"""Characters of a path."""


def clean_path(path: str) -> str | None:
    """The absolute, normal form: `a/../b` is `/b`, and nothing climbs above `/`. None for a path that cannot be one:

    empty, too long, or with control characters.
    """
    if not path.strip() or len(path) > MAX_PATH or any(ch < " " or ch == "\x7f" for ch in path):
        return None
    return posixpath.normpath("/" + path.strip().lstrip("/"))
