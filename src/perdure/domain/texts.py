"""Texts that are too long to be shown whole."""

from __future__ import annotations

from collections.abc import Callable


def without_middle(text: str, limit: int, mark: Callable[[int], str], head: float = 0.5) -> str:
    """The text, or its beginning and its end with a mark between them.

    Args:
        limit: characters that are kept.
        mark: what stands for so many characters that are left out.
        head: share of what is kept that comes from the beginning.
    """
    if len(text) <= limit:
        return text
    first = int(limit * head)
    last = limit - first
    return text[:first] + mark(len(text) - limit) + text[len(text) - last :]
