"""What a sub-agent's session notes for its parent in each append."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure.domain.events import (
    NewEvent,
    SessionActivatedData,
    SessionIdledData,
    TaskReportedData,
    ToolCallRequestedData,
    ToolParkedData,
    ToolResumedData,
    TurnSealedData,
    TurnStartedData,
)
from perdure.domain.sessions import Status

if TYPE_CHECKING:
    from perdure.store.sessions import SessionRow

DONE = frozenset((SessionIdledData.kind, TurnSealedData.kind))
"""Kinds of events with which a sub-agent is done with its task: no message waits for a turn of its own."""
NEWS = DONE | {
    TurnStartedData.kind,
    SessionActivatedData.kind,
    ToolCallRequestedData.kind,
    ToolParkedData.kind,
    ToolResumedData.kind,
    TaskReportedData.kind,
}
"""Kinds of events of which the session's parent has to hear."""


def heard_of(
    row: SessionRow, events: Sequence[NewEvent], status: Status, *, in_turn: bool
) -> tuple[int | None, int | None]:
    """When the session was done with its task, and the last event that its parent has not heard of.

    Args:
        row: the session before the events.
        status: the session's, after the events.
        in_turn: whether that is one of a turn. A message that interrupts a turn begins another one for the
            task in the same append, like one that waited for its own.
    """
    ended, news = row.ended, row.news
    if ended is not None:
        return ended, news  # the parent knows, or will hear, how the task ended: the rest is no part of it
    for sequence, event in enumerate(events, row.head + 1):
        if event.data.kind in NEWS:
            news = sequence
        if ended is None and event.data.kind in DONE and not in_turn:
            ended = sequence
    if row.started_at and status != row.status:
        news = row.head + len(events)
    return ended, news
