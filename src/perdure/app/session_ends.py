"""Ends of sessions and their turns: cancels and deletions, which go down the tree.

Whoever cancels or deletes a session notes in the same transaction, with its tasks, what is to be done to
their children (`tasks.wish`). Each child is then ended in a transaction of its own, and notes the same for
its own children. What a crash leaves undone is found by the sweep. So no two sessions are locked at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.at_head import append_aside, tell_followers, write_at_head
from perdure.app.background_tools import stopped_report
from perdure.app.context import Services
from perdure.app.holds import check_not_held
from perdure.app.running_turns import cancel_events, stop_turn
from perdure.app.task_news import deliver, settle
from perdure.app.task_reports import DELETED, SESSION_DELETED, Report
from perdure.app.task_wishes import SESSION_CANCELLED, asked_to_stop
from perdure.domain.accounts import Caller
from perdure.domain.cancels import CancelledTurn
from perdure.domain.errors import NotFound
from perdure.domain.events import NewEvent
from perdure.domain.ids import ErasureId, OrgId, SessionId, TaskId
from perdure.domain.tasks import Canceller, SessionTask
from perdure.domain.times import Micros
from perdure.store.budgets import wait_no_more
from perdure.store.bus import Appended, Stop
from perdure.store.database import Tx
from perdure.store.queue import Job
from perdure.store.session_deletion import erasure_above, mark_deleted
from perdure.store.sessions import IN_TURN, SessionRow, append, get_session
from perdure.store.tasks import (
    TaskRow,
    find_task,
    get_task,
    remove_task,
    wish_for,
)

AT_ONCE = 100
"""How many sessions of a tree a request ends itself; the sweep ends the others."""


class _Ended(Struct, frozen=True):
    """A session after a cancel, the tasks whose children are to end, and whether a turn was cancelled."""

    row: SessionRow
    tasks: list[TaskRow]
    fenced: bool = True


async def cancel_turn(
    app: Services,
    caller: Caller,
    session_id: SessionId,
    check: Callable[[SessionRow], None] | None = None,
) -> CancelledTurn:
    """Cancel the running or waiting turn, and all tasks. Idempotent: without any, nothing happens.

    Messages that wait for turns of their own are left to them.

    Args:
        check: looks at the locked session before; what it raises is raised.
    """

    async def work(tx: Tx) -> _Ended:
        row = await get_session(tx, caller.organization_id, session_id, lock=True)
        if check is not None:
            check(row)
        return await _cancel_in(app, tx, row, "cancelled by the user", app.now(), whole=False)

    ended = await write_at_head(app, work)
    await _after(app, ended)
    if ended.fenced:
        return CancelledTurn("cancelled", "The turn was cancelled.")
    if ended.tasks:
        return CancelledTurn("cancelled", "No turn was running. The tasks are being cancelled.")
    return CancelledTurn("no_op", "No turn is running.")


async def end_if_child(app: Services, org_id: OrgId, session_id: SessionId, reason: str) -> None:
    """Cancel a sub-agent's session that has not ended, because nobody will look after it any more."""

    async def work(tx: Tx) -> _Ended | None:
        row = await get_session(tx, org_id, session_id, lock=True)
        if row.task_id is None or row.ended is not None:
            return None
        return await _cancel_in(app, tx, row, reason, app.now(), whole=True)

    ended = await write_at_head(app, work)
    if ended is not None:
        await _after(app, ended)


async def _cancel_in(
    app: Services, tx: Tx, row: SessionRow, reason: str, now: Micros, *, whole: bool
) -> _Ended:
    """Cancel the turn of a locked session, and note that its tasks are to be cancelled.

    Args:
        whole: also the turns of messages that wait for their own.
    """
    tasks = await wish_for(tx, row.id, "cancel")
    updates = [await asked_to_stop(tx, each, now, detail=SESSION_CANCELLED) for each in tasks]
    if row.status not in IN_TURN:
        if updates:
            row = await append_aside(app, tx, row, updates, now)
        return _Ended(row, tasks, fenced=False)
    events, more = await stop_turn(app, tx, row, reason, now)
    row = await _fence(app, tx, row, [*updates, *events], now)
    while more and whole:
        events, more = await stop_turn(app, tx, row, reason, now)
        row = await _fence(app, tx, row, events, now)
    if more:
        await app.queue.enqueue(tx, Job(row.org_id, row.id))
    return _Ended(row, tasks)


async def _fence(app: Services, tx: Tx, row: SessionRow, events: list[NewEvent], now: Micros) -> SessionRow:
    """Append the end of a turn and fence its runner; stop it and tell followers, once that is committed."""
    if row.status == "paused":
        await wait_no_more(tx, row.id)
    after, stored = await append(tx, row, events, now=now, fence=True)
    tx.after_commit(lambda: app.bus.publish(Stop(after.id, after.epoch)))
    tell_followers(app, tx, after, stored)
    return after


First = Callable[[Tx, SessionRow], Awaitable[ErasureId | None]]
"""What a deletion does first, with the locked session: it may refuse, or name the erasure that counts it."""


async def delete_session(app: Services, caller: Caller, session_id: SessionId) -> None:
    """Delete a session, even during a turn, with all sessions below it: runners are fenced and stopped.

    Raises:
        NotFound.
        Conflict: `session_held`: it must not be deleted.
    """
    await remove_session(app, caller.organization_id, session_id)


async def remove_session(
    app: Services, org_id: OrgId, session_id: SessionId, first: First | None = None
) -> None:
    """As `delete_session`, for nobody in particular.

    Args:
        first: what the transaction does first; what it raises is raised.
    """
    await _down(app, await _delete(app, org_id, session_id, first))


async def _delete(
    app: Services, org_id: OrgId, session_id: SessionId, first: First | None = None
) -> list[TaskRow]:
    """Delete a session; return its tasks, whose children are to be deleted, too."""
    now = app.now()

    async def work(tx: Tx) -> tuple[SessionRow, list[TaskRow]]:
        row = await get_session(tx, org_id, session_id, lock=True)
        await check_not_held(tx, row)
        erasure_id = None if first is None else await first(tx, row)
        if row.status in IN_TURN:
            turn_id = row.turn_id or app.new_id("turn")
            notice = "[The session was deleted during this turn.]"
            events = cancel_events(app, turn_id, SESSION_DELETED, now, notice)
            row, _ = await append(tx, row, events, now=now, fence=True)
            tx.after_commit(lambda: app.metrics.turns.add("cancelled", ""))
        tasks = await wish_for(tx, row.id, "delete")
        await mark_deleted(tx, row, now, erasure_id or await erasure_above(tx, row))
        return row, tasks

    row, tasks = await app.database.write(work)
    app.bus.publish(Stop(row.id, row.epoch + 1, gone=True))
    app.bus.publish(Appended(row.id, 0))
    if row.task_id is not None:
        await deliver(app, row.id)
    return tasks


async def _after(app: Services, ended: _Ended) -> None:
    """See to the children and the parent of a session after a cancel."""
    await _down(app, ended.tasks)
    if ended.row.news is not None:
        await deliver(app, ended.row.id)


async def _down(app: Services, tasks: list[TaskRow]) -> None:
    """End the children of these tasks, and theirs, as far as a request does so itself."""
    left = deque(tasks)
    for _ in range(AT_ONCE):
        if not left:
            return
        left += await carry_out(app, left.popleft())


async def carry_out(app: Services, row: TaskRow) -> list[TaskRow]:
    """Do to a task's child what is wished. Idempotent.

    Returns:
        The child's own tasks, whose children are to be ended, too.
    """
    below: list[TaskRow] = []
    if row.child_session_id is None:
        if row.wish != "delete":
            await settle(app, row.id, stopped_report(row, app.now()))
        app.bus.publish(Stop(row.session_id, 0, task_id=row.id))
    else:
        try:
            end = _delete if row.wish == "delete" else _cancel_child
            below = await end(app, row.org_id, row.child_session_id)
        except NotFound:
            await settle(app, row.id, Report("canceled", error=DELETED))
        await deliver(app, row.child_session_id)
    if row.wish == "delete":
        await app.database.write(lambda tx: remove_task(tx, row.org_id, row.id))
    return below


async def _cancel_child(app: Services, org_id: OrgId, child_id: SessionId) -> list[TaskRow]:
    """Cancel whatever a child does; return its tasks, whose children are to be cancelled, too."""

    async def work(tx: Tx) -> list[TaskRow]:
        child = await get_session(tx, org_id, child_id, lock=True)
        if child.ended is not None:
            return []
        task = None if child.task_id is None else await find_task(tx, child.task_id)
        said = None if task is None else task.struct().state_detail
        reason = said or SESSION_CANCELLED
        return (await _cancel_in(app, tx, child, reason, app.now(), whole=True)).tasks

    return await write_at_head(app, work)


async def stop_task(
    app: Services,
    org_id: OrgId,
    session_id: SessionId,
    task_id: TaskId,
    by: Canceller,
    reason: str | None = None,
) -> SessionTask:
    """Ask a task to stop, and stop it. Idempotent: one that has ended stays as it is.

    Args:
        by: who asks.
        reason: why, for people.

    Raises:
        NotFound: the session or the task does not exist.
    """

    async def work(tx: Tx) -> list[TaskRow]:
        row = await get_session(tx, org_id, session_id, lock=True)
        task_row = await get_task(tx, org_id, session_id, task_id)
        if task_row.finished_at is not None or task_row.wish is not None:
            return [task_row] if task_row.wish is not None else []
        now = app.now()
        event = await asked_to_stop(tx, replace(task_row, wish="cancel"), now, by, reason)
        await append_aside(app, tx, row, [event], now)
        return [await get_task(tx, org_id, session_id, task_id)]

    await _down(app, await write_at_head(app, work))
    return (await app.database.read(lambda tx: get_task(tx, org_id, session_id, task_id))).struct()
