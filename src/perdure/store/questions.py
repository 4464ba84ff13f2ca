"""The questions of agents, which are in the events that park their calls."""

from __future__ import annotations

from perdure.domain.events import ToolParkedData
from perdure.domain.ids import SessionId
from perdure.domain.questions import AskedQuestion
from perdure.store.database import Tx
from perdure.store.events import events_after


async def questions_at(tx: Tx, session_id: SessionId, sequence: int) -> tuple[AskedQuestion, ...]:
    """Read the questions that the event `sequence` of a session asks; empty if it asks none."""
    found = await events_after(tx, session_id, sequence - 1, limit=1)
    if not found or found[0].sequence != sequence:
        return ()
    data = found[0].get(ToolParkedData)
    return () if data is None else data.questions
