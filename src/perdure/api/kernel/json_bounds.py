"""Bounds of JSON bodies that cost more than their size: nesting, very many values, and slow numbers.

Each check is a few passes over the body in C, so that no body, however crafted, takes more than linear time.
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate

from perdure.domain.errors import InvalidInput

MAX_DEPTH = 100
"""JSON in a body must be nested less deep than this, even in fields that are ignored."""
MAX_VALUES = 1_000_000
"""Values in a body. Decoding that many takes about 50 ms."""
LARGE, FEW_STRINGS = 64 * 1024, 100
"""Bytes of a body, and the number of its strings, for which leaving out the strings first saves time."""
SPARSE = 32
"""Bytes for each quotation mark of a body with escapes, from which on the same is true."""
MAX_EXTREMES = 1_000
"""Numbers with an exponent of three digits or more. The decoder takes up to 40 µs for each."""

# Possessive (`*+`): no body, however crafted, costs more than one pass and a fixed amount of memory.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
# Anchored to what precedes a number: searching for digits would be ten times as slow in large texts.
_LONG_NUMBER = re.compile(rb"[\[:,\s]-?(?:\d{19}|[\d.]++[eE][+-]?\d{3})")
_EXTREME = re.compile(rb"[\[:,\s]-?(?:[\d.]++[eE][+-]?\d{3}|\d{280})")
_LARGE_INTEGER = re.compile(rb"[\[:,\s](-?(?:9\d{18}|\d{20,}+))(?![\d.eE])")

_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""How each bracket changes the depth, as signed bytes."""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check_bounds(body: bytes) -> bool:
    """Check the bounds of a body, before it is decoded.

    Returns:
        Whether it has numbers that may be beyond a double, in any field.

    Raises:
        InvalidInput: the body has too much of something.
    """
    if len(body) > LARGE:
        body = without_strings(body)
    if len(body) > MAX_VALUES and body.count(b",") >= MAX_VALUES:
        _check_values(body)
    deep = body.count(b"[") + body.count(b"{") >= MAX_DEPTH
    long_numbers = _LONG_NUMBER.search(body) is not None
    if not (deep or long_numbers):
        return False
    rest = _STRING.sub(b"", body)
    if deep:
        _check_depth(rest)
    return long_numbers and _check_numbers(rest)


def without_strings(body: bytes) -> bytes:
    """Return what a body has outside of its strings, if they are few and plain; otherwise the whole body.

    What nearly all large bodies consist of is the content of one file. Finding its end takes a tenth of the
    time of any other look at it, and a third if it has escapes, such as those of a text's newlines.
    """
    if b"\\" in body:
        return _STRING.sub(b"", body) if body.count(b'"') < len(body) // SPARSE else body
    outside: list[bytes] = []
    end = 0
    for _ in range(FEW_STRINGS):
        begin = body.find(b'"', end)
        if begin < 0:
            return b"".join((*outside, body[end:]))
        outside.append(body[end:begin])
        end = body.find(b'"', begin + 1) + 1
        if not end:
            return body
    return body


def _check_values(body: bytes) -> None:
    # A quotation mark before a comma ends a string, unless it is escaped; this saves looking for the strings.
    strings = body.count(b'",') - body.count(b'\\",')
    if strings >= MAX_VALUES or _STRING.sub(b"", body).count(b",") >= MAX_VALUES:
        raise InvalidInput(f"the body may have at most {MAX_VALUES} values", code="invalid_json")


def _check_numbers(rest: bytes) -> bool:
    for match in _LARGE_INTEGER.finditer(rest):
        if len(match[1]) > 20 or not -(1 << 63) <= int(match[1]) < 1 << 63:
            raise InvalidInput(
                "integers must fit in 64 bits: send a larger number as a string", code="number_out_of_range"
            )
    extremes = sum(1 for _ in zip(_EXTREME.finditer(rest), range(MAX_EXTREMES + 1), strict=False))
    if extremes > MAX_EXTREMES:
        raise InvalidInput(
            f"the body may have at most {MAX_EXTREMES} numbers with an exponent of three digits: send them as"
            " strings",
            code="number_out_of_range",
        )
    return extremes > 0


def _check_depth(rest: bytes) -> None:
    steps = array("b", rest.translate(_STEPS, _NO_BRACKETS))
    if max(accumulate(steps), default=0) >= MAX_DEPTH:
        raise InvalidInput(
            f"the body's JSON may be nested at most {MAX_DEPTH - 1} levels deep", code="nesting_too_deep"
        )
