"""Webhooks of one task, which hear of its events: create, list, delete."""

from __future__ import annotations

from perdure.app.context import Services
from perdure.app.webhooks import made_secret, sealed_row
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict
from perdure.domain.ids import PushConfigId, SessionId, TaskId
from perdure.domain.times import to_rfc3339
from perdure.domain.webhooks import MAX_PUSH_CONFIGS, CreatePushConfig, TaskPushConfig, check_filter
from perdure.net.webhook_http import check_target
from perdure.store.database import Tx
from perdure.store.sessions import get_session
from perdure.store.tasks import TaskRow, get_task
from perdure.store.webhooks import WebhookRow, add_webhook, get_webhook, list_webhooks, remove_webhooks


def to_push_config(row: WebhookRow, secret: str | None = None) -> TaskPushConfig:
    """Convert a row to the resource that clients see.

    Args:
        secret: the secret that was made for it, which is shown this once.
    """
    return TaskPushConfig(
        PushConfigId(row.id),
        SessionId(row.session_id),
        TaskId(row.task_id),
        row.url,
        bool(row.enabled),
        has_secret=True,
        created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at),
        event_filter=row.filter(),
        secret=secret,
        disabled_reason=row.disabled_reason,
        last_error=row.last_error,
    )


async def _task(tx: Tx, caller: Caller, session_id: SessionId, task_id: TaskId) -> TaskRow:
    """The task of a session that is not deleted. Raises NotFound."""
    session = await get_session(tx, caller.organization_id, session_id)
    return await get_task(tx, session.org_id, session.id, task_id)


async def create_push_config(
    app: Services, caller: Caller, session_id: SessionId, task_id: TaskId, body: CreatePushConfig
) -> TaskPushConfig:
    """Create a webhook of a task.

    Raises:
        NotFound: the session or the task does not exist.
        InvalidInput: the URL, the secret or the filter cannot be used.
        Conflict: the task has ended, or has as many webhooks as are allowed.
    """
    secret, shown = made_secret(body.secret)
    wanted = body.event_filter or ()
    check_filter(wanted)
    await app.database.read(lambda tx: _task(tx, caller, session_id, task_id))
    await check_target(body.url, app.private_addresses)
    hook_id = PushConfigId(app.new_id("pushconfig"))

    async def work(tx: Tx) -> TaskPushConfig:
        await get_session(tx, caller.organization_id, session_id, lock=True)
        task = await _task(tx, caller, session_id, task_id)
        if task.finished_at is not None:
            raise Conflict(f"the task {task.id} has ended, so nothing more happens to it", code="task_ended")
        if len(await list_webhooks(tx, task.org_id, task.id)) >= MAX_PUSH_CONFIGS:
            raise Conflict(
                f"the task has {MAX_PUSH_CONFIGS} push configurations, and more are not allowed: delete one",
                code="too_many_push_configs",
            )
        place = (task.session_id, task.id)
        row = await sealed_row(app, tx, task.org_id, place, hook_id, body.url, secret, wanted=wanted)
        await add_webhook(tx, row)
        return to_push_config(row, shown)

    return await app.database.write(work)


async def all_push_configs(
    app: Services, caller: Caller, session_id: SessionId, task_id: TaskId
) -> list[TaskPushConfig]:
    """List a task's webhooks, oldest first. Raises NotFound."""

    async def work(tx: Tx) -> list[WebhookRow]:
        task = await _task(tx, caller, session_id, task_id)
        return await list_webhooks(tx, task.org_id, task.id)

    return [to_push_config(row) for row in await app.database.read(work)]


async def delete_push_config(
    app: Services, caller: Caller, session_id: SessionId, task_id: TaskId, config_id: PushConfigId
) -> None:
    """Delete a webhook of a task, with everything that is on its way to it. Raises NotFound."""

    async def work(tx: Tx) -> None:
        task = await _task(tx, caller, session_id, task_id)
        row = await get_webhook(tx, task.org_id, task.id, config_id)
        await remove_webhooks(tx, [row.id])

    await app.database.write(work)
