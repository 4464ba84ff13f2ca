"""Messages between a session and its tasks."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from perdure.app.at_head import write_at_head
from perdure.app.context import Services
from perdure.app.messages import append_message
from perdure.capabilities.port import ToolContext
from perdure.domain.data_flow import External
from perdure.domain.errors import Conflict, InvalidInput, NotFound
from perdure.domain.events import TaskMessageSentData, TaskReportedData
from perdure.domain.ids import SessionId, TaskId
from perdure.domain.messages import JsonObject, Message, TextPart
from perdure.domain.tasks import Direction, TaskArtifact, TaskMessage, TaskProgress, TaskText
from perdure.domain.times import to_rfc3339
from perdure.domain.trace_context import current_trace
from perdure.store.client_messages import Sent, keep_sent_message, sent_message
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow, get_session
from perdure.store.tasks import TaskRow, add_task_message, get_task, has_task_message


async def message_task(app: Services, context: ToolContext, task_id: TaskId, text: str) -> None:
    """Send a message to a sub-agent: it steers its turn. Idempotent by the call's effect key.

    First the sub-agent's log has it, with the id under which the session's own log has it then. A crash in
    between repeats the call, which finds that id.

    Raises:
        NotFound: the session has no such task.
        Conflict: the task has ended.
        InvalidInput: nobody receives messages to it.
    """

    async def look(tx: Tx) -> tuple[TaskRow, tuple[External, ...]]:
        parent = await get_session(tx, context.org_id, context.session_id)
        return await get_task(tx, context.org_id, parent.id, task_id), parent.external_sources()

    row, external = await app.database.read(look)
    child_id = row.child_session_id
    if child_id is None:
        raise InvalidInput("a tool that runs in the background receives no messages")
    task_message = _task_message(app, task_id, "inbound", text)
    known = await _send(app, context, child_id, task_message, text, external)
    if known is not None:
        task_message = replace(task_message, id=known)
        if await app.database.read(lambda tx: has_task_message(tx, task_id, known)):
            return

    async def also(tx: Tx) -> None:
        await add_task_message(tx, context.org_id, task_message)

    await context.log((TaskMessageSentData(task_id, task_message),), also)


async def _send(
    app: Services,
    context: ToolContext,
    child_id: SessionId,
    task_message: TaskMessage,
    text: str,
    external: tuple[External, ...],
) -> str | None:
    """Append the message to the child's log; if that was done before, return the id that it has.

    Args:
        external: where text from outside in the parent's context came from.
    """
    trace = current_trace()

    async def work(tx: Tx) -> str | None:
        over = Conflict(f"the task {task_message.task_id} has ended: begin another one", code="task_ended")
        try:
            child = await get_session(tx, context.org_id, child_id, lock=True)
        except NotFound:
            raise over from None
        before = await sent_message(tx, child, context.effect_key)
        if before is not None:
            return before.fingerprint
        if child.ended is not None:
            raise over
        now = app.now()
        message = Message(app.new_id("message"), "user", (TextPart(text),), to_rfc3339(now))
        stored = await append_message(app, tx, child, message, now, external=external, trace=trace)
        sent = Sent(task_message.id, stored.sequence or 0)
        await keep_sent_message(tx, child, context.effect_key, sent)
        return None

    return await write_at_head(app, work)


async def report_to_parent(app: Services, context: ToolContext, report: JsonObject) -> None:
    """Note in a sub-agent's log what its parent is to hear. Idempotent by the call's effect key.

    Raises:
        InvalidInput: the session is no sub-agent's, or the report is empty.
    """

    async def look(tx: Tx) -> tuple[SessionRow, Sent | None]:
        row = await get_session(tx, context.org_id, context.session_id)
        return row, await sent_message(tx, row, context.effect_key)

    row, before = await app.database.read(look)
    if row.task_id is None:
        raise InvalidInput("nobody began this session as a sub-agent: answer the user instead")
    if not report:
        raise InvalidInput("the report is empty: give a message, progress or artifacts")
    if before is not None:
        return
    task_id, text = row.task_id, report.get("message")
    message = None
    if text is not None:
        message = _task_message(app, task_id, "outbound", context.redactor.text(text))
    progress = msgspec.convert(report.get("progress"), TaskProgress | None)
    artifacts = msgspec.convert(report.get("artifacts") or [], tuple[TaskArtifact, ...])

    async def also(tx: Tx) -> None:
        await keep_sent_message(tx, row, context.effect_key, Sent("", 0))

    await context.log((TaskReportedData(task_id, message, progress, artifacts),), also)


def _task_message(app: Services, task_id: TaskId, direction: Direction, text: str) -> TaskMessage:
    return TaskMessage(app.new_id("message"), task_id, direction, (TaskText(text),), to_rfc3339(app.now()))
