"""The contexts of a turn's events. Ids are deterministic, so runners and requests write the same ones.

The trace is the turn. Its spans are `reason` and `act`; the call to the vendor is a span under `reason`, and
tools are spans under `act`.
"""

from __future__ import annotations

import msgspec

from perdure.domain.events import EventContext
from perdure.domain.ids import ExecId, MessageId, ToolCallId, TurnId, span_of
from perdure.domain.turn import Calling, Reasoning
from perdure.domain.turn_totals import Turn


def message_context(turn_id: TurnId, message_id: MessageId | None) -> EventContext:
    """The context of a message that begins or steers a turn, and of events about the turn as a whole."""
    return EventContext(turn_id, message_id, None, turn_id, span_of(turn_id))


def turn_context(turn: Turn) -> EventContext:
    """The context of events about the turn as a whole."""
    return message_context(turn.id, turn.message_id)


def reason_context(turn: Turn, exec_id: ExecId) -> EventContext:
    """The context of a model call's start and end, and of its message."""
    return _context(turn, span_of(exec_id), span_of(turn.id), exec_id)


def generation_context(state: Reasoning) -> EventContext:
    """The context of the call to the vendor."""
    exec_id = state.exec_id
    return _context(state.turn, span_of(exec_id, "generation"), span_of(exec_id), exec_id)


def compaction_context(turn: Turn, head: int) -> EventContext:
    """The context of the start and end of a compaction that begins at this head of the log."""
    return _context(turn, span_of(turn.id, f"compaction/{head}"), span_of(turn.id))


def summary_context(compaction: EventContext, number: int) -> EventContext:
    """The context of one of a compaction's calls to the vendor; `number` counts them from 0."""
    span = compaction.span_id or ""
    return msgspec.structs.replace(
        compaction, span_id=span_of(span, f"generation/{number}"), parent_span_id=span
    )


def generation_span(context: EventContext, name: str) -> EventContext:
    """The context of a call to the vendor that something else needs, such as a check."""
    span = context.span_id or ""
    return msgspec.structs.replace(context, span_id=span_of(span, name), parent_span_id=span or None)


def act_context(state: Calling) -> EventContext:
    """The context of a batch of tool calls."""
    return _context(state.turn, span_of(state.exec_id, "act"), span_of(state.turn.id), state.exec_id)


def tool_context(state: Calling | Reasoning, call_id: ToolCallId) -> EventContext:
    """The context of one tool call's start and result, whether the server or a client runs it."""
    exec_id = state.exec_id
    return _context(state.turn, span_of(exec_id, call_id), span_of(exec_id, "act"), exec_id)


def _context(turn: Turn, span: str, parent: str, exec_id: ExecId | None = None) -> EventContext:
    return EventContext(turn.id, turn.message_id, exec_id, turn.id, span, parent)
