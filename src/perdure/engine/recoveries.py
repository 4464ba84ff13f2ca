"""What a model call changes about its request after its server refused it.

`RECOVERIES` are tried in order, and the first one that changes something has the call made again. What the
server then accepts is in the log, so that the session's later calls are made like it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec.structs import replace

from perdure.domain.errors import ModelError
from perdure.domain.events import HistoryAdaptation
from perdure.domain.history import Conversation
from perdure.domain.ids import ModelId
from perdure.llm.catalog import LearnedLimits
from perdure.llm.driver import ModelRequest
from perdure.llm.no_tools import accepts_no_tools

MAX_ADAPTATIONS = 5
"""How often a call is made again with another form of its history."""


class RefusedCall(Protocol):
    """A model call whose request was refused.

    Attributes:
        sent: the request.
        adaptation: how its history was changed already.
        provider_type: whose protocol it was made in.
        adapted: how often it has been made again with a changed history.
    """

    sent: ModelRequest
    adaptation: HistoryAdaptation
    provider_type: str
    adapted: int

    async def shorten(self, error: ModelError) -> bool:
        """Shorten the prompt if it is too long; returns whether it is shorter now."""
        ...

    def ask_for_less(self, error: ModelError) -> bool:
        """Try a shorter answer or less of the history, if that may help; returns whether it is tried."""
        ...


async def _shorter(call: RefusedCall, error: ModelError) -> bool:
    return await call.shorten(error)


async def _adapted(call: RefusedCall, error: ModelError) -> bool:
    if call.adapted >= MAX_ADAPTATIONS:
        return False
    from perdure.engine.refusals import adapt  # has many patterns, and is rarely needed

    adaptation = adapt(call.adaptation, call.sent, call.provider_type, error)
    if adaptation is None:
        return False
    call.adaptation = adaptation
    call.adapted += 1
    return True


async def _less(call: RefusedCall, error: ModelError) -> bool:
    return call.ask_for_less(error)


RECOVERIES: tuple[Callable[[RefusedCall, ModelError], Awaitable[bool]], ...] = (_shorter, _adapted, _less)
"""The most specific recovery first: the last ones react to refusals that explain nothing."""


def adaptation_of(conversation: Conversation, model_id: ModelId) -> HistoryAdaptation:
    """How the history has to be changed for this model, as far as the session knows."""
    return conversation.adaptations.get(model_id) or HistoryAdaptation(model_id)


def logged_adaptation(
    adaptation: HistoryAdaptation, ceiling: int | None, limits: LearnedLimits
) -> HistoryAdaptation | None:
    """What the log says about a call's history: nothing if it was sent as it is, and no limit is known.

    Args:
        ceiling: the most tokens of history that the model gets.
        limits: those that its refusals named.
    """
    if ceiling is None and not any(
        (*limits, adaptation.changes, adaptation.images_left_out, adaptation.refusal)
    ):
        return None  # nearly always
    said = replace(
        adaptation,
        history_tokens=ceiling,
        context_tokens=limits.window,
        output_tokens=limits.output,
    )
    return None if said == HistoryAdaptation(said.model_id) else said


async def recover(call: RefusedCall, error: ModelError) -> bool:
    """Change the call's request after this error; returns whether it shall be made again at once."""
    if call.sent.tools and accepts_no_tools(error.message):
        return False  # no form of the history helps
    for recovery in RECOVERIES:
        if await recovery(call, error):
            return True
    return False
