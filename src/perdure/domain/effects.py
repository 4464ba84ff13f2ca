"""Keys of external effects (promise P10), and what a tool says about the outcome of one.

A key is derived from the session, the sequence of the event that announced the call, and the call's index in
it. It is therefore the same after a crash, and differs between two calls with the same arguments. Ids of
calls would not do: models repeat them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any, Literal, Protocol

from msgspec import Struct

from perdure.domain.ids import SessionId
from perdure.domain.messages import JsonValue

IDEMPOTENCY_KEY = "Idempotency-Key"
"""The HTTP header by which a service recognizes a repeated request."""

UNCERTAIN = "It may or may not have taken effect; check the current state before you try again."
"""What the model is told about a call whose outcome is unknown."""

_UNDER: ContextVar[str | None] = ContextVar("effects_under")


def effect_key(session_id: SessionId, announced_at: int, index: int) -> str:
    """The key of a tool call's effect: `effect_` and 32 hexadecimal digits.

    Args:
        announced_at: the sequence of the `output.message.completed` event with the call.
        index: the call's position among the calls of that message, from 0.
    """
    return _key(f"{session_id}/{announced_at}/{index}")


def part_key(key: str, name: str) -> str:
    """The key of one of several effects of a call; `name` tells them apart."""
    return _key(f"{key}/{name}")


def _key(place: str) -> str:
    return f"effect_{blake2b(place.encode('utf-8', 'replace'), digest_size=16).hexdigest()}"


@contextmanager
def effects_under(key: str | None) -> Iterator[None]:
    """Have effects of this task, and of tasks that it starts, belong to this key; None: they have no key.

    A step is a function of the tool's own, which the context of its call is not passed to.
    """
    before = _UNDER.set(key)
    try:
        yield
    finally:
        _UNDER.reset(before)


def key_here(call_key: str) -> str | None:
    """The key that effects of this task belong to: of a step, of the call, or none."""
    return _UNDER.get(call_key)


Outcome = Literal["done", "not_done", "unknown"]


class Verified(Struct, frozen=True):
    """What a tool found out about an effect whose outcome the log does not have.

    Attributes:
        value: if it is `done`, the result, as the tool would have returned it.
    """

    outcome: Outcome
    value: Any = None


NOT_DONE = Verified("not_done")
"""The effect has not taken place. The call is made (again) once its old request can no longer arrive."""
UNKNOWN = Verified("unknown")
"""Nobody knows. The model is told so."""


def done(value: Any) -> Verified:
    """The effect has taken place, and this is its result."""
    return Verified("done", value)


class StepRunner(Protocol):
    """The type of `ToolContext.step`."""

    async def __call__(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        *,
        idempotent: bool = False,
        verify: Callable[[], Awaitable[Verified]] | None = None,
    ) -> JsonValue: ...


async def no_steps(
    name: str,
    work: Callable[[], Awaitable[object]],
    *,
    idempotent: bool = False,
    verify: Callable[[], Awaitable[Verified]] | None = None,
) -> JsonValue:
    """The steps of a context that belongs to no call."""
    raise RuntimeError(f"the step {name!r} needs a tool call whose log it can be recorded in")
