"""Fallbacks: the model that a turn goes on with after another one did not answer."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.events.patience import CIRCUIT_OPEN, ReasonFallbackData
from perdure.domain.times import Micros, from_rfc3339

MAX_PARKED = 24 * 3600 * 1_000_000
"""Microseconds for which a turn may be parked, from the first time until its model answers again. After
that, it fails: every turn ends (promise P4)."""


class Fallback(Struct, frozen=True):
    """What a turn knows of models that do not answer.

    Attributes:
        requested: the model that the message asked for, None for the configured one. A message that asks for
            another one ends the fallback.
        model_id: the model to call.
        failed: those that were called in vain.
        until: when the first of them can be called again, if their providers said so.
    """

    requested: str | None
    model_id: str | None
    failed: tuple[str, ...] = ()
    until: Micros | None = None


def fallen_back(before: Fallback | None, requested: str | None, data: ReasonFallbackData) -> Fallback:
    """What a turn knows after this event; `before` is what it knew."""
    if before is None or before.requested != requested:
        before = Fallback(requested, None)
    failed, until = before.failed, before.until
    if data.error_code != CIRCUIT_OPEN and data.from_.model_id is not None:
        failed = (*failed, data.from_.model_id)
    if data.until is not None:
        until = earliest(until, from_rfc3339(data.until))
    return Fallback(requested, data.to.model_id, failed, until)


def earliest(*instants: Micros | None) -> Micros | None:
    """The first of these instants; None without any."""
    return min((each for each in instants if each is not None), default=None)
