"""Data of events about messages."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.ids import (
    MessageId,
    ProviderId,
    TurnId,
)
from perdure.domain.messages import JsonObject, Message, Usage


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
