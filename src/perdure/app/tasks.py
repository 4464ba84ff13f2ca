"""Tasks, for those who follow and stop them."""

from __future__ import annotations

from typing import NoReturn

from msgspec.structs import replace

from perdure.app.context import App
from perdure.app.session_ends import stop_task
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import MessageId, SessionId, TaskId
from perdure.domain.tasks import PostTaskMessage, SessionTask, SessionTaskDetail
from perdure.store.database import Tx
from perdure.store.sessions import get_session
from perdure.store.task_lists import TaskFilter
from perdure.store.task_lists import list_tasks as find_tasks
from perdure.store.tasks import get_task, task_messages


async def list_tasks(app: App, caller: Caller, filters: TaskFilter, limit: int) -> tuple[SessionTask, ...]:
    """List tasks of the organization, or of one session, newest first.

    Raises:
        NotFound: the session does not exist.
    """
    found = replace(filters, reader_id=caller.user_id)

    async def work(tx: Tx) -> tuple[SessionTask, ...]:
        if filters.session_id is not None:
            await get_session(tx, caller.organization_id, filters.session_id)
        rows = await find_tasks(tx, caller.organization_id, found, limit)
        return tuple(row.struct() for row in rows)

    return await app.database.read(work, long=True)


async def read_task(
    app: App, caller: Caller, session_id: SessionId, task_id: TaskId, after_id: MessageId | None, limit: int
) -> SessionTaskDetail:
    """Read a task with its messages, from the one after `after_id` on.

    Raises:
        NotFound: the session, the task or the message does not exist.
    """

    async def work(tx: Tx) -> SessionTaskDetail:
        await get_session(tx, caller.organization_id, session_id)
        row = await get_task(tx, caller.organization_id, session_id, task_id)
        messages = await task_messages(tx, task_id, after_id, limit)
        return SessionTaskDetail(row.struct(), tuple(messages))

    return await app.database.read(work, long=True)


async def cancel_task(app: App, caller: Caller, session_id: SessionId, task_id: TaskId) -> SessionTask:
    """Ask a task to stop, with everything below it. Idempotent: one that has ended stays as it is.

    Raises:
        NotFound: the session or the task does not exist.
    """
    return await stop_task(app, caller.organization_id, session_id, task_id, "user", "cancelled by a user")


async def post_task_message(
    app: App, caller: Caller, session_id: SessionId, task_id: TaskId, body: PostTaskMessage
) -> NoReturn:
    """Refuse a user's message to a task, and say where it can be sent instead.

    Raises:
        NotFound: the session or the task does not exist.
        InvalidInput: always, if they exist.
    """
    if (body.text is None) == (body.content is None):
        raise InvalidInput("pass either `text` or `content`", field="text")
    detail = await read_task(app, caller, session_id, task_id, None, 1)
    child_id = detail.task.links.child_session_id
    if child_id is None:
        raise InvalidInput(
            f"the task {task_id} is a tool that runs in the background and reads no messages: cancel it, or "
            f"wait for its end",
            code="task_reads_no_messages",
        )
    raise InvalidInput(
        f"only the agent that began the task {task_id} sends messages to it. To talk to the sub-agent "
        f"yourself, send a message to its session: POST /v1/sessions/{child_id}/messages",
        code="task_reads_no_messages",
    )
