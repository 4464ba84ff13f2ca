"""The data of events about model calls."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.domain.event_data import EventData
from perdure.domain.events.fields import (
    ACCUMULATED,
    CALL_USAGE,
    DELTA,
    ERROR,
    ERROR_CODE,
    ITERATION,
    MESSAGE_ID,
    MODEL,
    TIME_TO_FIRST_TOKEN_MS,
    TOOL_CALL_COUNT,
    TURN_ID,
)
from perdure.domain.events.messages import ModelMetadata
from perdure.domain.events.tools import ToolCall
from perdure.domain.ids import (
    AgentId,
    HarnessId,
    MessageId,
    ModelId,
    TurnId,
)
from perdure.domain.messages import Message, Usage
from perdure.domain.model_profiles import CallPrice
from perdure.domain.speakers import Reader

_SUCCESS = Meta(description="Whether the call succeeded.")
_DURATION_MS = Meta(description="How long the call took, in milliseconds.")


class ReasonStartedData(EventData, frozen=True, omit_defaults=True):
    """A model call begins."""

    kind = "reason.started"
    harness_id: Annotated[HarnessId, Meta(description="The harness of the session.")]
    agent_id: Annotated[AgentId | None, Meta(description="The agent that works in the session.")] = None
    metadata: Annotated[ModelMetadata | None, Meta(description="The model that is called.")] = None
    iteration: Annotated[int | None, ITERATION] = None
    discovered_tools: Annotated[
        str | None,
        Meta(
            description=(
                "The SHA-256 of the list of tools that capabilities found at run time for this call. Absent "
                "if they find none."
            )
        ),
    ] = None


class HistoryAdaptation(Struct, frozen=True, omit_defaults=True):
    """How a request was changed because the model's server refused it as it was, and the limits it named.

    The session's later calls of the model are changed in the same way.
    """

    model_id: Annotated[ModelId, Meta(description="The registered model.")]
    changes: Annotated[
        tuple[str, ...],
        Meta(
            description="The changes to the whole history.",
            examples=[["alternating_roles", "short_call_ids"]],
        ),
    ] = ()
    images_left_out: Annotated[
        tuple[MessageId, ...], Meta(description="The messages whose images were replaced by a note.")
    ] = ()
    parameters_left_out: Annotated[
        tuple[str, ...],
        Meta(
            description=(
                "The parameters that the server refused, by their names in the request. The call was made "
                "without them, also without those that a user or an agent set."
            ),
            examples=[["stream_options", "reasoning_effort"]],
        ),
    ] = ()
    refusal: Annotated[
        str | None,
        Meta(description="What the server said. Present in the call that found out what it accepts."),
    ] = None
    history_tokens: Annotated[
        int | None,
        Meta(description="The most tokens of history that the model gets, by our estimate.", examples=[9000]),
    ] = None
    context_tokens: Annotated[
        int | None,
        Meta(description="The tokens of the model's window, as its refusals named it.", examples=[16384]),
    ] = None
    output_tokens: Annotated[
        int | None,
        Meta(description="The tokens of its longest answer, as its refusals named it.", examples=[4096]),
    ] = None


class ReasonCompletedData(EventData, frozen=True, omit_defaults=True):
    """A model call ended, after all its attempts."""

    kind = "reason.completed"
    success: Annotated[bool, _SUCCESS]
    has_tool_calls: Annotated[bool, Meta(description="Whether the model requested tool calls.")]
    tool_call_count: Annotated[int, TOOL_CALL_COUNT]
    duration_ms: Annotated[int | None, _DURATION_MS] = None
    text_preview: Annotated[str | None, Meta(description="The start of the text that the model wrote.")] = (
        None
    )
    error: Annotated[str | None, ERROR] = None
    error_code: Annotated[str | None, ERROR_CODE] = None
    usage: Annotated[Usage | None, CALL_USAGE] = None
    adaptation: Annotated[
        HistoryAdaptation | None,
        Meta(
            description=(
                "How the request was changed for the model's server. Absent if it was sent as it is."
            )
        ),
    ] = None


class ReasonThinkingStartedData(EventData, frozen=True, omit_defaults=True):
    """The model reasoned before it answered."""

    kind = "reason.thinking.started"
    turn_id: Annotated[TurnId, TURN_ID]
    model: Annotated[str | None, MODEL] = None


class ReasonThinkingDeltaData(EventData, frozen=True, omit_defaults=True):
    """A new piece of the model's reasoning. Live only: it is not in the log."""

    kind = "reason.thinking.delta"
    turn_id: Annotated[TurnId, TURN_ID]
    delta: Annotated[str, DELTA]
    accumulated: Annotated[str, ACCUMULATED]
    message_id: Annotated[MessageId | None, MESSAGE_ID] = None


class ReasonThinkingCompletedData(EventData, frozen=True):
    """The model's whole reasoning, if the vendor discloses it."""

    kind = "reason.thinking.completed"
    turn_id: Annotated[TurnId, TURN_ID]
    thinking: Annotated[str, Meta(description="The model's reasoning, as a whole.")]


class LlmRetryInfo(Struct, frozen=True):
    attempts: Annotated[int, Meta(description="The number of attempts.")]
    total_wait_ms: Annotated[
        int, Meta(description="The time spent waiting between attempts, in milliseconds.")
    ]


class LlmGenerationMetadata(Struct, frozen=True, omit_defaults=True):
    model: Annotated[str, MODEL]
    success: Annotated[bool, _SUCCESS]
    provider: Annotated[str | None, Meta(description="The provider type.")] = None
    duration_ms: Annotated[int | None, _DURATION_MS] = None
    time_to_first_token_ms: Annotated[int | None, TIME_TO_FIRST_TOKEN_MS] = None
    usage: Annotated[Usage | None, CALL_USAGE] = None
    finish_reasons: Annotated[tuple[str, ...] | None, Meta(description="Why the model stopped.")] = None
    response_id: Annotated[str | None, Meta(description="The vendor's id of the response.")] = None
    retry: Annotated[
        LlmRetryInfo | None, Meta(description="The retries. Present if the call took more than one attempt.")
    ] = None
    error: Annotated[str | None, ERROR] = None
    price: Annotated[
        CallPrice | None, Meta(description="The prices that the call was charged at, if they are known.")
    ] = None
    agent_id: Annotated[AgentId | None, Meta(description="The agent whose call it was.")] = None
    check_id: Annotated[
        str | None, Meta(description="The guardrail that had a model judge. Absent for all other calls.")
    ] = None


class LlmGenerationOutput(Struct, frozen=True, omit_defaults=True):
    text: Annotated[str | None, Meta(description="The text that the model wrote.")] = None
    tool_calls: Annotated[
        tuple[ToolCall, ...], Meta(description="The tool calls that the model requested.")
    ] = ()


class PromptRef(Struct, frozen=True, omit_defaults=True):
    """The part of the log that a model call received: the messages of a range of sequences."""

    after: Annotated[int, Meta(description="The sequence number before the first event of the range.")]
    through: Annotated[int, Meta(description="The sequence number of the last event of the range.")]
    summary: Annotated[
        int | None,
        Meta(
            description=(
                "The sequence number of the `context.compacted` event whose summary precedes the messages."
            )
        ),
    ] = None
    before: Annotated[
        int | None,
        Meta(description="The range ends before the message that starts after this sequence number."),
    ] = None
    results: Annotated[
        int | None,
        Meta(description="The tokens to which each tool result was cut. Absent if all were sent whole."),
    ] = None
    reader: Annotated[
        Reader | None,
        Meta(
            description=(
                "The agent that the call was for. Absent if it is the one that the session was created with."
            )
        ),
    ] = None


class LlmGenerationData(EventData, frozen=True, omit_defaults=True):
    """One model call: the model, what it received, what it wrote, its duration and its usage."""

    kind = "llm.generation"
    # The log stores `prompt` instead of `messages`; readers get `messages` rebuilt from the log (promise P7).

    metadata: Annotated[LlmGenerationMetadata, Meta(description="The facts about the call.")]
    output: Annotated[LlmGenerationOutput, Meta(description="What the model wrote.")]
    prompt: Annotated[
        PromptRef | None, Meta(description="How the log stores `messages`. Absent when the event is read.")
    ] = None
    messages: Annotated[
        tuple[Message, ...] | None,
        Meta(description="The messages that the model received, rebuilt from the log."),
    ] = None
