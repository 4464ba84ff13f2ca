"""Runs: a message, the turn that handles it, and the turn's result."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.ids import ModelIdText, SessionId, TurnId
from perdure.domain.layer_fields import (
    INITIAL_FILES,
    OUTPUT_SCHEMA,
    RESPONSE_FORMAT,
    TAGS,
    VARIABLE_VALUES,
)
from perdure.domain.messages import MAX_TEXT, InputMessage, JsonValue, Message, Usage, at_most
from perdure.domain.outputs import OutputSchema, ResponseFormat
from perdure.domain.parked import ParkedOn
from perdure.domain.resources import Files
from perdure.domain.session_answers import TurnProblem
from perdure.domain.session_metadata import METADATA, MetadataValue
from perdure.domain.sessions import Tags, Title
from perdure.domain.variables import VariableValues

MAX_WAIT = 300
"""Seconds that one request waits at most."""
LINKED_WAIT = 30
"""Seconds that the link for waiting again waits: less than most proxies and clients allow."""

RunStatus = Literal["completed", "failed", "cancelled", "running", "waiting"]

_STATUS = Meta(
    description=(
        "`completed`: the answer is there; `failed` or `cancelled`: the turn has ended without one; "
        "`running`: it has not ended, or not begun; `waiting`: somebody must answer first, see `waiting_on`."
    ),
    examples=["completed"],
)


class RunTurn(Struct, frozen=True, omit_defaults=True):
    """The turn that handles a message."""

    id: Annotated[
        TurnId,
        Meta(description="The turn's id.", examples=["turn_0192f0c1b2a37b5c8d4e5f60718293a4"]),
    ]
    status: Annotated[RunStatus, _STATUS]
    error: Annotated[TurnProblem | None, Meta(description="Why the turn ended without an answer.")] = None
    usage: Annotated[Usage | None, Meta(description="The tokens of all model calls of the turn.")] = None
    duration_ms: Annotated[int | None, Meta(description="How long the turn took, in milliseconds.")] = None
    iterations: Annotated[int | None, Meta(description="The number of model calls.")] = None
    tool_call_count: Annotated[int | None, Meta(description="The number of tool calls.")] = None


class RunLinks(Struct, frozen=True):
    """Where a run goes on."""

    session: Annotated[
        str,
        Meta(description="The session.", examples=["/v1/sessions/session_0192f0c1b2a37b5c8d4e5f60718293a4"]),
    ]
    events: Annotated[
        str,
        Meta(
            description="The events after the message.",
            examples=["/v1/sessions/session_0192f0c1b2a37b5c8d4e5f60718293a4/events?after_sequence=2"],
        ),
    ]
    stream: Annotated[
        str,
        Meta(
            description="The live stream of the events after the message.",
            examples=["/v1/sessions/session_0192f0c1b2a37b5c8d4e5f60718293a4/sse?after_sequence=2"],
        ),
    ]
    wait: Annotated[
        str,
        Meta(
            description="GET it to wait for the result again.",
            examples=["/v1/sessions/session_0192f0c1b2a37b5c8d4e5f60718293a4/result?sequence=2&wait=30"],
        ),
    ]
    inbox: Annotated[
        str,
        Meta(
            description="What the session waits for that people decide.",
            examples=["/v1/inbox?session_id=session_0192f0c1b2a37b5c8d4e5f60718293a4"],
        ),
    ]


class RunResult(Struct, frozen=True, omit_defaults=True):
    """A message, and the result of the turn that handles it."""

    session_id: Annotated[
        SessionId,
        Meta(
            description="The session of the message.",
            examples=["session_0192f0c1b2a37b5c8d4e5f60718293a4"],
        ),
    ]
    status: Annotated[RunStatus, _STATUS]
    message: Annotated[Message, Meta(description="The message that was sent.")]
    links: Annotated[RunLinks, Meta(description="Where the run goes on.")]
    answer: Annotated[
        Message | None, Meta(description="The agent's final message, once the turn is completed.")
    ] = None
    output: Annotated[JsonValue, Meta(description="The value of the answer, if a schema was set for it.")] = (
        None
    )
    turn: Annotated[RunTurn | None, Meta(description="The turn that handles the message.")] = None
    waiting_on: Annotated[
        tuple[ParkedOn, ...],
        Meta(description="What the turn waits for: results of tool calls, or a budget (`budget_id`)."),
    ] = ()

    @property
    def has_ended(self) -> bool:
        """Whether the turn has ended, in whatever way."""
        return self.status in ("completed", "failed", "cancelled")


class StartedRun(Struct, frozen=True):
    """A message that was sent: its session, and its place in the log."""

    session_id: SessionId
    sequence: int


class CreateRun(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/runs`."""

    message: Annotated[
        Annotated[str, at_most(MAX_TEXT)] | InputMessage,
        Meta(description="The user's message: a text, or a message with parts.", examples=["Hello."]),
    ]
    agent: Annotated[
        Annotated[str, Meta(min_length=1, max_length=100)] | None,
        Meta(description="The id or the name of the agent that works on it."),
    ] = None
    harness: Annotated[
        Annotated[str, Meta(min_length=1, max_length=100)] | None,
        Meta(description="The id or the name of the harness. Without it: that of the agent."),
    ] = None
    output_schema: Annotated[OutputSchema | None, OUTPUT_SCHEMA] = None
    response_format: Annotated[ResponseFormat | None, RESPONSE_FORMAT] = None
    variables: Annotated[VariableValues, VARIABLE_VALUES] = {}
    files: Annotated[Files, INITIAL_FILES] = ()
    metadata: Annotated[dict[str, MetadataValue], METADATA] = {}
    title: Annotated[Title | None, Meta(description="The session's title.")] = None
    tags: Annotated[Tags, TAGS] = ()
    model_id: Annotated[ModelIdText | None, Meta(description="The model to use.")] = None
