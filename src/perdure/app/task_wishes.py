"""Wishes about tasks: what is to be done to their children, noted with the session that begins or ends it."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.domain.events import EventContext, NewEvent, TaskUpdatedData
from perdure.domain.ids import TurnId
from perdure.domain.tasks import Canceller
from perdure.domain.times import Micros, to_rfc3339
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow
from perdure.store.tasks import TaskRow, put_task, waits_of_session, wish_for

SESSION_CANCELLED = "the session that began it has cancelled it"
INTERRUPTED = "the turn that waited for it was interrupted"


async def asked_to_stop(
    tx: Tx, row: TaskRow, now: Micros, by: Canceller = "turn", detail: str | None = None
) -> NewEvent:
    """Note with a task that it was asked to stop, and by whom; return the event."""
    task = row.struct()
    asked = replace(
        task,
        cancel_requested_at=task.cancel_requested_at or to_rfc3339(now),
        cancel_requested_by=task.cancel_requested_by or by,
        state_detail=detail or task.state_detail,
        updated_at=to_rfc3339(now),
    )
    await put_task(tx, row.changed(asked, now))
    return NewEvent(TaskUpdatedData(asked), EventContext(), now)


async def cancel_awaited(tx: Tx, row: SessionRow, turn_id: TurnId, now: Micros) -> list[NewEvent]:
    """Note that the tasks are to be cancelled that calls of a turn wait for; return the events.

    The session's row is locked. The sweep cancels them.
    """
    waits = [wait for wait in await waits_of_session(tx, row.id) if wait.turn_id == turn_id]
    ids = sorted({task_id for wait in waits for task_id in wait.task_ids()})
    if not ids:
        return []
    wished = await wish_for(tx, row.id, "cancel", only=ids)
    return [await asked_to_stop(tx, each, now, detail=INTERRUPTED) for each in wished]
