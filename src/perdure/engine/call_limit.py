"""Limits the tool calls in one answer: models that degenerate repeat them thousands of times."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import msgspec

from perdure.domain.events import NewEvent, ToolCompletedData
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import ToolCallPart
from perdure.domain.spans import tool_context
from perdure.domain.times import Micros
from perdure.domain.turn import Reasoning
from perdure.llm.driver import ModelResponse

MAX_CALLS = 128
"""Calls in one answer that run: the number of results that a client may submit at once."""

MAX_KEPT = 256
"""Calls in one answer that enter the log: those that do not run get an error each."""


def cut_calls(response: ModelResponse) -> ModelResponse:
    """The response with the calls that enter the log."""
    if len(response.tool_calls) <= MAX_KEPT:
        return response
    return msgspec.structs.replace(response, tool_calls=response.tool_calls[:MAX_KEPT])


def refuse_excess(
    state: Reasoning,
    calls: tuple[ToolCallPart, ...],
    made: int,
    now: Micros,
    refused: Container[ToolCallId] = (),
) -> list[NewEvent]:
    """The events that fail the calls which do not run. They follow the answer's in the same append.

    Args:
        calls: the calls that enter the log.
        made: the number of calls in the model's answer.
        refused: calls that have failed already.
    """
    error = (
        f"This call was not made: at most {MAX_CALLS} calls in one answer are made, and this one has {made}. "
        "Look at the results first, then make further calls in your next answers."
    )
    return fail_calls(state, (call for call in calls[MAX_CALLS:] if call.id not in refused), error, now)


def refuse_blocked(
    state: Reasoning, calls: tuple[ToolCallPart, ...], errors: Mapping[ToolCallId, str], now: Micros
) -> list[NewEvent]:
    """The events that fail the calls which guardrails have blocked, each with its error."""
    blocked = (call for call in calls if call.id in errors)
    return [event for call in blocked for event in fail_calls(state, (call,), errors[call.id], now)]


def fail_calls(state: Reasoning, calls: Iterable[ToolCallPart], error: str, now: Micros) -> list[NewEvent]:
    """The events that fail calls of an answer with this error, for the model."""
    return [
        NewEvent(
            ToolCompletedData(call.id, call.name, False, "error", error=error),
            tool_context(state, call.id),
            now,
        )
        for call in calls
    ]
