"""What a model call came to, and the `llm.generation` event that says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from perdure.capabilities.resolve import ModelChoice
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
from perdure.domain.messages import storable
from perdure.engine.context import Engine
from perdure.llm.catalog import ServedModel
from perdure.llm.driver import ModelResponse


class Outcome(msgspec.Struct):
    """What a model call came to, over all its attempts.

    Attributes:
        waited, duration, first: seconds: between attempts, altogether, and until the first piece of text.
        prompt: what the model was shown.
    """

    response: ModelResponse | None
    error: ModelError | None
    attempts: int
    waited: float
    duration: float
    first: float | None
    prompt: PromptRef


def place_of(choice: ModelChoice) -> ServedModel:
    """Where the model is, for its limits and prices."""
    return ServedModel(choice.provider.provider_type, choice.provider.base_url, choice.model.model_id)


def _pause_after(engine: Engine, attempt: int, error: ModelError) -> float:
    """Seconds before the next attempt: doubling, with jitter, and no less than the vendor asks for."""
    policy = engine.policy
    pause = backoff(attempt, first=policy.backoff, most=policy.backoff_limit, jitter=engine.jitter)
    return min(max(pause, error.retry_after or 0.0), policy.backoff_limit)


class Attempts(msgspec.Struct, frozen=True):
    """What came of trying.

    An answer or the last error, how often it was tried, and the seconds waited in between.
    """

    response: ModelResponse | None
    error: ModelError | None
    count: int
    waited: float


async def no_recovery(error: ModelError) -> bool:
    """For calls that nothing can be done for but to make them again."""
    return False


async def attempted(
    engine: Engine,
    generate: Callable[[], Awaitable[ModelResponse]],
    recover: Callable[[ModelError], Awaitable[bool]] = no_recovery,
) -> Attempts:
    """Make a model call until it is answered or there is no point in trying.

    Args:
        recover: called after each failure; whether the call is another one now, to be made at once.
    """
    count, waited = 0, 0.0
    while True:
        count += 1
        try:
            return Attempts(storable_response(await generate()), None, count, waited)
        except ModelError as error:
            if await recover(error):
                continue
            if not error.transient or count >= engine.policy.model_attempts:
                return Attempts(None, error, count, waited)
            pause = _pause_after(engine, count, error)
        waited += pause
        await engine.clock.sleep(pause)


def storable_response(response: ModelResponse) -> ModelResponse:
    """What a model says may hold anything; the log's tables do not."""
    return msgspec.structs.replace(
        response,
        text=storable(response.text),
        thinking=None if response.thinking is None else storable(response.thinking),
        tool_calls=tuple(
            msgspec.structs.replace(call, id=storable(call.id), name=storable(call.name))
            for call in response.tool_calls
        ),
    )


def generation_data(choice: ModelChoice, outcome: Outcome) -> LlmGenerationData:
    """The event's data."""
    response, error = outcome.response, outcome.error
    retry = LlmRetryInfo(outcome.attempts, round(outcome.waited * 1000)) if outcome.attempts > 1 else None
    metadata = LlmGenerationMetadata(
        model=choice.model.model_id,
        success=response is not None,
        provider=choice.provider.provider_type,
        duration_ms=round(outcome.duration * 1000),
        time_to_first_token_ms=None if outcome.first is None else round(outcome.first * 1000),
        usage=response.usage if response else None,
        finish_reasons=(response.finish_reason,) if response else None,
        response_id=response.response_id if response else None,
        retry=retry,
        error=error.message if error else None,
    )
    calls = (
        tuple(ToolCall(call.id, call.name, call.arguments) for call in response.tool_calls)
        if response
        else ()
    )
    return LlmGenerationData(
        metadata, LlmGenerationOutput(response.text or None if response else None, calls), outcome.prompt
    )
