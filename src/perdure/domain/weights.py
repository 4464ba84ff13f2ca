"""How much a value holds, counted no further than a limit: for values that may be very large."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import astuple

EACH = 4
"""What each part of a list or an object counts besides its text."""

_TEXTS = (str, bytes)
_CONTAINERS = (dict, list, tuple, set, frozenset)


def weight_of(value: object, limit: int) -> int:
    """The characters of all texts in a value, and `EACH` for each part; anything over `limit` means too much.

    Takes time in proportion to the limit at most, also for values that contain themselves.
    """
    total = 0
    waiting = [value]
    while waiting and total <= limit:
        part = waiting.pop()
        total += EACH
        if isinstance(part, _TEXTS):
            total += len(part)
        elif isinstance(part, int):
            total += part.bit_length() // 4
        elif isinstance(part, _CONTAINERS):
            if len(part) * EACH > limit - total:
                return limit + 1
            waiting.extend(part)
            if isinstance(part, dict):
                waiting.extend(part.values())
        elif isinstance(part, Struct):
            waiting.extend(astuple(part))
    return total
