"""The data of events about a session and its turns."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from perdure.domain.data_flow import External
from perdure.domain.event_data import EventData
from perdure.domain.events.fields import (
    ERROR,
    ERROR_CODE,
    ERROR_DISCLOSURE,
    ERROR_FIELDS,
    INPUT_MESSAGE_ID,
    MODEL_CALL_COUNT,
    TIME_TO_FIRST_TOKEN_MS,
    TOOL_CALL_COUNT,
    TURN_ID,
    TURN_USAGE,
)
from perdure.domain.ids import (
    AgentId,
    HarnessId,
    MessageId,
    ModelIdText,
    TurnId,
)
from perdure.domain.messages import JsonObject, JsonValue, Message, Usage
from perdure.domain.speakers import Speaker

_INPUT_CONTENT = Meta(description="The start of the message that started the turn.")


class SessionStartedData(EventData, frozen=True, omit_defaults=True):
    """The session was created; always the first event."""

    kind = "session.started"
    harness_id: Annotated[HarnessId, Meta(description="The harness of the session.")]
    agent_id: Annotated[AgentId | None, Meta(description="The agent that works in the session.")] = None
    model_id: Annotated[
        ModelIdText | None, Meta(description="The model that the session was created with.")
    ] = None
    external: Annotated[
        tuple[External, ...],
        Meta(description="With a sub-agent's session: where text from outside in its parent's came from."),
    ] = ()


class SessionActivatedData(EventData, frozen=True):
    """The session begins to work on a message, or continues after the last pending approval."""

    kind = "session.activated"
    turn_id: Annotated[TurnId, TURN_ID]
    input_message_id: Annotated[MessageId, INPUT_MESSAGE_ID]


class SessionIdledData(EventData, frozen=True, omit_defaults=True):
    """The session is idle: it waits for a message."""

    kind = "session.idled"
    turn_id: Annotated[TurnId, Meta(description="The turn that ended.")]
    iterations: Annotated[int | None, MODEL_CALL_COUNT] = None
    usage: Annotated[Usage | None, TURN_USAGE] = None


class TurnStartedData(EventData, frozen=True, omit_defaults=True):
    """A turn begins."""

    kind = "turn.started"
    turn_id: Annotated[TurnId, TURN_ID]
    input_message_id: Annotated[MessageId, INPUT_MESSAGE_ID]
    input_content: Annotated[str | None, _INPUT_CONTENT] = None
    message: Annotated[
        Message | None,
        Meta(
            description=(
                "The message, if it waited for this turn: it follows the messages of the turns before."
            )
        ),
    ] = None
    speaker: Annotated[
        Speaker | None,
        Meta(description="The participant whose turn it is. Absent: the session's own agent."),
    ] = None


class TurnCompletedData(EventData, frozen=True, omit_defaults=True):
    """A turn ended successfully, with its totals."""

    kind = "turn.completed"
    turn_id: Annotated[TurnId, TURN_ID]
    iterations: Annotated[int, MODEL_CALL_COUNT]
    status: Annotated[str | None, Meta(description="How the turn ended.")] = None
    duration_ms: Annotated[int | None, Meta(description="How long the turn took, in milliseconds.")] = None
    usage: Annotated[Usage | None, TURN_USAGE] = None
    llm_call_count: Annotated[int | None, MODEL_CALL_COUNT] = None
    tool_call_count: Annotated[int | None, TOOL_CALL_COUNT] = None
    time_to_first_token_ms: Annotated[int | None, TIME_TO_FIRST_TOKEN_MS] = None
    final_message_id: Annotated[MessageId | None, Meta(description="The message that answers the user.")] = (
        None
    )
    final_answer_preview: Annotated[str | None, Meta(description="The start of the answer.")] = None
    input_content: Annotated[str | None, _INPUT_CONTENT] = None
    output: Annotated[
        JsonValue,
        Meta(description="The value of the final answer, if a schema was set for it."),
    ] = None


class TurnFailedData(EventData, frozen=True, omit_defaults=True):
    """A turn failed. The message before this event explains it to people."""

    kind = "turn.failed"
    turn_id: Annotated[TurnId, TURN_ID]
    error: Annotated[str, ERROR]
    error_code: Annotated[str | None, ERROR_CODE] = None
    error_fields: Annotated[JsonObject | None, ERROR_FIELDS] = None
    error_disclosure: Annotated[str | None, ERROR_DISCLOSURE] = None
    usage: Annotated[Usage | None, TURN_USAGE] = None


class TurnCancelledData(EventData, frozen=True, omit_defaults=True):
    """A turn was cancelled, or its session was deleted."""

    kind = "turn.cancelled"
    turn_id: Annotated[TurnId, TURN_ID]
    reason: Annotated[str | None, Meta(description="Why the turn was cancelled.")] = None
    usage: Annotated[Usage | None, TURN_USAGE] = None


class TurnSealedData(EventData, frozen=True, omit_defaults=True):
    """A turn was stopped permanently: recovered too often without progress, or a budget is used up."""

    kind = "turn.sealed"
    turn_id: Annotated[TurnId, TURN_ID]
    reason: Annotated[
        Literal["no_progress", "budget"],
        Meta(
            description="`no_progress`: recovered too often without progress; `budget`: a budget is used up."
        ),
    ]
    detail: Annotated[str | None, Meta(description="The reason, for people.")] = None
    iterations: Annotated[int | None, MODEL_CALL_COUNT] = None
    usage: Annotated[Usage | None, TURN_USAGE] = None
    recoveries: Annotated[
        int | None, Meta(description="With `no_progress`: how often the turn was recovered before.")
    ] = None
