"""A running turn, and what it has used so far."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.fallbacks import Fallback
from perdure.domain.ids import MessageId, TurnId
from perdure.domain.messages import Usage
from perdure.domain.outputs import OutputSchema
from perdure.domain.speakers import Speaker
from perdure.domain.times import Micros
from perdure.domain.trace_context import TraceContext

NO_USAGE = Usage(0, 0)


class Turn(Struct, frozen=True):
    """A running turn, and what it has used so far.

    Attributes:
        message_id: the message that began it; input_content: the start of its text.
        last_calls: the tool calls of the last answer as JSON, to compare with the next ones; repeats: how
            often in a row the calls were the same as before.
        truncated: how many answers in a row reached their limit in the middle of a tool call.
        interruptions: how many answers in a row, before the last one, had a call that was interrupted.
        output_schema: the schema that a message set for the turn's final answer; None leaves that to the
            session and the agent.
        requested: the model that the last model call was asked to use, None for the configured one.
        fallback: the model that is used instead, if one did not answer.
        parked_since: when it was parked first, since the last answer.
        speaker: the participant whose turn it is; None for the session's own agent.
        trace: the span that sent the message that began it.
        rejected: how many final answers did not match their schema; problems: what was wrong with the last.
    """

    id: TurnId
    message_id: MessageId
    input_content: str | None
    started_at: Micros
    iterations: int = 0
    llm_calls: int = 0
    tool_calls: int = 0
    usage: Usage = NO_USAGE
    time_to_first_token_ms: int | None = None
    last_calls: str = ""
    repeats: int = 0
    truncated: int = 0
    interruptions: int = 0
    output_schema: OutputSchema | None = None
    rejected: int = 0
    problems: tuple[str, ...] = ()
    requested: str | None = None
    fallback: Fallback | None = None
    parked_since: Micros | None = None
    speaker: Speaker | None = None
    trace: TraceContext | None = None
