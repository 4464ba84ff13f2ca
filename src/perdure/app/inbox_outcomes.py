"""How items left the inbox, as the logs of their sessions say."""

from __future__ import annotations

from typing import get_args

from perdure.app.inbox_items import Question
from perdure.domain.decisions import Decided, Decision
from perdure.domain.events import (
    ENDED_TURN,
    BudgetResumedData,
    Event,
    ToolCompletedData,
    ToolParkedData,
    ToolResumedData,
    TurnResumedData,
)
from perdure.domain.ids import ToolCallId
from perdure.domain.inbox import InboxOutcome, ItemRef
from perdure.domain.messages import text_of
from perdure.domain.times import to_rfc3339
from perdure.domain.tools import question_id
from perdure.store.database import Tx
from perdure.store.events import events_within
from perdure.store.sessions import SessionRow

_RESUMED = (BudgetResumedData.kind, TurnResumedData.kind)
_KINDS = (ToolCompletedData.kind, ToolResumedData.kind, ToolParkedData.kind, *_RESUMED, *ENDED_TURN)
_DECISIONS: tuple[Decision, ...] = get_args(Decision)


async def outcome_of(tx: Tx, row: SessionRow, ref: ItemRef, question: Question) -> InboxOutcome:
    """Return how an item that no longer waits left the inbox.

    That is at the latest when its turn ended, so only the rest of its turn is read.
    """
    after, more = ref.sequence, True
    while more:
        events, more = await events_within(tx, row.id, after, until=row.head, kinds=_KINDS, limit=100)
        for event in events:
            found = _outcome(event, question)
            if found is not None:
                return found
            after = event.sequence
    return InboxOutcome("withdrawn", to_rfc3339(row.updated_at))  # a log that is damaged


def _outcome(event: Event, question: Question) -> InboxOutcome | None:
    """What an event says about the question; None if it is about others."""
    at = to_rfc3339(event.ts)
    if event.type in ENDED_TURN:
        return InboxOutcome("withdrawn", at)
    if question.kind == "budget":
        # The turn goes on by itself with a message, or in the next period.
        if event.type not in _RESUMED:
            return None
        return InboxOutcome("decided" if event.type == BudgetResumedData.kind else "withdrawn", at)
    match event.decoded():
        case ToolCompletedData() as data if data.tool_call_id == _answered_by(question):
            if data.status == "timeout":
                return InboxOutcome("expired", at)
            if data.status == "cancelled":
                return InboxOutcome("withdrawn", at)
            if question.kind == "approval":
                return InboxOutcome("decided", at, _decided(data))
            return InboxOutcome("decided", at, answered=data.answered)
        case ToolResumedData() | ToolParkedData() as data if data.tool_call_id == question.call_id:
            return InboxOutcome("decided", at)
    return None


def _answered_by(question: Question) -> ToolCallId:
    """The id that the event has which answers the question."""
    return question_id(question.call_id) if question.kind == "approval" else question.call_id


def _decided(data: ToolCompletedData) -> Decided:
    """The decision; older releases logged nothing else of it."""
    if data.decided is not None:
        return data.decided
    said = text_of(data.result or ())
    fallback: Decision = "allow" if data.success else "reject"
    return Decided(next((each for each in _DECISIONS if each == said), fallback), "api")
