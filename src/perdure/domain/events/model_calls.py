"""Data of events about model calls."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.events.messages import ModelMetadata
from perdure.domain.events.tools import ToolCall
from perdure.domain.ids import (
    AgentId,
    HarnessId,
    MessageId,
    TurnId,
)
from perdure.domain.messages import Message, Usage


class ReasonStartedData(Struct, frozen=True, omit_defaults=True):
    """A model call begins."""

    harness_id: HarnessId
    agent_id: AgentId | None = None
    metadata: ModelMetadata | None = None
    iteration: int | None = None


class ReasonCompletedData(Struct, frozen=True, omit_defaults=True):
    """A model call ended, over all its attempts."""

    success: bool
    has_tool_calls: bool
    tool_call_count: int
    duration_ms: int | None = None
    text_preview: str | None = None
    error: str | None = None
    error_code: str | None = None
    usage: Usage | None = None


class ReasonThinkingStartedData(Struct, frozen=True, omit_defaults=True):
    """The model thought before it answered."""

    turn_id: TurnId
    model: str | None = None


class ReasonThinkingDeltaData(Struct, frozen=True, omit_defaults=True):
    """A piece of the model's thinking while it is written; only live."""

    turn_id: TurnId
    delta: str
    accumulated: str
    message_id: MessageId | None = None


class ReasonThinkingCompletedData(Struct, frozen=True):
    """The model's thinking as a whole, where the vendor shows it."""

    turn_id: TurnId
    thinking: str


class LlmRetryInfo(Struct, frozen=True):
    attempts: int
    total_wait_ms: int


class LlmGenerationMetadata(Struct, frozen=True, omit_defaults=True):
    model: str
    success: bool
    provider: str | None = None
    duration_ms: int | None = None
    time_to_first_token_ms: int | None = None
    usage: Usage | None = None
    finish_reasons: tuple[str, ...] | None = None
    response_id: str | None = None
    retry: LlmRetryInfo | None = None
    error: str | None = None


class LlmGenerationOutput(Struct, frozen=True, omit_defaults=True):
    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


class PromptRef(Struct, frozen=True, omit_defaults=True):
    """Which part of the log a model call was shown.

    The messages after `after` and up to `through` (sequences).

    Attributes:
        summary: the sequence of the `context.compacted` event whose summary came first.
        before: only the messages before the one that begins there: what a summary was made from.
    """

    after: int
    through: int
    summary: int | None = None
    before: int | None = None


class LlmGenerationData(Struct, frozen=True, omit_defaults=True):
    """One model call.

    Stored with `prompt` and without `messages`; readers get `messages` filled from the log (promise P7).
    """

    metadata: LlmGenerationMetadata
    output: LlmGenerationOutput
    prompt: PromptRef | None = None
    messages: tuple[Message, ...] | None = None
