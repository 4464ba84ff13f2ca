"""Messages between a session and its tasks."""

from __future__ import annotations

import msgspec

from perdure.app.at_head import write_at_head
from perdure.app.context import Services
from perdure.app.messages import append_message
from perdure.capabilities.port import ToolContext
from perdure.domain.errors import Conflict, InvalidInput
from perdure.domain.events import TaskMessageSentData, TaskReportedData
from perdure.domain.ids import TaskId
from perdure.domain.messages import JsonObject, Message, TextPart
from perdure.domain.tasks import Direction, TaskArtifact, TaskMessage, TaskProgress, TaskText
from perdure.domain.times import to_rfc3339
from perdure.store.client_messages import Sent, keep_sent_message, sent_message
from perdure.store.database import Tx
from perdure.store.sessions import get_session
from perdure.store.tasks import TaskRow, add_task_message, get_task


async def message_task(app: Services, context: ToolContext, task_id: TaskId, text: str) -> None:
    """Send a message to a sub-agent: it steers its turn. Idempotent by the call's effect key.

    Raises:
        NotFound: the session has no such task.
        Conflict: the task has ended.
        InvalidInput: nobody receives messages to it.
    """
    row = await app.database.read(lambda tx: get_task(tx, context.org_id, context.session_id, task_id))
    child_id = row.child_session_id
    if child_id is None:
        raise InvalidInput("a tool that runs in the background receives no messages")
    sent = await _send(app, context, row, text)
    if sent is None:
        return
    task_message = _task_message(app, task_id, "inbound", text)

    async def also(tx: Tx) -> None:
        await add_task_message(tx, context.org_id, task_message)

    await context.log((TaskMessageSentData(task_id, task_message),), also)


async def _send(app: Services, context: ToolContext, row: TaskRow, text: str) -> Message | None:
    """Append the message to the child's log; None if it was before."""
    child_id = row.child_session_id
    if child_id is None:
        return None

    async def work(tx: Tx) -> Message | None:
        child = await get_session(tx, context.org_id, child_id, lock=True)
        if await sent_message(tx, child, context.effect_key) is not None:
            return None
        if child.ended is not None:
            raise Conflict(f"the task {row.id} has ended: begin another one", code="task_ended")
        now = app.now()
        message = Message(app.new_id("message"), "user", (TextPart(text),), to_rfc3339(now))
        stored = await append_message(app, tx, child, message, now, origin=None)
        if stored.sequence is not None:
            await keep_sent_message(tx, child, context.effect_key, Sent("", stored.sequence))
        return stored

    return await write_at_head(app, work)


async def report_to_parent(app: Services, context: ToolContext, report: JsonObject) -> None:
    """Note in a sub-agent's log what its parent is to hear.

    Raises:
        InvalidInput: the session is no sub-agent's, or the report is empty.
    """
    row = await app.database.read(lambda tx: get_session(tx, context.org_id, context.session_id))
    if row.task_id is None:
        raise InvalidInput("nobody began this session as a sub-agent: answer the user instead")
    if not report:
        raise InvalidInput("the report is empty: give a message, progress or artifacts")
    task_id, text = row.task_id, report.get("message")
    message = None
    if text is not None:
        message = _task_message(app, task_id, "outbound", context.redactor.text(text))
    progress = msgspec.convert(report.get("progress"), TaskProgress | None)
    artifacts = msgspec.convert(report.get("artifacts") or [], tuple[TaskArtifact, ...])

    async def nothing(tx: Tx) -> None:
        return

    await context.log((TaskReportedData(task_id, message, progress, artifacts),), nothing)


def _task_message(app: Services, task_id: TaskId, direction: Direction, text: str) -> TaskMessage:
    return TaskMessage(app.new_id("message"), task_id, direction, (TaskText(text),), to_rfc3339(app.now()))
