"""The data of events about messages."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.data_flow import External
from perdure.domain.event_data import EventData
from perdure.domain.events.fields import (
    ACCUMULATED,
    CALL_USAGE,
    DELTA,
    ERROR_CODE,
    ERROR_DISCLOSURE,
    ERROR_FIELDS,
    ITERATION,
    MESSAGE_ID,
    MODEL,
    TURN_ID,
)
from perdure.domain.feedback import COMMENT, RATING, Rating
from perdure.domain.ids import (
    MessageId,
    ModelIdText,
    ProviderId,
    TurnId,
    UserId,
)
from perdure.domain.messages import JsonObject, Message, Usage
from perdure.domain.speakers import Speaker
from perdure.domain.trace_context import TraceContext

MessageOrigin = Literal["callback", "schedule", "task"]
"""What sends a message that no client sends. Its metadata says more, and proves nothing: clients send any."""


LATE: tuple[MessageOrigin | None, ...] = ("callback", "task")
"""Messages with the result of something that the session had begun. They answer nothing that is asked."""


class InputMessageData(EventData, frozen=True, omit_defaults=True):
    """A message arrived: from a client, or from the server as a note that the user cancelled the turn."""

    kind = "input.message"
    message: Annotated[Message, Meta(description="The message that came in.")]
    queued: Annotated[
        bool,
        Meta(description="Whether it waits for a turn of its own, because a turn was running when it came."),
    ] = False
    origin: Annotated[
        MessageOrigin | None,
        Meta(
            description=(
                "What sent the message, if no client did. `callback`: it is the late result of a call. "
                "`schedule`: its time had come. `task`: it is about a task of the session."
            )
        ),
    ] = None
    addressed: Annotated[
        Speaker | None,
        Meta(description="The participant that the message is for. Absent: the session's own agent."),
    ] = None
    external: Annotated[
        tuple[External, ...],
        Meta(description="Where text from outside in the message, or its sender's context, came from."),
    ] = ()
    trace: Annotated[
        TraceContext | None,
        Meta(
            description=(
                "The span that sent the message, by the `traceparent` of its request; for a sub-agent's "
                "message, the tool call of its parent. Spans of its turn are children of it."
            )
        ),
    ] = None


class OutputMessageStartedData(EventData, frozen=True, omit_defaults=True):
    """A model call begins to write a message. The message keeps its id if another process completes it."""

    kind = "output.message.started"
    turn_id: Annotated[TurnId, TURN_ID]
    message_id: Annotated[MessageId | None, MESSAGE_ID] = None
    model: Annotated[str | None, MODEL] = None
    iteration: Annotated[int | None, ITERATION] = None


class OutputMessageDeltaData(EventData, frozen=True, omit_defaults=True):
    """A new piece of a message's text. Live only: it is not in the log."""

    kind = "output.message.delta"
    turn_id: Annotated[TurnId, TURN_ID]
    delta: Annotated[str, DELTA]
    accumulated: Annotated[str, ACCUMULATED]
    message_id: Annotated[MessageId | None, MESSAGE_ID] = None


class MessageFeedbackData(EventData, frozen=True, omit_defaults=True):
    """A user has rated a message of the agent, or commented on it. Without both, the feedback was removed."""

    kind = "message.feedback"
    message_id: Annotated[MessageId, MESSAGE_ID]
    user_id: Annotated[UserId, Meta(description="The user that gave the feedback.")]
    rating: Annotated[Rating | None, RATING] = None
    comment: Annotated[str | None, COMMENT] = None


class ModelMetadata(Struct, frozen=True, omit_defaults=True):
    model: Annotated[str, MODEL]
    model_id: Annotated[ModelIdText | None, Meta(description="The model's id on this server.")] = None
    provider_id: Annotated[ProviderId | None, Meta(description="The provider that serves the model.")] = None


class OutputMessageCompletedData(EventData, frozen=True, omit_defaults=True):
    """An agent's message is complete: a model's answer, or a text about a failure or a cancel."""

    kind = "output.message.completed"
    message: Annotated[Message, Meta(description="The complete message.")]
    metadata: Annotated[ModelMetadata | None, Meta(description="The model that wrote the message.")] = None
    usage: Annotated[Usage | None, CALL_USAGE] = None
    error_code: Annotated[str | None, ERROR_CODE] = None
    error_fields: Annotated[JsonObject | None, ERROR_FIELDS] = None
    error_disclosure: Annotated[str | None, ERROR_DISCLOSURE] = None
