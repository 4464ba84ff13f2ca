"""Events: what a session's log is made of, and the live deltas that only pass by.

One struct per kind of `data`; `EVENT_DATA` names them all. A stored event's data stays JSON until somebody
needs to look inside.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from perdure.domain.compaction import ContextCompactedData, ContextCompactingData
from perdure.domain.ids import (
    AgentId,
    EventId,
    ExecId,
    HarnessId,
    MessageId,
    ProviderId,
    SessionId,
    ToolCallId,
    TurnId,
)
from perdure.domain.messages import ContentPart, JsonObject, Message, Usage
from perdure.domain.times import Micros, Timestamp, to_rfc3339


class EventContext(Struct, frozen=True, omit_defaults=True):
    """Where an event belongs.

    Trace_id is the turn; reason and act are spans under it, a model call under reason, tools under act.
    """

    turn_id: TurnId | None = None
    input_message_id: MessageId | None = None
    exec_id: ExecId | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None


# --- data: messages ---------------------------------------------------------


class InputMessageData(Struct, frozen=True):
    """A message came in: from a client, or, after a cancel, the note that it was asked for."""

    message: Message


class OutputMessageStartedData(Struct, frozen=True, omit_defaults=True):
    """A model call begins to write a message. The message keeps this id, whatever process completes it."""

    turn_id: TurnId
    message_id: MessageId | None = None
    model: str | None = None
    iteration: int | None = None


class OutputMessageDeltaData(Struct, frozen=True, omit_defaults=True):
    """A piece of a message's text while it is written; only live."""

    turn_id: TurnId
    delta: str
    accumulated: str
    message_id: MessageId | None = None


class ModelMetadata(Struct, frozen=True, omit_defaults=True):
    model: str
    model_id: str | None = None
    provider_id: ProviderId | None = None


class OutputMessageCompletedData(Struct, frozen=True, omit_defaults=True):
    """An agent's message is complete: a model's answer, or words about a failure or a cancel."""

    message: Message
    metadata: ModelMetadata | None = None
    usage: Usage | None = None
    error_code: str | None = None
    error_fields: JsonObject | None = None
    error_disclosure: str | None = None


# --- data: session and turn -------------------------------------------------


class SessionStartedData(Struct, frozen=True, omit_defaults=True):
    """The session was created; always the first event."""

    harness_id: HarnessId
    agent_id: AgentId | None = None
    model_id: str | None = None


class SessionActivatedData(Struct, frozen=True):
    """The session begins to work on a message, or goes on after the last approval."""

    turn_id: TurnId
    input_message_id: MessageId


class SessionIdledData(Struct, frozen=True, omit_defaults=True):
    """The session rests and waits for a message."""

    turn_id: TurnId
    iterations: int | None = None
    usage: Usage | None = None


class TurnStartedData(Struct, frozen=True, omit_defaults=True):
    """A turn begins."""

    turn_id: TurnId
    input_message_id: MessageId
    input_content: str | None = None


class TurnCompletedData(Struct, frozen=True, omit_defaults=True):
    """A turn ended well; what it came to."""

    turn_id: TurnId
    iterations: int
    status: str | None = None
    duration_ms: int | None = None
    usage: Usage | None = None
    llm_call_count: int | None = None
    tool_call_count: int | None = None
    time_to_first_token_ms: int | None = None
    final_message_id: MessageId | None = None
    final_answer_preview: str | None = None
    input_content: str | None = None


class TurnFailedData(Struct, frozen=True, omit_defaults=True):
    """A turn ended without an answer; a message with words for a person stands before it."""

    turn_id: TurnId
    error: str
    error_code: str | None = None
    error_fields: JsonObject | None = None
    error_disclosure: str | None = None
    usage: Usage | None = None


class TurnCancelledData(Struct, frozen=True, omit_defaults=True):
    """A turn was cancelled, or its session deleted."""

    turn_id: TurnId
    reason: str | None = None
    usage: Usage | None = None


class TurnSealedData(Struct, frozen=True, omit_defaults=True):
    """A turn was given up: it was recovered too often without getting anywhere, or a budget is spent."""

    turn_id: TurnId
    reason: Literal["no_progress", "budget"]
    detail: str | None = None
    iterations: int | None = None
    usage: Usage | None = None


# --- data: reason (one model call) ------------------------------------------


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


class ToolCall(Struct, frozen=True):
    id: ToolCallId
    name: str
    arguments: Any


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


# --- data: act (one batch of tool calls) ------------------------------------


class ToolCallSummary(Struct, frozen=True, omit_defaults=True):
    id: ToolCallId
    name: str
    display_name: str | None = None
    narration: str | None = None


class ActStartedData(Struct, frozen=True, omit_defaults=True):
    """A batch of tool calls of one answer begins."""

    tool_calls: tuple[ToolCallSummary, ...]
    headline: str | None = None


class ActCompletedData(Struct, frozen=True, omit_defaults=True):
    """All calls of the batch have their results."""

    completed: bool
    success_count: int
    error_count: int
    duration_ms: int | None = None


class ToolStartedData(Struct, frozen=True, omit_defaults=True):
    """A tool is about to run on the server. This is in the log before the tool begins."""

    tool_call: ToolCall
    display_name: str | None = None
    replayable: bool = False
    """Whether the tool may be run again after a crash (it is read-only or idempotent): promise P5."""


class ToolCompletedData(Struct, frozen=True, omit_defaults=True):
    """A tool call has its result, or the error that the model is told.

    Also the answer to a question for approval.
    """

    tool_call_id: ToolCallId
    tool_name: str
    success: bool
    status: Literal["success", "error", "timeout", "cancelled", "interrupted", "rejected"]
    result: tuple[ContentPart, ...] | None = None
    error: str | None = None
    duration_ms: int | None = None
    display_name: str | None = None
    capability_id: str | None = None
    capability_name: str | None = None


class ToolProgressData(Struct, frozen=True, omit_defaults=True):
    """What a running tool says about how far it is; only live."""

    tool_call_id: ToolCallId
    tool_name: str
    message: str
    display_name: str | None = None


class ToolOutputDeltaData(Struct, frozen=True):
    """A piece of a running tool's output; only live."""

    tool_call_id: ToolCallId
    tool_name: str
    delta: str
    stream: Literal["stdout", "stderr"]


class ToolCallRequestedData(Struct, frozen=True, omit_defaults=True):
    """The session waits for a client: to run these calls, or to allow them (`approve_tool_call`)."""

    tool_calls: tuple[ToolCall, ...]
    tool_summaries: tuple[ToolCallSummary, ...] | None = None
    timeout_ms: int = 300_000
    """How long an answer is waited for: 5 minutes for results (wire contract)."""


class ToolCallRepairedData(Struct, frozen=True):
    """A slip in a tool call that was mended; `outcome` says what: name, arguments or name_and_arguments."""

    tool_call_id: ToolCallId
    tool_name: str
    turn_id: TurnId
    outcome: str


class FileWrittenData(Struct, frozen=True):
    """A tool wrote a file of the session."""

    path: str
    operation: str
    created: bool
    size_bytes: int


EVENT_DATA: dict[str, type[Struct]] = {
    "input.message": InputMessageData,
    "output.message.started": OutputMessageStartedData,
    "output.message.delta": OutputMessageDeltaData,
    "output.message.completed": OutputMessageCompletedData,
    "session.started": SessionStartedData,
    "session.activated": SessionActivatedData,
    "session.idled": SessionIdledData,
    "turn.started": TurnStartedData,
    "turn.completed": TurnCompletedData,
    "turn.failed": TurnFailedData,
    "turn.cancelled": TurnCancelledData,
    "turn.sealed": TurnSealedData,
    "reason.started": ReasonStartedData,
    "reason.completed": ReasonCompletedData,
    "reason.thinking.started": ReasonThinkingStartedData,
    "reason.thinking.delta": ReasonThinkingDeltaData,
    "reason.thinking.completed": ReasonThinkingCompletedData,
    "act.started": ActStartedData,
    "act.completed": ActCompletedData,
    "tool.started": ToolStartedData,
    "tool.completed": ToolCompletedData,
    "tool.progress": ToolProgressData,
    "tool.output.delta": ToolOutputDeltaData,
    "tool.call_requested": ToolCallRequestedData,
    "tool.call_repaired": ToolCallRepairedData,
    "llm.generation": LlmGenerationData,
    "context.compacting": ContextCompactingData,
    "context.compacted": ContextCompactedData,
    "file.written": FileWrittenData,
}

LIVE_TYPES = frozenset(
    {"output.message.delta", "reason.thinking.delta", "tool.progress", "tool.output.delta"}
)
"""Kinds that are shown while they happen and never logged: what completes them replaces them."""

RESERVED_TYPES = frozenset(
    f"{family}.{what}"
    for family, whats in {
        "task": ("created", "updated", "message.sent", "message.received"),
        "budget": ("warning", "exceeded", "paused", "resumed"),
        "reason": ("item", "recovered"),
        "transcript": ("repaired",),
        "capability": ("usage",),
        "output.message": ("replaced",),
    }.items()
    for what in whats
)
"""Kinds that the wire contract knows and this server does not emit yet: filters accept them."""

KNOWN_TYPES = frozenset(EVENT_DATA) | RESERVED_TYPES

ENDED_TURN = frozenset({"turn.completed", "turn.failed", "turn.cancelled", "turn.sealed"})
"""Every turn ends with one of these (promise P4)."""


class NewEvent(Struct, frozen=True):
    """An event that is to be appended: sequence and id come with the append."""

    type: str
    data: Struct
    context: EventContext
    ts: Micros
    metadata: JsonObject | None = None
    tags: tuple[str, ...] | None = None

    def decoded(self) -> Any:
        """The data, as `Event.decoded` gives it."""
        return self.data

    def context_struct(self) -> EventContext:
        """The context, as `Event.context_struct` gives it."""
        return self.context


class Event(Struct):
    """An event of the log (or a live one), its data and context still JSON.

    `_wire` remembers the wire form, since one event goes to many followers.
    """

    id: EventId
    session_id: SessionId
    sequence: int
    type: str
    ts: Micros
    context: str
    data: str
    metadata: str | None = None
    tags: str | None = None
    _wire: bytes | None = None

    def wire(self) -> bytes:
        """The event as JSON, as clients see it."""
        if self._wire is None:
            extra = "" if self.metadata is None else f',"metadata":{self.metadata}'
            if self.tags is not None:
                extra += f',"tags":{self.tags}'
            self._wire = (
                f'{{"id":"{self.id}","type":"{self.type}","ts":"{to_rfc3339(self.ts)}","session_id":"{self.session_id}",'
                f'"sequence":{self.sequence},"context":{self.context},"data":{self.data}{extra}}}'
            ).encode()
        return self._wire

    def decoded(self) -> Any:
        """The data as its struct."""
        return decode_data(self.type, self.data)

    def context_struct(self) -> EventContext:
        return _CONTEXT.decode(self.context)


def is_cancel_notice(message: Message, event: Event | NewEvent) -> bool:
    """Whether this `input.message` only says that its turn was cancelled: nobody has to answer it.

    A client may write the same metadata; but the event of what a client wrote names its message.
    """
    return (
        bool(message.metadata and message.metadata.get("cancel_notice"))
        and event.context_struct().input_message_id is None
    )


class WireEvent(Struct, frozen=True, omit_defaults=True):
    """An event as clients see it: the schema of `Event.wire()`, and what the Python client decodes."""

    id: EventId
    type: Annotated[str, Meta(examples=["turn.completed"])]
    ts: Timestamp
    session_id: SessionId
    context: EventContext
    data: Raw
    sequence: int | None = None
    metadata: Any = None
    tags: tuple[str, ...] | None = None


_DECODERS = {kind: msgspec.json.Decoder(data) for kind, data in EVENT_DATA.items()}
_CONTEXT = msgspec.json.Decoder(EventContext)


def decode_data(kind: str, data: str | bytes) -> Any:
    """The data of an event of this kind, as its struct."""
    return _DECODERS[kind].decode(data)
