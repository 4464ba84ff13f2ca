"""Where the events of a turn belong: their contexts, the same for whoever writes them, runner or request.

trace_id is the turn; reason and act are spans under it, a model call is one under reason, tools are spans
under act.
"""

from __future__ import annotations

import msgspec

from perdure.domain.events import EventContext
from perdure.domain.ids import ExecId, MessageId, ToolCallId, TurnId, span_of
from perdure.domain.turn import Calling, Reasoning, Turn


def message_context(turn_id: TurnId, message_id: MessageId | None) -> EventContext:
    """Of a message that begins or steers a turn, and of what happens to the turn as a whole."""
    return EventContext(turn_id, message_id, None, turn_id, span_of(turn_id))


def turn_context(turn: Turn) -> EventContext:
    """Of the turn's own events."""
    return message_context(turn.id, turn.message_id)


def reason_context(turn: Turn, exec_id: ExecId) -> EventContext:
    """Of a model call's beginning and end, and of what it says."""
    return _context(turn, span_of(exec_id), span_of(turn.id), exec_id)


def generation_context(state: Reasoning) -> EventContext:
    """Of the call to the vendor."""
    exec_id = state.exec_id
    return _context(state.turn, span_of(exec_id, "generation"), span_of(exec_id), exec_id)


def compaction_context(turn: Turn, head: int) -> EventContext:
    """Of a compaction that begins behind that sequence; what ends it has the same."""
    return _context(turn, span_of(turn.id, f"compaction/{head}"), span_of(turn.id))


def summary_context(compaction: EventContext, number: int) -> EventContext:
    """Of one of the calls to the vendor that a compaction takes."""
    span = compaction.span_id or ""
    return msgspec.structs.replace(
        compaction, span_id=span_of(span, f"generation/{number}"), parent_span_id=span
    )


def act_context(state: Calling) -> EventContext:
    """Of a batch of tool calls."""
    return _context(state.turn, span_of(state.exec_id, "act"), span_of(state.turn.id), state.exec_id)


def tool_context(state: Calling, call_id: ToolCallId) -> EventContext:
    """Of one tool call; what begins and what completes it share a span, whoever answers it."""
    exec_id = state.exec_id
    return _context(state.turn, span_of(exec_id, call_id), span_of(exec_id, "act"), exec_id)


def _context(turn: Turn, span: str, parent: str, exec_id: ExecId | None = None) -> EventContext:
    return EventContext(turn.id, turn.message_id, exec_id, turn.id, span, parent)
