"""Model calls with retries, their outcome, and the `llm.generation` event that records it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from perdure.capabilities.model_choice import ModelChoice
from perdure.domain.backoff import backoff
from perdure.domain.errors import ModelError
from perdure.domain.events import (
    LlmGenerationData,
    LlmGenerationMetadata,
    LlmGenerationOutput,
    LlmRetryInfo,
    PromptRef,
    ToolCall,
)
from perdure.domain.ids import AgentId
from perdure.domain.model_profiles import CallPrice
from perdure.domain.redaction import Redactor
from perdure.engine.answer_limits import storable_response
from perdure.engine.context import Engine
from perdure.engine.patience import Patience
from perdure.llm.catalog import ServedModel
from perdure.llm.driver import ModelResponse

LONG = 64 << 10
"""Characters of an answer above which it is redacted and cut in a thread."""


class Outcome(msgspec.Struct):
    """The outcome of a model call, over all its attempts.

    Attributes:
        response: the answer, or None if the call failed.
        error: why the call failed, or why its answer fails the turn.
        waited: seconds spent waiting between attempts.
        duration: seconds in total.
        first: seconds until the first piece of text, or None.
        prompt: the part of the log that the model received.
        price: what the answer was charged at, if that is known.
    """

    response: ModelResponse | None
    error: ModelError | None
    attempts: int
    waited: float
    duration: float
    first: float | None
    prompt: PromptRef
    price: CallPrice | None = None


def served_model(choice: ModelChoice) -> ServedModel:
    """The key under which the catalog has the model's limits and prices."""
    return ServedModel(choice.provider.provider_type, choice.provider.base_url, choice.model.model_id)


def _pause_after(engine: Engine, attempt: int, error: ModelError) -> float:
    """Seconds before the next attempt: exponential back-off with jitter, and at least Retry-After."""
    policy = engine.policy
    pause = backoff(attempt, first=policy.backoff, most=policy.backoff_limit, jitter=engine.jitter)
    return min(max(pause, error.retry_after or 0.0), policy.backoff_limit)


class Attempts(msgspec.Struct, frozen=True):
    """An answer or the last error, the number of attempts, and the seconds waited between them."""

    response: ModelResponse | None
    error: ModelError | None
    count: int
    waited: float


async def no_recovery(error: ModelError) -> bool:
    """The `recover` of calls that can only be retried as they are."""
    return False


def no_note(error: ModelError, attempt: int, pause: float | None) -> None:
    """The `noted` of calls that nobody observes."""


async def call_with_retries(
    engine: Engine,
    generate: Callable[[], Awaitable[ModelResponse]],
    recover: Callable[[ModelError], Awaitable[bool]] = no_recovery,
    *,
    redactor: Redactor,
    patience: Patience | None = None,
    noted: Callable[[ModelError, int, float | None], None] = no_note,
) -> Attempts:
    """Make a model call, and retry transient errors until the attempts are used up.

    Args:
        generate: makes the call once; raises ModelError.
        recover: called after each failure. True: the request was changed, so try again at once.
        redactor: redacts secrets before a text is cut.
        patience: how long the call goes on; by default, as for a model without an alternative.
        noted: is told of each failure: the error, the attempt's number from 1, and the seconds until the next
            attempt, or None if there is none.
    """
    patience = patience or Patience(engine.policy.model_attempts)
    count, waited, silent = 0, 0.0, 0.0
    while True:
        count += 1
        began = engine.clock.elapsed()
        try:
            response = await _storable(await generate(), redactor)
            patience.note(engine, None, redactor)
            return Attempts(response, None, count, waited)
        except ModelError as error:
            if await recover(error):
                continue
            if error.code == "provider_timeout":
                silent += engine.clock.elapsed() - began
            patience.note(engine, error, redactor)
            if patience.is_over(error, count, silent):
                noted(error, count, None)
                return Attempts(None, error, count, waited)
            pause = _pause_after(engine, count, error)
            noted(error, count, pause)
        waited += pause
        await engine.clock.sleep(pause)


async def _storable(response: ModelResponse, redactor: Redactor) -> ModelResponse:
    """The response within the limits. Redacting a long one would stall all other sessions."""
    if len(response.text) + len(response.thinking or "") <= LONG:
        return storable_response(response, redactor)
    return await asyncio.to_thread(storable_response, response, redactor)


def generation_data(choice: ModelChoice, outcome: Outcome, agent_id: AgentId | None) -> LlmGenerationData:
    """The data of the `llm.generation` event. `agent_id`: whose call it was."""
    response, error = outcome.response, outcome.error
    retry = LlmRetryInfo(outcome.attempts, round(outcome.waited * 1000)) if outcome.attempts > 1 else None
    metadata = LlmGenerationMetadata(
        model=choice.model.model_id,
        success=response is not None and error is None,
        provider=choice.provider.provider_type,
        duration_ms=round(outcome.duration * 1000),
        time_to_first_token_ms=None if outcome.first is None else round(outcome.first * 1000),
        usage=response.usage if response else None,
        finish_reasons=(response.finish_reason,) if response else None,
        response_id=response.response_id if response else None,
        retry=retry,
        error=error.message if error else None,
        price=outcome.price,
        agent_id=agent_id,
    )
    calls = (
        tuple(ToolCall(call.id, call.name, call.arguments) for call in response.tool_calls)
        if response
        else ()
    )
    return LlmGenerationData(
        metadata, LlmGenerationOutput(response.text or None if response else None, calls), outcome.prompt
    )
