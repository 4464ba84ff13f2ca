"""JSON that takes much longer to decode than other JSON of its size: extreme numbers, and very many values.

What enters the log is decoded again by each of its readers, so it is counted before it is decoded.
"""

from __future__ import annotations

import re
from itertools import islice

# Anchored to what precedes a number: searching for digits would be ten times as slow in large texts.
_EXTREME = re.compile(r"[\[:,\s({]-?(?:[\d.]++[eE][+-]?\d{3}|\d{280})")
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


def extremes_in(text: str, limit: int) -> int:
    """Count the numbers with an exponent of three digits or more, up to `limit` + 1.

    The decoder takes up to 40 µs for each. Those in strings count too.
    """
    return sum(1 for _ in islice(_EXTREME.finditer(text), limit + 1))


def without_strings(text: str) -> str:
    """A JSON text without its strings: what is left tells how many values it has, and how odd they are."""
    return _STRING.sub("", text)
