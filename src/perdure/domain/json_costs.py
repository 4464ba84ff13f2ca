"""JSON that takes much longer to decode than other JSON of its size: extreme numbers, and very many values.

What enters the log is decoded again by each of its readers, so it is counted before it is decoded. Large
texts are searched in slices: a thread lets others run only between two searches.
"""

from __future__ import annotations

import re

# Anchored to what precedes a number: searching for digits would be ten times as slow in large texts.
_EXTREME = re.compile(r"[\[:,\s({]-?(?:[\d.]++[eE][+-]?\d{3}|\d{280})")
_ESCAPE = re.compile(r"\\.", re.DOTALL)

SLICE = 64 << 10
"""Characters that are searched at once."""
_LONGEST = 400  # more characters than a number has that counts


def extremes_in(text: str, limit: int) -> int:
    """Count the numbers with an exponent of three digits or more, up to `limit` + 1.

    The decoder takes up to 40 µs for each. Those in strings count too.
    """
    count = 0
    for start in range(0, len(text), SLICE):
        end = start + SLICE
        for found in _EXTREME.finditer(text, start, end + _LONGEST):
            if found.start() >= end:
                break  # it belongs to the next slice
            count += 1
            if count > limit:
                return count
    return count


def without_strings(text: str) -> str:
    """A JSON text without its strings: what is left tells how many values it has, and how odd they are."""
    bare: list[str] = []
    start, inside = 0, 0
    while start < len(text):
        end = start + SLICE
        while end < len(text) and text[end - 1] == "\\":
            end += 1  # the backslash and what it escapes stay together
        parts = _ESCAPE.sub("", text[start:end]).split('"')
        bare += parts[inside::2]
        inside = (inside + len(parts) - 1) % 2
        start = end
    return "".join(bare)
