"""Tasks of tools that run in the background: their attempts begin here, and what stops them is told.

Only the newest attempt can end a task: `settle` drops what an older one reports.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from perdure.app.at_head import append_aside, write_at_head
from perdure.app.context import Services
from perdure.app.storage import without_secrets
from perdure.app.task_reports import Report
from perdure.domain.background import only_reads, read_spec
from perdure.domain.effects import UNCERTAIN
from perdure.domain.errors import NotFound
from perdure.domain.events import EventContext, NewEvent, TaskUpdatedData
from perdure.domain.tasks import TIME_LIMIT, SessionTask, TaskError
from perdure.domain.times import Micros, to_rfc3339
from perdure.store.database import Tx
from perdure.store.sessions import get_session
from perdure.store.tasks import TaskRow, find_task, put_task

SLACK = 60.0
"""Seconds after the end of an attempt's time limit in which its worker ends the task. Then the sweep does."""


async def begin_attempt(app: Services, seen: TaskRow, worker_id: str, seconds: float) -> TaskRow | None:
    """Begin an attempt. Idempotent: a caller that did not hear of its success receives the same one.

    Args:
        seen: the task as the caller has read it.
        worker_id: who begins it; one who runs the task once at a time.
        seconds: how long the attempt may take.

    Returns:
        The task with the number of the attempt; None if it has ended or is to be stopped, or another attempt
        has begun.
    """

    def begun(task: SessionTask, now: Micros) -> SessionTask:
        return replace(
            task,
            state="running",
            state_detail=None,
            attempt=task.attempt + 1,
            worker_id=worker_id,
            started_at=task.started_at or to_rfc3339(now),
            heartbeat_at=to_rfc3339(now),
            deadline=_after(now, seconds + SLACK),
        )

    return await _change(app, seen, begun, seconds + SLACK, worker_id)


async def put_back(app: Services, taken: TaskRow) -> None:
    """Take back an attempt that was stopped with its process, so that it does not count."""
    seconds = max(TIME_LIMIT, read_spec(taken.struct().spec).time_limit)

    def waiting(task: SessionTask, now: Micros) -> SessionTask:
        return replace(
            task,
            state="queued",
            state_detail="Its server has stopped: another one continues.",
            attempt=task.attempt - 1,
            worker_id=None,
            deadline=_after(now, seconds),
        )

    await _change(app, taken, waiting, seconds)


async def _change(
    app: Services,
    seen: TaskRow,
    change: Callable[[SessionTask, Micros], SessionTask],
    seconds: float,
    worker_id: str | None = None,
) -> TaskRow | None:
    """Change a task that has not changed hands since it was read.

    Args:
        seconds: until its new deadline.
        worker_id: whose next attempt is taken for the change, made before.
    """

    async def work(tx: Tx) -> TaskRow | None:
        try:
            row = await get_session(tx, seen.org_id, seen.session_id, lock=True)
        except NotFound:
            return None
        task_row = await find_task(tx, seen.id)
        if task_row is None or task_row.finished_at is not None or task_row.wish is not None:
            return None
        if task_row.attempt != seen.attempt:
            own = task_row.attempt == seen.attempt + 1 and task_row.struct().worker_id == worker_id
            return task_row if own else None
        now = app.now()
        task = replace(change(task_row.struct(), now), updated_at=to_rfc3339(now))
        changed = replace(task_row.changed(task, now), deadline=now + round(seconds * 1_000_000))
        await put_task(tx, changed)
        events = await without_secrets(app, tx, row, [NewEvent(TaskUpdatedData(task), EventContext(), now)])
        await append_aside(app, tx, row, events, now)
        return changed

    return await write_at_head(app, work)


def _after(now: Micros, seconds: float) -> str:
    return to_rfc3339(now + round(seconds * 1_000_000))


def stopped_report(row: TaskRow, now: Micros) -> Report:
    """How the task of a tool ends that is stopped: at its time limit, or because somebody wants it."""
    task = row.struct()
    late = task.is_late(row.deadline, now)
    asked = task.cancel_requested_at is not None and task.cancel_requested_by != "turn"
    reason = task.state_detail if asked else None
    said = (
        "The time limit has passed."
        if late
        else f"It was canceled: {reason}"
        if reason
        else "It was canceled."
    )
    unsure = row.attempt > 0 and not only_reads(task.spec)
    error = TaskError("time_limit" if late else "canceled", f"{said} {UNCERTAIN}" if unsure else said)
    return Report("failed" if late else "canceled", error=error)
