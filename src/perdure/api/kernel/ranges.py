"""Parts of a response: the headers `Range` and `If-Range` (RFC 9110)."""

from __future__ import annotations

import re
from itertools import pairwise

from msgspec import Struct

from perdure.api.kernel.asgi import Headers
from perdure.domain.errors import UnsatisfiableRange

MAX_RANGES = 16
"""The most ranges of one request. With more, or if they overlap, the whole is sent."""

_RANGES = re.compile(rb"bytes=[0-9,\- \t]+", re.IGNORECASE)
_RANGE = re.compile(rb"([0-9]{0,18})-([0-9]{0,18})")


class Span(Struct, frozen=True):
    """Bytes from `first` to `last`, which are both included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def header(self, total: int) -> bytes:
        """Return the value of Content-Range."""
        return b"bytes %d-%d/%d" % (self.first, self.last, total)


def spans_of(headers: Headers, total: int, tag: str) -> list[Span]:
    """Return the parts that a GET asks for; none if the whole is to be sent.

    Args:
        total: the size of the whole in bytes.
        tag: the entity tag of the whole, without quotes.

    Raises:
        UnsatisfiableRange: no byte is in the ranges.
    """
    wanted = headers.get(b"range", b"").strip()
    condition = headers.get(b"if-range")
    if condition is not None and condition.strip() != b'"%s"' % tag.encode():
        return []
    if not _RANGES.fullmatch(wanted) or wanted.count(b",") >= MAX_RANGES:
        return []
    spans = []
    for text in wanted[6:].split(b","):
        match = _RANGE.fullmatch(text.strip())
        if match is None or not (match[1] or match[2]) or _is_backward(match[1], match[2]):
            return []
        span = _span(match[1], match[2], total)
        if span is not None:
            spans.append(span)
    if not spans:
        raise UnsatisfiableRange(total)
    return [] if _overlap(spans) else spans


def _is_backward(first: bytes, last: bytes) -> bool:
    return bool(first and last) and int(first) > int(last)


def _span(first: bytes, last: bytes, total: int) -> Span | None:
    """Return the bytes of one range that exist; None without any."""
    if not first:
        start, end = max(0, total - int(last)), total - 1
    else:
        start, end = int(first), min(int(last), total - 1) if last else total - 1
    return Span(start, end) if start <= end else None


def _overlap(spans: list[Span]) -> bool:
    ordered = sorted(spans, key=lambda span: span.first)
    return any(one.last >= two.first for one, two in pairwise(ordered))
