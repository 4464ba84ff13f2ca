"""Feedback: users rate an agent's messages and comment on them."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.app.at_head import append_aside, write_at_head
from perdure.app.context import App
from perdure.app.searches import search
from perdure.app.storage import without_secrets
from perdure.domain.accounts import Caller
from perdure.domain.errors import NotFound
from perdure.domain.events import EventContext, MessageFeedbackData, NewEvent
from perdure.domain.feedback import MessageFeedback, SetFeedback
from perdure.domain.ids import MessageId, SessionId
from perdure.domain.paging import Page, page_of
from perdure.domain.times import Micros, to_rfc3339
from perdure.store.database import Tx
from perdure.store.events import events_of_kinds, sequence_of_output
from perdure.store.feedback import (
    FeedbackFilter,
    FeedbackRow,
    changed_since,
    copy_feedback,
    find_feedback,
    list_feedback,
    remove_feedback,
    save_feedback,
)
from perdure.store.sessions import SessionRow, get_session

RECENT = 200
"""Events at the end of a log in which a message is looked for at once: most feedback is about new ones."""


async def set_feedback(
    app: App, caller: Caller, session_id: SessionId, message_id: MessageId, body: SetFeedback
) -> MessageFeedback:
    """Replace the caller's feedback on a message, or remove it. Idempotent.

    Raises:
        NotFound: the session has no message of its agent with this id.
    """
    place = await _find_message(app, caller, session_id, message_id)
    now = app.now()
    comment = (body.comment or "").strip() or None
    said = MessageFeedbackData(message_id, caller.user_id, body.rating, comment)

    async def work(tx: Tx) -> MessageFeedback:
        session = await get_session(tx, caller.organization_id, session_id, lock=True)
        (event,) = await without_secrets(app, tx, session, [NewEvent(said, EventContext(), now)])
        data = event.read(MessageFeedbackData)
        before = await find_feedback(tx, session.id, message_id, caller.user_id)
        row = _row(session, data, place, session.head + 1, now)
        if before is not None:
            row = replace(row, first_sequence=before.first_sequence, created_at=before.created_at)
        if (data.rating, data.comment) == (None if before is None else (before.rating, before.comment)):
            return _to_feedback(before or row)
        if before is None and data.rating is None and data.comment is None:
            return _to_feedback(row)  # there is nothing to remove
        await append_aside(app, tx, session, [event], now)
        await _keep(tx, row)
        return _to_feedback(row)

    return await write_at_head(app, work)


async def _find_message(app: App, caller: Caller, session_id: SessionId, message_id: MessageId) -> int:
    """Return the sequence of an agent's message, which never changes. Raises NotFound."""

    async def recent(tx: Tx) -> tuple[SessionRow, int | None]:
        row = await get_session(tx, caller.organization_id, session_id)
        return row, await sequence_of_output(tx, row.id, message_id, max(row.head - RECENT, 0), row.head)

    row, found = await app.database.read(recent)
    if found is None and row.head > RECENT:
        before = row.head - RECENT
        found = await search(
            app, caller, lambda tx: sequence_of_output(tx, session_id, message_id, 0, before)
        )
    if found is None:
        raise NotFound("message")
    return found


def _row(
    session: SessionRow, data: MessageFeedbackData, place: int, sequence: int, now: Micros
) -> FeedbackRow:
    return FeedbackRow(
        session.id,
        data.message_id,
        data.user_id,
        session.org_id,
        data.rating,
        data.comment,
        place,
        sequence,
        sequence,
        now,
        now,
    )


async def _keep(tx: Tx, row: FeedbackRow) -> None:
    """Store the row that follows from an event."""
    if row.rating is None and row.comment is None:
        await remove_feedback(tx, row)
    else:
        await save_feedback(tx, row)


def _to_feedback(row: FeedbackRow) -> MessageFeedback:
    return MessageFeedback(
        row.session_id,
        row.message_id,
        row.message_sequence,
        row.user_id,
        to_rfc3339(row.created_at),
        to_rfc3339(row.updated_at),
        row.rating,
        row.comment,
    )


async def page_of_feedback(
    app: App, caller: Caller, session_id: SessionId, filters: FeedbackFilter, offset: int, limit: int
) -> Page[MessageFeedback]:
    """List a page of a session's feedback, newest first. Raises NotFound."""

    async def work(tx: Tx) -> Page[MessageFeedback]:
        session = await get_session(tx, caller.organization_id, session_id)
        rows, total = await list_feedback(tx, session, filters, offset, limit)
        return page_of([_to_feedback(row) for row in rows], total, offset, limit)

    return await app.database.read(work, long=True)


async def fork_feedback(tx: Tx, source: SessionRow, target: SessionRow, through: int) -> None:
    """Give a session's copy the feedback that its part of the log has."""
    await copy_feedback(tx, source.id, target.id, through)
    later = {(row.message_id, row.user_id): row for row in await changed_since(tx, source.id, through)}
    before, more = through, bool(later)
    while more and later:
        events, more = await events_of_kinds(tx, source.id, (MessageFeedbackData.kind,), before=before)
        for event in events:
            data, before = event.read(MessageFeedbackData), event.sequence - 1
            row = later.pop((data.message_id, data.user_id), None)
            if row is not None:
                said = _row(target, data, row.message_sequence, event.sequence, event.ts)
                kept = replace(said, first_sequence=row.first_sequence, created_at=row.created_at)
                await _keep(tx, kept)
