"""Turns as operators see them: those that run, wait, or were sealed, and any other by its id."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from perdure.domain.errors import InvalidId, NotFound
from perdure.domain.ids import AgentId, SessionId, TurnId, WorkerId, check_id
from perdure.domain.parked import ParkedOn
from perdure.domain.times import Timestamp

STUCK_AFTER = 2
"""Recoveries in a row without progress after which a turn counts as stuck."""

WorkflowStatus = Literal["running", "parked", "pending", "completed", "failed", "cancelled"]
DeadLetterState = Literal["sealed", "stuck"]

WorkflowId = Annotated[
    str,
    Meta(
        description="The id of a turn among all sessions: those of its session and of the turn, with a dot.",
        extra_json_schema={"pattern": r"^session_[0-9a-f]{32}\.(turn_[0-9a-f]{32}|next)$"},
        examples=["session_01920000000070008000000000000001.turn_01920000000070008000000000000002"],
    ),
]
_NEXT = "next"
_REASON = "The turn was recovered 3 times without progress; the server died each time."
_RFC3339 = "2026-01-05T09:30:00.000000Z"


def workflow_id(session_id: SessionId, turn_id: TurnId | None) -> str:
    """Return the id of a turn among all sessions. `turn_id`: None for a turn that is yet to begin."""
    return f"{session_id}.{turn_id or _NEXT}"


def parse_workflow_id(text: str) -> tuple[SessionId, TurnId | None]:
    """Return the session and the turn. Raises NotFound."""
    session_id, _, turn_id = text.partition(".")
    try:
        return (
            check_id(session_id, "session", "workflow_id"),
            None if turn_id == _NEXT else check_id(turn_id, "turn", "workflow_id"),
        )
    except InvalidId:
        raise NotFound("turn", code="workflow_not_found") from None


class TurnRef(Struct, frozen=True, omit_defaults=True):
    """Which turn it is."""

    session_id: Annotated[SessionId, Meta(description="Its session.")]
    turn_id: Annotated[
        TurnId | None, Meta(description="The turn. Absent: it is yet to begin, so it has no id.")
    ] = None
    agent_id: Annotated[AgentId | None, Meta(description="The session's agent, if it has one.")] = None


class WorkflowError(Struct, frozen=True):
    """Why a turn has failed."""

    code: Annotated[str, Meta(description="The code of the failure.", examples=["no_progress"])]
    message: Annotated[str, Meta(description="The reason, for people.", examples=[_REASON])]


class Workflow(Struct, frozen=True, omit_defaults=True):
    """A turn."""

    id: WorkflowId
    workflow_type: Annotated[Literal["turn"], Meta(description="Always `turn`.")]
    status: Annotated[
        WorkflowStatus,
        Meta(
            description=(
                "`running`: a process has taken it; `parked`: it waits for what `parked_on` says; "
                "`pending`: it waits for a process, or for the turns before; `failed`: it failed or was"
                " sealed."
            ),
            examples=["running"],
        ),
    ]
    input: Annotated[TurnRef, Meta(description="Which turn it is.")]
    created_at: Annotated[Timestamp, Meta(description="When its message came.", examples=[_RFC3339])]
    age_seconds: Annotated[
        int, Meta(description="How long ago that was, or how long the turn took.", examples=[12])
    ]
    recoveries: Annotated[
        int,
        Meta(description="How often it was taken over in a row without progress.", examples=[0]),
    ]
    parked_on: Annotated[
        tuple[ParkedOn, ...], Meta(description="What it waits for; also calls of a turn that runs.")
    ] = ()
    worker_id: Annotated[
        WorkerId | None,
        Meta(description="The process that runs it. Absent: it is not known, as for turns of a few seconds."),
    ] = None
    completed_at: Annotated[Timestamp | None, Meta(description="When it ended.")] = None
    error: Annotated[WorkflowError | None, Meta(description="Why it failed or was sealed.")] = None


class Workflows(Struct, frozen=True):
    """A page of turns."""

    data: Annotated[tuple[Workflow, ...], Meta(description="The turns of this page, oldest first.")]
    total: Annotated[
        int, Meta(description="How many there are. From 2,000 on, there may be more.", examples=[1])
    ]


class WorkflowEvent(Struct, frozen=True):
    """An event of a turn."""

    id: Annotated[int, Meta(description="The same as `sequence_num`.", examples=[7])]
    workflow_id: WorkflowId
    sequence_num: Annotated[int, Meta(description="The event's sequence in its session's log.", examples=[7])]
    event_type: Annotated[str, Meta(description="The type of event.", examples=["turn.started"])]
    event_data: Annotated[
        Raw,
        Meta(
            description="The event's data.", examples=[{"turn_id": "turn_01920000000070008000000000000002"}]
        ),
    ]
    created_at: Annotated[Timestamp, Meta(description="When it was logged.", examples=[_RFC3339])]


class WorkflowEvents(Struct, frozen=True, omit_defaults=True):
    """The events of a turn."""

    data: Annotated[tuple[WorkflowEvent, ...], Meta(description="The events, oldest first.")]
    total: Annotated[int, Meta(description="How many events the answer has.", examples=[9])]
    has_more: Annotated[
        bool, Meta(description="Whether more follow: continue with `after_sequence`. Otherwise absent.")
    ] = False


class DeadLetter(Struct, frozen=True):
    """A turn that was sealed, or that makes no progress."""

    id: Annotated[WorkflowId, Meta(description="The same as `workflow_id`.")]
    workflow_id: WorkflowId
    state: Annotated[
        DeadLetterState,
        Meta(
            description=(
                "`sealed`: it was given up, and its session takes messages; `stuck`: it was recovered twice "
                "or more without progress, and is tried again."
            ),
            examples=["sealed"],
        ),
    ]
    original_task_id: Annotated[
        str,
        Meta(
            description="The turn's id; empty if it has none yet.",
            examples=["turn_01920000000070008000000000000002"],
        ),
    ]
    activity_id: Annotated[
        str, Meta(description="The session's id.", examples=["session_01920000000070008000000000000001"])
    ]
    activity_type: Annotated[Literal["turn"], Meta(description="Always `turn`.")]
    input: Annotated[TurnRef, Meta(description="Which turn it is.")]
    attempts: Annotated[
        int, Meta(description="How often it was recovered; 0 if a release before did not say.", examples=[3])
    ]
    last_error: Annotated[str, Meta(description="The reason, for people.", examples=[_REASON])]
    error_history: Annotated[
        tuple[str, ...], Meta(description="The same as `last_error`.", examples=[[_REASON]])
    ]
    dead_at: Annotated[
        Timestamp,
        Meta(description="When it was sealed; of a stuck one: when its message came.", examples=[_RFC3339]),
    ]


class DeadLetters(Struct, frozen=True):
    """A page of dead letters."""

    data: Annotated[tuple[DeadLetter, ...], Meta(description="Sealed ones first, newest first.")]
    total: Annotated[
        int, Meta(description="How many there are. From 2,000 on, there may be more.", examples=[0])
    ]


class Retried(Struct, frozen=True, omit_defaults=True):
    """The answer to a retry."""

    workflow_id: Annotated[WorkflowId, Meta(description="The turn that works on it now.")]
    message_id: Annotated[
        str | None,
        Meta(description="The message that was posted again. Absent: the turn itself is tried again."),
    ] = None
