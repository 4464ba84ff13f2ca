"""What becomes of an answer that the turn cannot simply continue with: truncated, filtered or empty."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from perdure.domain.errors import ModelError
from perdure.domain.events import NewEvent
from perdure.domain.ids import MessageId
from perdure.domain.messages import Message, TextPart, ToolCallPart, Usage
from perdure.domain.times import Micros
from perdure.domain.turn import Reasoning
from perdure.engine.call_limit import fail_calls
from perdure.llm.driver import Driver, ModelRequest, ModelResponse, OnDelta

TRUNCATED = "length"
"""The finish reason of an answer that reached its limit."""

_NUDGES = {
    TRUNCATED: "Your last answer reached its limit before its first word. Think less, and answer briefly.",
    "tool_calls": "Your last answer announced tool calls, but contained none. Make the calls now, or answer.",
}
_NUDGE = "Your last answer was empty. Answer now, or call a tool."
_NUDGE_ID = MessageId("message_00000000000000000000000000000000")


async def generate_with_content(
    driver: Driver,
    request: ModelRequest,
    on_delta: OnDelta,
    begin_again: Callable[[Usage | None], Awaitable[None]],
) -> ModelResponse:
    """Make a model call, and once more if the answer has no content.

    Args:
        begin_again: called before the second call, with the usage of the first one.

    Returns:
        The last answer, with the usage of both. It can be empty again: see `problem_of`.

    Raises:
        ModelError: a call failed.
    """
    response = await driver.generate(request, on_delta)
    if not _lacks_content(response):
        return response
    await begin_again(response.usage)
    # The same prompt would often get the same answer. The note is not part of the conversation.
    nudge = _NUDGES.get(response.finish_reason, _NUDGE)
    note = Message(_NUDGE_ID, "user", (TextPart(nudge),), "")
    second = await driver.generate(replace(request, messages=[*request.messages, note]), on_delta)
    return replace(second, usage=_sum(response.usage, second.usage))


def _sum(first: Usage | None, second: Usage | None) -> Usage | None:
    return first.plus(second) if first is not None else second


def _lacks_content(response: ModelResponse) -> bool:
    """Whether the answer is empty, or announces tool calls that it does not contain."""
    if response.tool_calls or response.finish_reason == "content_filter":
        return False
    return response.finish_reason == "tool_calls" or not response.text.strip()


def problem_of(response: ModelResponse) -> ModelError | None:
    """Return why the turn fails with this answer; None if it can continue."""
    if response.finish_reason == "content_filter":
        return ModelError("The provider's content filter stopped the answer.", code="content_filtered")
    if response.tool_calls or response.text.strip():
        return None
    thought = "only reasoning" if response.thinking else "nothing"
    return ModelError(
        f"The model answered twice with {thought}: no text and no tool call"
        f" (finish reason `{response.finish_reason}`).",
        code="empty_answer",
    )


def refuse_cut_calls(
    state: Reasoning, response: ModelResponse, calls: tuple[ToolCallPart, ...], now: Micros
) -> list[NewEvent]:
    """The events that fail the calls in which a truncated answer ends. They follow the answer's.

    They are in the same append, so that no runner ever sees such a call without its error. The other calls
    run.

    Args:
        calls: the calls as they enter the log.
    """
    if response.finish_reason != TRUNCATED:
        return []
    tokens = response.usage.output_tokens if response.usage is not None else 0
    limit = f" of about {tokens:,} tokens" if tokens else ""
    error = (
        f"This call was not made: your answer reached its length limit{limit} before the arguments were "
        "complete. Write less at a time: split the work into several smaller calls, in several answers."
    )
    return fail_calls(state, [call for call in calls if isinstance(call.arguments, str)], error, now)
