"""Tasks of a session, for the model that began them."""

from __future__ import annotations

from perdure.app.context import Services
from perdure.app.task_answers import described
from perdure.capabilities.port import ToolContext
from perdure.domain.ids import TaskId
from perdure.domain.messages import JsonObject
from perdure.domain.tasks import MAX_SUMMARY
from perdure.store.database import Tx
from perdure.store.tasks import get_task, newest_tasks, open_tasks

LISTED = 100
"""The most ended tasks that a model is shown: the newest."""


async def describe_tasks(app: Services, context: ToolContext) -> list[JsonObject]:
    """Describe a session's open and newest tasks, oldest first, with the beginnings of their answers."""

    async def work(tx: Tx) -> list[JsonObject]:
        found = {row.id: row for row in await newest_tasks(tx, context.session_id, LISTED)}
        found |= {row.id: row for row in await open_tasks(tx, context.session_id)}
        rows = sorted(found.values(), key=lambda row: (row.created_at, row.id))
        return [await described(tx, row, MAX_SUMMARY) for row in rows]

    return await app.database.read(work)


async def describe_task(app: Services, context: ToolContext, task_id: TaskId) -> JsonObject:
    """Describe a task, with its whole answer. Raises NotFound."""

    async def work(tx: Tx) -> JsonObject:
        return await described(tx, await get_task(tx, context.org_id, context.session_id, task_id))

    return await app.database.read(work)
