"""Where the events of a turn belong: their contexts, the same for whoever writes them, runner or request.

trace_id is the turn; reason and act are spans under it, a model call is one under reason, tools are spans
under act.
"""

from __future__ import annotations

import msgspec

from perdure.domain.events import EventContext
from perdure.domain.ids import (
    ExecId,
    MessageId,
    ToolCallId,
    TurnId,
    span_of,
)
from perdure.domain.turn import TurnState


def message_context(turn_id: TurnId, message_id: MessageId | None) -> EventContext:
    """Of a message that begins or steers a turn, and of what happens to the turn as a whole."""
    return EventContext(turn_id, message_id, None, turn_id, span_of(turn_id))


def turn_context(state: TurnState) -> EventContext:
    """Of the turn's own events."""
    return _context(state, span_of(state.turn_id or ""), None)


def reason_context(state: TurnState) -> EventContext:
    """Of a model call's beginning and end, and of what it says."""
    exec_id = state.exec_id or ""
    return _context(state, span_of(exec_id), span_of(state.turn_id or ""), exec_id)


def generation_context(state: TurnState) -> EventContext:
    """Of the call to the vendor."""
    exec_id = state.exec_id or ""
    return _context(state, span_of(exec_id, "generation"), span_of(exec_id), exec_id)


def compaction_context(state: TurnState) -> EventContext:
    """Of a compaction that begins now; what ends it has the same."""
    turn_id = state.turn_id or ""
    return _context(state, span_of(turn_id, f"compaction/{state.head}"), span_of(turn_id))


def summary_context(compaction: EventContext, number: int) -> EventContext:
    """Of one of the calls to the vendor that a compaction takes."""
    span = compaction.span_id or ""
    return msgspec.structs.replace(
        compaction, span_id=span_of(span, f"generation/{number}"), parent_span_id=span
    )


def act_context(state: TurnState) -> EventContext:
    """Of a batch of tool calls."""
    exec_id = state.exec_id or ""
    return _context(state, span_of(exec_id, "act"), span_of(state.turn_id or ""), exec_id)


def tool_context(state: TurnState, call_id: ToolCallId) -> EventContext:
    """Of one tool call; what begins and what completes it share a span, whoever answers it."""
    exec_id = state.exec_id or ""
    return _context(state, span_of(exec_id, call_id), span_of(exec_id, "act"), exec_id)


def _context(state: TurnState, span: str, parent: str | None, exec_id: ExecId | None = None) -> EventContext:
    return EventContext(state.turn_id, state.input_message_id, exec_id, state.turn_id, span, parent)
