"""Rows of feedback, written with the `message.feedback` events that they are the fold of."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from perdure.domain.feedback import Rating
from perdure.domain.ids import MessageId, OrgId, SessionId, UserId
from perdure.domain.times import Micros
from perdure.store.database import Tx, Value
from perdure.store.rows import columns, insert, values
from perdure.store.sessions import SessionRow


class FeedbackRow(Struct, frozen=True):
    session_id: SessionId
    message_id: MessageId
    user_id: UserId
    org_id: OrgId
    rating: Rating | None
    comment: str | None
    message_sequence: int
    first_sequence: int
    sequence: int
    created_at: Micros
    updated_at: Micros


class FeedbackFilter(Struct, frozen=True):
    """The conditions for a list of feedback; None means any."""

    rating: Rating | None = None
    message_id: MessageId | None = None
    user_id: UserId | None = None


_ROW = columns(FeedbackRow)
_CHANGED = ("rating", "comment", "sequence", "updated_at")
_SAVE = (
    f"{insert('feedback', FeedbackRow)} ON CONFLICT (session_id, message_id, user_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _CHANGED)
)


async def find_feedback(
    tx: Tx, session_id: SessionId, message_id: MessageId, user_id: UserId
) -> FeedbackRow | None:
    """Return what a user says about a message; None for nothing."""
    found = await tx.one(
        f"SELECT {_ROW} FROM feedback WHERE session_id = ? AND message_id = ? AND user_id = ?",
        session_id,
        message_id,
        user_id,
    )
    return None if found is None else FeedbackRow(*found)


async def save_feedback(tx: Tx, row: FeedbackRow) -> None:
    """Insert or replace what a user says about a message."""
    await tx.run(_SAVE, *values(row))


async def remove_feedback(tx: Tx, row: FeedbackRow) -> None:
    await tx.run(
        "DELETE FROM feedback WHERE session_id = ? AND message_id = ? AND user_id = ?",
        row.session_id,
        row.message_id,
        row.user_id,
    )


async def list_feedback(
    tx: Tx, session: SessionRow, filters: FeedbackFilter, offset: int, limit: int
) -> tuple[list[FeedbackRow], int]:
    """Return a page of a session's feedback, newest first, and the number of all matches."""
    parts, args = ["session_id = ? AND org_id = ?"], list[Value]((session.id, session.org_id))
    for name in filters.__struct_fields__:
        if (value := getattr(filters, name)) is not None:
            parts.append(f"{name} = ?")
            args.append(value)
    where = " AND ".join(parts)
    rows = await tx.all(
        f"SELECT {_ROW} FROM feedback WHERE {where}"
        " ORDER BY created_at DESC, message_id DESC, user_id DESC LIMIT ? OFFSET ?",
        *args,
        limit,
        offset,
    )
    counted = await tx.one(f"SELECT COUNT(*) FROM feedback WHERE {where}", *args)
    return [FeedbackRow(*row) for row in rows], 0 if counted is None else int(counted[0])


async def copy_feedback(tx: Tx, source: SessionId, target: SessionId, through: int) -> None:
    """Copy the feedback that a log has up to a sequence to a copy of this part of the log.

    `changed_since` has the rest: what was said by then, and has changed since.
    """
    names = _ROW.replace("session_id", "?", 1)
    await tx.run(
        f"INSERT INTO feedback ({_ROW}) SELECT {names} FROM feedback WHERE session_id = ? AND sequence <= ?",
        target,
        source,
        through,
    )


async def changed_since(tx: Tx, source: SessionId, through: int) -> Sequence[FeedbackRow]:
    """Return the feedback that a log has up to a sequence, and that has changed since."""
    rows = await tx.all(
        f"SELECT {_ROW} FROM feedback WHERE session_id = ? AND first_sequence <= ? AND sequence > ?",
        source,
        through,
        through,
    )
    return [FeedbackRow(*row) for row in rows]
