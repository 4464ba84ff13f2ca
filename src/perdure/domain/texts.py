"""Shorten long texts."""

from __future__ import annotations

from collections.abc import Callable


def one_line(text: str, limit: int) -> str:
    """Return the text in one line of at most `limit` characters; what is cut ends with an ellipsis."""
    return cut_line(" ".join(text.split()), limit)


def cut_line(line: str, limit: int) -> str:
    """Return at most `limit` characters of a line; what is cut ends with an ellipsis."""
    return line if len(line) <= limit else f"{line[: limit - 3].rstrip()}..."


def without_middle(text: str, limit: int, mark: Callable[[int], str], head: float = 0.5) -> str:
    """Return the text, with its middle replaced by a mark if it is longer than the limit.

    Args:
        text: the text.
        limit: how many characters to keep, not counting the mark.
        mark: makes the mark from the number of omitted characters.
        head: the share of the kept characters that comes from the beginning.
    """
    if len(text) <= limit:
        return text
    first = int(limit * head)
    last = limit - first
    return text[:first] + mark(len(text) - limit) + text[len(text) - last :]


def size_text(size: int) -> str:
    """Format a limit of bytes for people, rounded down: `100 MB`, `64 KB`, `999 bytes`."""
    for name, unit in (("MB", 1_000_000), ("MB", 1 << 20), ("KB", 1_000), ("KB", 1 << 10)):
        if (size >= unit and size % unit == 0) or (unit == 1 << 20 and size >= 10 * unit):
            return f"{size // unit:,} {name}"
    return f"{size:,} bytes"
