"""Calls that wait until tasks of their session have ended."""

from __future__ import annotations

from perdure.app.context import Services
from perdure.app.task_answers import WAIT, described
from perdure.capabilities.port import ToolContext
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import TaskId
from perdure.domain.messages import JsonObject
from perdure.domain.tasks import MAX_ANSWER
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import to_json
from perdure.store.sessions import get_session
from perdure.store.tasks import Need, TaskRow, WaitRow, add_wait, open_tasks, tasks_named


async def wait_for(
    app: Services, context: ToolContext, ids: tuple[TaskId, ...], need: Need, deadline: Micros
) -> list[JsonObject] | None:
    """Have a call wait for tasks; return what they are, without a wait, if enough of them have ended.

    Args:
        ids: the tasks; none for all that have not ended.

    Raises:
        InvalidInput: a task does not exist.
    """

    async def work(tx: Tx) -> list[JsonObject] | None:
        # Under the session's lock: no task can end between the look at it and the note that somebody waits.
        await get_session(tx, context.org_id, context.session_id, lock=True)
        rows = await _wanted(tx, context, ids)
        done = [row for row in rows if row.finished_at is not None]
        if len(done) == len(rows) or (done and need == "any"):
            share = MAX_ANSWER // max(1, len(rows))
            return [await described(tx, row, share) for row in rows]
        wait = WaitRow(
            context.session_id,
            context.org_id,
            context.turn_id,
            context.exec_id,
            context.tool_call_id,
            WAIT,
            need,
            to_json([row.id for row in rows]),
            deadline,
        )
        await add_wait(tx, wait)
        return None

    return await app.database.write(work)


async def _wanted(tx: Tx, context: ToolContext, ids: tuple[TaskId, ...]) -> list[TaskRow]:
    if not ids:
        return await open_tasks(tx, context.session_id)
    rows = await tasks_named(tx, context.session_id, ids)
    missing = set(ids) - {row.id for row in rows}
    if missing:
        raise InvalidInput(f"this session has no task {min(missing)!r}: `list_tasks` shows its tasks")
    return rows
