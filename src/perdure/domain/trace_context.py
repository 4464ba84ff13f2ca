"""Trace context as W3C defines it: what a request says about the trace that it is a part of.

A message keeps the context of the request that brought it, and its turn's spans become children of that
request's. While a turn makes a call, the context of the call's span goes out with the call's requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b
from typing import Annotated

from msgspec import Meta, Struct

from perdure.domain.ids import TurnId

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
MAX_STATE = 512
"""Characters of a `tracestate` that is passed on; the specification asks for as many at least."""
MAX_MEMBERS = 32
"""The most members of a `tracestate`, by the specification."""

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.{0,200})?")
_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_TRACE = re.compile(r"[0-9a-f]{32}")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


class TraceContext(Struct, frozen=True, omit_defaults=True):
    """A span outside of a turn, which the turn is a child of, or the span of a call."""

    trace_id: Annotated[str, Meta(description="The trace, as 32 hexadecimal digits.")]
    span_id: Annotated[str, Meta(description="The span in it, as 16 hexadecimal digits.")]
    sampled: Annotated[bool, Meta(description="Whether its caller records the trace.")] = False
    tracestate: Annotated[
        str | None, Meta(description="What tracing systems have added, as it came with the request.")
    ] = None

    def headers(self) -> dict[str, str]:
        """The headers of a request that is a part of the span."""
        found = {TRACEPARENT: f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"}
        if (state := checked_state(self.tracestate)) is not None:
            found[TRACESTATE] = state
        return found


def parse_context(parent: str, state: str | None = None) -> TraceContext | None:
    """Read the headers `traceparent` and `tracestate`; None if the first is not valid.

    Of later versions than 00, the part that version 00 has is read, as the specification asks.
    """
    found = _PARENT.fullmatch(parent)
    if found is None:
        return None
    version, trace, span, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or trace == _NO_TRACE or span == _NO_SPAN:
        return None
    return TraceContext(trace, span, bool(int(flags, 16) & 1), checked_state(state))


def checked_state(state: str | None) -> str | None:
    """Return a `tracestate` that may be passed on; None if there is none, or it is not valid or too long."""
    if not state or len(state) > MAX_STATE:
        return None
    members = [each.strip(" \t") for each in state.split(",")]
    kept = [each for each in members if each]
    if not kept or len(kept) > MAX_MEMBERS or not all(map(_MEMBER.fullmatch, kept)):
        return None
    return ",".join(kept)


def trace_of_turn(turn_id: TurnId, parent: TraceContext | None) -> str:
    """The id of a turn's trace: its parent's, or the digits of the turn's id."""
    if parent is not None:
        return parent.trace_id
    digits = turn_id[-32:]
    if _TRACE.fullmatch(digits) and digits != _NO_TRACE:
        return digits
    return blake2b(turn_id.encode(), digest_size=16).hexdigest()


class Sampler(Struct, frozen=True):
    """Which traces are exported; all processes decide alike.

    Attributes:
        share: of the traces that it decides about, from 0 to 1.
        follows: whether turns with a parent are left to the parent's decision.
    """

    share: float = 1.0
    follows: bool = True

    def samples(self, turn_id: TurnId, parent: TraceContext | None) -> bool:
        """Whether the turn's spans are exported."""
        if parent is not None and self.follows:
            return parent.sampled
        # The last 56 bits are the random ones, by the second version of the specification.
        number = int(trace_of_turn(turn_id, parent)[-14:], 16)
        return number < self.share * (1 << 56)


_CURRENT: ContextVar[TraceContext | None] = ContextVar("trace_context", default=None)


def current_trace() -> TraceContext | None:
    """The span that this task works for: of the request that it answers, or of the call that it makes."""
    return _CURRENT.get()


def with_trace(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers of a request with those of the span that this task works for, if there is one."""
    return headers if _CURRENT.get() is None else {**headers, **trace_headers()}


def trace_headers() -> dict[str, str]:
    """The headers for a request that this task makes; empty if it works for no span."""
    current = _CURRENT.get()
    return {} if current is None else current.headers()


@contextmanager
def tracing(context: TraceContext | None) -> Iterator[None]:
    """Have this task, and the tasks that it starts, work for this span; None for no span."""
    before = _CURRENT.set(context)
    try:
        yield
    finally:
        _CURRENT.reset(before)
