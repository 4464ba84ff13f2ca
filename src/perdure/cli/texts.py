"""Values as short texts for people."""

from __future__ import annotations

import msgspec

from perdure.domain.visible import exact, visible


def short(value: object, limit: int = 100) -> str:
    """Format a JSON value or a text as one line of its first characters; a cut says how many are missing."""
    text = _text(value)
    line = " ".join(visible(text[:limit]).split())
    return line + _cut_mark(len(text) - limit)


def exact_value(value: object, limit: int | None = None) -> str:
    """Format a JSON value so that everything in it can be seen; a cut says how much is missing.

    A run of spaces counts as what is shown of it, so that it cannot move what follows out of sight.
    """
    text = _text(value)
    if limit is None:
        return exact(text)
    end, shown = 0, ""
    while end < len(text) and len(shown) < limit:
        end = _end_of_spaces(text, end + limit - len(shown))
        shown = exact(text[:end])
    return shown + _cut_mark(len(text) - end)


def _end_of_spaces(text: str, start: int) -> int:
    return len(text) - len(text[start:].lstrip(" ")) if text[start - 1 : start] == " " else start


def duration(millis: float | None) -> str:
    """Format a duration for people: `0.4 ms`, `12 ms`, `3.4 s`, `2 min 5 s`."""
    if millis is None:
        return ""
    if millis < 1:
        return f"{millis:.1f} ms"
    if millis < 1000:
        return f"{millis:.0f} ms"
    seconds = millis / 1000
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _cut_mark(missing: int) -> str:
    return f"… {missing:,} more characters" if missing > 0 else ""


def several(count: int, what: str) -> str:
    """Return a number of things, such as `1 file` or `2,000 files`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
