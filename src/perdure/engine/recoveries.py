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
from perdure.llm.driver import Driver, ModelRequest
from perdure.llm.no_tools import accepts_no_tools
from perdure.llm.outputs import RESULT_TOOL, offers_only_result, refuses_result_tool

MAX_ADAPTATIONS = 5
"""How often a call is made again with another form of its history."""

MAY_NAME_PARAMETERS = frozenset({"invalid_model_request", "provider_unavailable"})
"""The codes of refusals. Some servers report them as their own failure, with status 500."""

MAX_REFUSED_PARAMETERS = 6
"""How often a call is made again without optional parameters; each time, at least one more is left out."""


class RefusedCall(Protocol):
    """A model call whose request was refused.

    Attributes:
        sent: the request.
        driver: what made it.
        adaptation: how it was changed already.
        adapted: how often it has been made again with a changed history.
        trimmed: how often it has been made again without some of its parameters.
    """

    sent: ModelRequest
    driver: Driver
    adaptation: HistoryAdaptation
    adapted: int
    trimmed: int

    async def shorten(self, error: ModelError) -> bool:
        """Shorten the prompt if it is too long; returns whether it is shorter now."""
        ...

    def ask_for_less(self, error: ModelError) -> bool:
        """Try a shorter answer or less of the history, if that may help; returns whether it is tried."""
        ...


async def _shorter(call: RefusedCall, error: ModelError) -> bool:
    return await call.shorten(error)


async def _trimmed(call: RefusedCall, error: ModelError) -> bool:
    if call.trimmed >= MAX_REFUSED_PARAMETERS:
        return False
    refused = refused_by(error, call.driver, call.sent)
    if offers_only_result(call.sent) and accepts_no_tools(error.message):
        refused = (*refused, RESULT_TOOL)
    if not refused and error.code in MAY_NAME_PARAMETERS and refuses_result_tool(call.sent, error.message):
        refused = (RESULT_TOOL,)
    if not refused:
        return False
    left_out = (*call.adaptation.parameters_left_out, *refused)
    call.adaptation = replace(call.adaptation, parameters_left_out=left_out, refusal=error.message)
    call.trimmed += 1
    return True


def refused_by(error: ModelError, driver: Driver, sent: ModelRequest) -> tuple[str, ...]:
    """Return the parameters of the request that the server refused, if the call can do without them."""
    if error.code not in MAY_NAME_PARAMETERS:
        return ()
    from perdure.llm.parameters import refused_parameters  # rarely needed

    try:
        optional = driver.optional(sent)
    except ModelError:
        return ()  # the driver itself refuses to encode it
    return refused_parameters(error.message, optional)


async def _adapted(call: RefusedCall, error: ModelError) -> bool:
    if call.adapted >= MAX_ADAPTATIONS:
        return False
    from perdure.engine.refusals import adapt  # rarely needed

    adaptation = adapt(call.adaptation, call.sent, call.driver.provider_type, error)
    if adaptation is None:
        return False
    call.adaptation = adaptation
    call.adapted += 1
    return True


async def _less(call: RefusedCall, error: ModelError) -> bool:
    return call.ask_for_less(error)


RECOVERIES: tuple[Callable[[RefusedCall, ModelError], Awaitable[bool]], ...] = (
    _shorter,
    _trimmed,
    _adapted,
    _less,
)
"""The most specific recovery first: the last ones react to refusals that explain nothing."""


def adaptation_of(conversation: Conversation, model_id: ModelId) -> HistoryAdaptation:
    """How requests have to be changed for this model, as far as the session knows."""
    return conversation.adaptations.get(model_id) or HistoryAdaptation(model_id)


def logged_adaptation(
    adaptation: HistoryAdaptation, ceiling: int | None, limits: LearnedLimits
) -> HistoryAdaptation | None:
    """What the log says about a call's request: nothing if it was sent as it is, and no limit is known.

    Args:
        ceiling: the most tokens of history that the model gets.
        limits: those that its refusals named.
    """
    if ceiling is None and not any(
        (
            *limits,
            adaptation.changes,
            adaptation.images_left_out,
            adaptation.parameters_left_out,
            adaptation.refusal,
        )
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
    # No form of the history helps a model without tools. Some servers refuse tools in streams only.
    no_tools = (bool(call.sent.tools) or offers_only_result(call.sent)) and accepts_no_tools(error.message)
    for recovery in (_trimmed,) if no_tools else RECOVERIES:
        if await recovery(call, error):
            return True
    return False
