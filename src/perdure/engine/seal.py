"""Seals a turn that cannot be continued, without a look at the log: reading it may be what fails."""

from __future__ import annotations

from functools import partial

from perdure.domain.errors import Fenced, StaleHead
from perdure.domain.events import NewEvent, OutputMessageCompletedData, SessionIdledData, TurnSealedData
from perdure.domain.messages import Message, TextPart
from perdure.domain.spans import message_context
from perdure.domain.times import Micros, to_rfc3339
from perdure.engine.context import Engine
from perdure.engine.observed import observe_seal
from perdure.store.bus import Appended
from perdure.store.sessions import SessionRow, append, look_session


async def seal(engine: Engine, row: SessionRow, trouble: str | None) -> None:
    """Seal the turn, with a message for people; the session becomes idle and takes later messages.

    The seal covers every message that was waiting, because one of them may be what cannot be worked on.

    Args:
        row: the session, claimed by this runner.
        trouble: the kind of error that ended the last attempt; None if its process died.

    Raises:
        Fenced: the session was claimed, cancelled or deleted meanwhile.
    """
    while not await _append(engine, row, trouble):  # a message arrived, which the seal covers
        current = await engine.database.read(partial(look_session, session_id=row.id))
        if current is None or current.deleted_at is not None or current.epoch != row.epoch:
            raise Fenced
        row = current
    observe_seal(engine, row, trouble)


async def _append(engine: Engine, row: SessionRow, trouble: str | None) -> bool:
    """Append the seal; returns False if the log has moved."""
    now = engine.clock.now()
    body = partial(append, row=row, events=_events(engine, row, trouble, now), now=now)
    try:
        after, stored = await engine.database.write(body, single=True)
    except StaleHead:
        return False
    engine.bus.publish(Appended(after.id, after.head, stored))
    return True


def _events(engine: Engine, row: SessionRow, trouble: str | None, now: Micros) -> list[NewEvent]:
    turn_id = row.turn_id or engine.new_id("turn")
    context = message_context(turn_id, None)
    message = Message(
        engine.new_id("message"),
        "agent",
        (TextPart(_advice(row, trouble)),),
        to_rfc3339(now),
        "final_answer",
        metadata={"error": True},
    )
    return [
        NewEvent(OutputMessageCompletedData(message, error_code="no_progress"), context, now),
        NewEvent(
            TurnSealedData(turn_id, "no_progress", _detail(row, trouble), recoveries=row.recoveries - 1),
            context,
            now,
        ),
        NewEvent(SessionIdledData(turn_id), context, now),
    ]


def _advice(row: SessionRow, trouble: str | None) -> str:
    why = "the server stopped" if trouble is None else f"an internal error occurred ({trouble})"
    return (
        f"I stopped: {row.recoveries} times in a row, {why} while I worked on this, and nothing came of it. "
        "Nothing was lost: every message is still in this session, but those that waited were not worked on. "
        "Send a message to try again. If that fails too, fork the session from an earlier point, or tell the "
        "server's administrator."
    )


def _detail(row: SessionRow, trouble: str | None) -> str:
    last = "the server died each time" if trouble is None else f"the last attempt failed with {trouble}"
    return f"The turn was recovered {row.recoveries - 1} times without progress; {last}."
