"""Data of events about a session's turns."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from perdure.domain.ids import (
    AgentId,
    HarnessId,
    MessageId,
    TurnId,
)
from perdure.domain.messages import JsonObject, Usage


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
