"""Events: the entries of a session's log, and the live deltas that are not logged.

Each kind of event has a class for its data, which names the kind; `EVENT_DATA` lists them. A stored event's
data stays JSON until a reader decodes it.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from perdure.domain.compaction import ContextCompactedData, ContextCompactingData
from perdure.domain.errors import UnreadableEvent
from perdure.domain.event_data import EventData
from perdure.domain.events.agents import (
    ParticipantJoinedData,
    ParticipantLeftData,
    SessionHandedOffData,
)
from perdure.domain.events.budgets import (
    BudgetEventData,
    BudgetExceededData,
    BudgetExhaustedData,
    BudgetPausedData,
    BudgetResumedData,
    BudgetWarningData,
)
from perdure.domain.events.fields import INPUT_MESSAGE_ID, TURN_ID
from perdure.domain.events.guardrails import GuardrailHitData, OutputMessageReplacedData
from perdure.domain.events.messages import (
    LATE,
    InputMessageData,
    MessageFeedbackData,
    MessageOrigin,
    ModelMetadata,
    OutputMessageCompletedData,
    OutputMessageDeltaData,
    OutputMessageStartedData,
)
from perdure.domain.events.model_calls import (
    HistoryAdaptation,
    LlmGenerationData,
    LlmGenerationMetadata,
    LlmGenerationOutput,
    LlmRetryInfo,
    PromptRef,
    ReasonCompletedData,
    ReasonStartedData,
    ReasonThinkingCompletedData,
    ReasonThinkingDeltaData,
    ReasonThinkingStartedData,
)
from perdure.domain.events.outputs import OutputAcceptedData, OutputRejectedData
from perdure.domain.events.patience import (
    CIRCUIT_OPEN,
    OutputMessageWithdrawnData,
    ReasonFallbackData,
    SkippedModel,
    TurnParkedData,
    TurnResumedData,
)
from perdure.domain.events.policies import ChangedText, HookDecidedData
from perdure.domain.events.tasks import (
    TaskCreatedData,
    TaskMessageReceivedData,
    TaskMessageSentData,
    TaskReportedData,
    TaskUpdatedData,
)
from perdure.domain.events.tools import (
    ActCompletedData,
    ActStartedData,
    FileWrittenData,
    ToolCall,
    ToolCallRepairedData,
    ToolCallRequestedData,
    ToolCallSummary,
    ToolCompletedData,
    ToolOutputDeltaData,
    ToolParkedData,
    ToolProgressData,
    ToolResumedData,
    ToolsLoadedData,
    ToolStartedData,
    ToolStatus,
    ToolStepData,
    ToolVerifiedData,
)
from perdure.domain.events.turns import (
    SessionActivatedData,
    SessionIdledData,
    SessionStartedData,
    TurnCancelledData,
    TurnCompletedData,
    TurnFailedData,
    TurnSealedData,
    TurnStartedData,
)
from perdure.domain.ids import EventId, ExecId, MessageId, SessionId, TurnId, TurnIdText
from perdure.domain.messages import JsonObject, Message
from perdure.domain.times import Micros, Timestamp, to_rfc3339

__all__ = [
    "CIRCUIT_OPEN",
    "ENDED_TURN",
    "EVENT_DATA",
    "KNOWN_TYPES",
    "LATE",
    "LIVE_TYPES",
    "RESERVED_TYPES",
    "ActCompletedData",
    "ActStartedData",
    "AnyEvent",
    "BudgetEventData",
    "BudgetExceededData",
    "BudgetExhaustedData",
    "BudgetPausedData",
    "BudgetResumedData",
    "BudgetWarningData",
    "ChangedText",
    "ContextCompactedData",
    "ContextCompactingData",
    "Event",
    "EventContext",
    "FileWrittenData",
    "GuardrailHitData",
    "HistoryAdaptation",
    "HookDecidedData",
    "InputMessageData",
    "LlmGenerationData",
    "LlmGenerationMetadata",
    "LlmGenerationOutput",
    "LlmRetryInfo",
    "MessageFeedbackData",
    "MessageOrigin",
    "ModelMetadata",
    "NewEvent",
    "OutputAcceptedData",
    "OutputMessageCompletedData",
    "OutputMessageDeltaData",
    "OutputMessageReplacedData",
    "OutputMessageStartedData",
    "OutputMessageWithdrawnData",
    "OutputRejectedData",
    "ParticipantJoinedData",
    "ParticipantLeftData",
    "PromptRef",
    "ReasonCompletedData",
    "ReasonFallbackData",
    "ReasonStartedData",
    "ReasonThinkingCompletedData",
    "ReasonThinkingDeltaData",
    "ReasonThinkingStartedData",
    "SessionActivatedData",
    "SessionHandedOffData",
    "SessionIdledData",
    "SessionStartedData",
    "SkippedModel",
    "TaskCreatedData",
    "TaskMessageReceivedData",
    "TaskMessageSentData",
    "TaskReportedData",
    "TaskUpdatedData",
    "ToolCall",
    "ToolCallRepairedData",
    "ToolCallRequestedData",
    "ToolCallSummary",
    "ToolCompletedData",
    "ToolOutputDeltaData",
    "ToolParkedData",
    "ToolProgressData",
    "ToolResumedData",
    "ToolStartedData",
    "ToolStatus",
    "ToolStepData",
    "ToolVerifiedData",
    "ToolsLoadedData",
    "TurnCancelledData",
    "TurnCompletedData",
    "TurnFailedData",
    "TurnParkedData",
    "TurnResumedData",
    "TurnSealedData",
    "TurnStartedData",
    "WireEvent",
    "decode_data",
    "is_cancel_notice",
]


class EventContext(Struct, frozen=True, omit_defaults=True):
    """The turn, the execution and the span that an event belongs to; see `domain/spans.py`."""

    turn_id: Annotated[TurnId | None, TURN_ID] = None
    input_message_id: Annotated[MessageId | None, INPUT_MESSAGE_ID] = None
    exec_id: Annotated[
        ExecId | None,
        Meta(description="The execution: one model call and the tool calls that it requested."),
    ] = None
    trace_id: Annotated[
        TurnIdText | None, Meta(description="The trace that the event belongs to: the turn's id.")
    ] = None
    span_id: Annotated[
        str | None,
        Meta(
            description="The span that the event belongs to. The events that start and end a span share it."
        ),
    ] = None
    parent_span_id: Annotated[str | None, Meta(description="The span that contains this one.")] = None


_CLASSES: tuple[type[EventData], ...] = (
    InputMessageData,
    OutputMessageStartedData,
    OutputMessageDeltaData,
    OutputMessageCompletedData,
    OutputAcceptedData,
    OutputRejectedData,
    OutputMessageWithdrawnData,
    OutputMessageReplacedData,
    GuardrailHitData,
    MessageFeedbackData,
    SessionStartedData,
    SessionActivatedData,
    SessionIdledData,
    SessionHandedOffData,
    ParticipantJoinedData,
    ParticipantLeftData,
    TurnStartedData,
    TurnParkedData,
    TurnResumedData,
    TurnCompletedData,
    TurnFailedData,
    TurnCancelledData,
    TurnSealedData,
    ReasonStartedData,
    ReasonCompletedData,
    ReasonFallbackData,
    ReasonThinkingStartedData,
    ReasonThinkingDeltaData,
    ReasonThinkingCompletedData,
    ActStartedData,
    ActCompletedData,
    ToolStartedData,
    ToolParkedData,
    ToolResumedData,
    ToolStepData,
    ToolVerifiedData,
    ToolCompletedData,
    ToolProgressData,
    ToolOutputDeltaData,
    ToolCallRequestedData,
    ToolCallRepairedData,
    ToolsLoadedData,
    LlmGenerationData,
    HookDecidedData,
    ContextCompactingData,
    ContextCompactedData,
    FileWrittenData,
    TaskCreatedData,
    TaskUpdatedData,
    TaskMessageSentData,
    TaskMessageReceivedData,
    TaskReportedData,
    BudgetWarningData,
    BudgetExceededData,
    BudgetExhaustedData,
    BudgetPausedData,
    BudgetResumedData,
)

EVENT_DATA = {data.kind: data for data in _CLASSES}
"""By kind: the class of the event's data."""

LIVE_TYPES = frozenset(
    data.kind
    for data in (OutputMessageDeltaData, ReasonThinkingDeltaData, ToolProgressData, ToolOutputDeltaData)
)
"""Kinds that are published live and never logged: the event that completes them contains their text."""

RESERVED_TYPES = frozenset(
    f"{family}.{name}"
    for family, names in {
        "reason": ("item", "recovered"),
        "transcript": ("repaired",),
        "capability": ("usage",),
    }.items()
    for name in names
)
"""Kinds of the wire contract that this server does not emit yet; filters accept them."""

KNOWN_TYPES = frozenset(EVENT_DATA) | RESERVED_TYPES

ENDED_TURN = frozenset(
    data.kind for data in (TurnCompletedData, TurnFailedData, TurnCancelledData, TurnSealedData)
)
"""The kinds that end a turn. Every turn ends with exactly one of them (promise P4)."""

Data = TypeVar("Data", bound=EventData)
DataClass = type[Data]


class NewEvent(Struct, frozen=True):
    """An event to append; the append sets its sequence and id."""

    data: EventData
    context: EventContext
    ts: Micros
    metadata: JsonObject | None = None
    tags: tuple[str, ...] | None = None

    @property
    def type(self) -> str:
        """The kind of its data."""
        return self.data.kind

    def decoded(self) -> EventData:
        """The data, as in `Event.decoded`."""
        return self.data

    def get(self, kind: DataClass[Data]) -> Data | None:
        """The data if it is of this class, else None, as in `Event.get`."""
        return self.data if isinstance(self.data, kind) else None

    def read(self, kind: DataClass[Data]) -> Data:
        """The data, which is of this class, as in `Event.read`."""
        if not isinstance(self.data, kind):
            raise _other_kind(self.type, kind)
        return self.data

    def context_struct(self) -> EventContext:
        """The context, as in `Event.context_struct`."""
        return self.context


class Event(Struct):
    """A logged or live event, with its data and context as JSON.

    `_wire` caches the wire format, because one event is sent to many followers.
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
        """The event in the wire format: the JSON of a `WireEvent`."""
        if self._wire is None:
            extra = "" if self.metadata is None else f',"metadata":{self.metadata}'
            if self.tags is not None:
                extra += f',"tags":{self.tags}'
            self._wire = (
                f'{{"id":"{self.id}","type":"{self.type}","ts":"{to_rfc3339(self.ts)}",'
                f'"session_id":"{self.session_id}",'
                f'"sequence":{self.sequence},"context":{self.context},"data":{self.data}{extra}}}'
            ).encode()
        return self._wire

    def decoded(self) -> EventData:
        """Decode the data. Raises UnreadableEvent, as the methods below do."""
        try:
            return decode_data(self.type, self.data)
        except _DAMAGES as error:
            raise self._unreadable() from error

    def get(self, kind: DataClass[Data]) -> Data | None:
        """Decode the data if it is of this class, else return None."""
        return self._decoded_as(kind) if self.type == kind.kind else None

    def read(self, kind: DataClass[Data]) -> Data:
        """Decode the data, which is of this class.

        Raises:
            TypeError: the data is of another class.
        """
        if self.type != kind.kind:
            raise _other_kind(self.type, kind)
        return self._decoded_as(kind)

    def context_struct(self) -> EventContext:
        """Decode the context."""
        try:
            return _CONTEXT.decode(self.context)
        except _DAMAGES as error:
            raise self._unreadable() from error

    def _decoded_as(self, kind: DataClass[Data]) -> Data:
        try:
            return msgspec.json.decode(self.data, type=kind)
        except _DAMAGES as error:
            raise self._unreadable() from error

    def _unreadable(self) -> UnreadableEvent:
        return UnreadableEvent(self.session_id, self.sequence, self.type)


_DAMAGES = (msgspec.DecodeError, UnicodeError, RecursionError, KeyError)
"""What decoding raises if a row is damaged, or its type is unknown."""


def _other_kind(actual: str, expected: type[EventData]) -> TypeError:
    return TypeError(f"cannot read the data of a {actual} event as {expected.__name__}")


AnyEvent = Event | NewEvent
"""Folds accept both: the log has no gaps, so they can count the sequences of new events."""


def is_cancel_notice(message: Message, event: AnyEvent) -> bool:
    """Whether this `input.message` is the server's note about a cancel, which needs no answer.

    The metadata alone is no proof, because clients can send the same. But events of client messages have the
    message's id in their context.
    """
    return (
        bool(message.metadata and message.metadata.get("cancel_notice"))
        and event.context_struct().input_message_id is None
    )


class WireEvent(Struct, frozen=True, omit_defaults=True):
    """Something that happened in a session: an entry of its log, or a live event that is not stored."""

    # The schema of `Event.wire()`, and what the Python client decodes.

    id: Annotated[
        EventId, Meta(description="The event's id.", examples=["event_0192f0c1b2a37b5c8000000000c2d3e4"])
    ]
    type: Annotated[str, Meta(description="The type of event.", examples=["turn.started"])]
    ts: Annotated[Timestamp, Meta(description="When the event happened.")]
    session_id: Annotated[SessionId, Meta(description="The session that the event belongs to.")]
    context: Annotated[
        EventContext,
        Meta(
            description="The turn, the model call and the span that the event belongs to.",
            examples=[
                {
                    "turn_id": "turn_0192f0c1b2a37b5c8d4e5f60718293a4",
                    "input_message_id": "message_0192f0c1b2a37b5c8d4e5f60718293a4",
                    "trace_id": "turn_0192f0c1b2a37b5c8d4e5f60718293a4",
                    "span_id": "8d4e5f60718293a4",
                }
            ],
        ),
    ]
    data: Annotated[
        Raw,
        Meta(
            description="The details. Their structure depends on `type`.",
            examples=[
                {
                    "turn_id": "turn_0192f0c1b2a37b5c8d4e5f60718293a4",
                    "input_message_id": "message_0192f0c1b2a37b5c8d4e5f60718293a4",
                    "input_content": "What is the capital of France?",
                }
            ],
        ),
    ]
    sequence: Annotated[
        int | None,
        Meta(
            description=(
                "The event's number in the session's log: 1, 2, "
                "3 and so on, without gaps. Absent on live events."
            ),
            examples=[3],
        ),
    ] = None
    metadata: Annotated[Any, Meta(description="The metadata that the client sent with the message.")] = None
    tags: Annotated[
        tuple[str, ...] | None, Meta(description="The tags that the client sent with the message.")
    ] = None

    def read(self, kind: DataClass[Data]) -> Data:
        """Decode the data, which is of this class. Raises DecodeError."""
        return msgspec.json.decode(self.data, type=kind)

    def context_struct(self) -> EventContext:
        """The context, as in `Event.context_struct`."""
        return self.context


_DECODERS = {kind: msgspec.json.Decoder(data) for kind, data in EVENT_DATA.items()}
_CONTEXT = msgspec.json.Decoder(EventContext)


def decode_data(kind: str, data: str | bytes) -> EventData:
    """Decode the data of an event of this kind."""
    return _DECODERS[kind].decode(data)
