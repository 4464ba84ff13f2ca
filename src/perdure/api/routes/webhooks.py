"""Routes of webhooks: those of an organization, and those of single tasks."""

from __future__ import annotations

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import push_configs as configs
from perdure.app import webhooks as use
from perdure.domain.ids import PushConfigId, SessionId, TaskId, WebhookId
from perdure.domain.paging import Listing
from perdure.domain.webhooks import (
    CreatePushConfig,
    CreateTaskWebhook,
    TaskPushConfig,
    TaskWebhook,
    UpdateTaskWebhook,
    WebhookDelivery,
)

_HOOK = {"url": "https://hooks.example.com/perdure"}
_CONFIG = {**_HOOK, "event_filter": ["succeeded", "failed", "canceled"]}


@route(
    "POST", "/v1/task-webhooks", "task webhooks", status=201, errors=(403, 409), replayable=False,
    body_example=_HOOK,
)  # fmt: skip
async def create_webhook(call: Call, body: CreateTaskWebhook) -> TaskWebhook:
    """Create a webhook.

    It hears of the end of every task of the organization: a `task.updated` event with the state `succeeded`,
    `failed` or `canceled`. Requests are signed as Standard Webhooks describes, with the headers `webhook-id`,
    `webhook-timestamp` and `webhook-signature`. Without a `secret`, the server makes one and shows it in this
    response only. An organization has at most 100 webhooks. Requires the role `admin`.
    """
    return await use.create_webhook(call.app, call.caller, body)


@route("GET", "/v1/task-webhooks", "task webhooks", errors=(403,))
async def list_webhooks(call: Call) -> Listing[TaskWebhook]:
    """List webhooks.

    Oldest first. Secrets are never shown. Requires the role `admin`.
    """
    return Listing(tuple(await use.all_webhooks(call.app, call.caller)))


@route("GET", "/v1/task-webhooks/{webhook_id}", "task webhooks", errors=(403, 404))
async def get_webhook(call: Call, webhook_id: WebhookId) -> TaskWebhook:
    """Get a webhook.

    If the server has disabled it, `disabled_reason` says why. Requires the role `admin`.
    """
    return await use.read_webhook(call.app, call.caller, webhook_id)


@route(
    "PATCH", "/v1/task-webhooks/{webhook_id}", "task webhooks", errors=(403, 404),
    body_example={"enabled": True},
)  # fmt: skip
async def update_webhook(call: Call, webhook_id: WebhookId, body: UpdateTaskWebhook) -> TaskWebhook:
    """Update a webhook.

    Omitted fields, and null, keep their values. While it is disabled, no new events are kept for it; what
    waited before is sent once it is enabled. Requires the role `admin`.
    """
    return await use.change_webhook(call.app, call.caller, webhook_id, body)


@route("DELETE", "/v1/task-webhooks/{webhook_id}", "task webhooks", errors=(403, 404))
async def delete_webhook(call: Call, webhook_id: WebhookId) -> None:
    """Delete a webhook.

    What has not been sent to it is not sent any more. Requires the role `admin`.
    """
    await use.delete_webhook(call.app, call.caller, webhook_id)


@route("GET", "/v1/task-webhooks/{webhook_id}/deliveries", "task webhooks", errors=(403, 404))
async def list_webhook_deliveries(call: Call, webhook_id: WebhookId) -> Listing[WebhookDelivery]:
    """List the deliveries of a webhook.

    The last 50, newest first, with their states, attempts and errors. They are kept for a week. Requires the
    role `admin`.
    """
    return Listing(tuple(await use.deliveries_of(call.app, call.caller, webhook_id)))


@route("POST", "/v1/task-webhooks/{webhook_id}/test", "task webhooks", status=200, errors=(403, 404))
async def test_webhook(call: Call, webhook_id: WebhookId) -> WebhookDelivery:
    """Test a webhook.

    Sends an event of the type `webhook.test` now, also if the webhook is disabled, and returns what became of
    it: `delivered`, or `failed` with the error. It is not repeated. Requires the role `admin`.
    """
    return await use.send_test(call.app, call.caller, webhook_id)


@route(
    "POST",
    "/v1/sessions/{session_id}/tasks/{task_id}/push-configs",
    "task webhooks",
    status=201,
    errors=(404, 409),
    replayable=False,
    body_example=_CONFIG,
)
async def create_task_push_config(
    call: Call, session_id: SessionId, task_id: TaskId, body: CreatePushConfig
) -> TaskPushConfig:
    """Create a webhook of one task.

    It hears of the events of the task, of all or of those that `event_filter` names, and is deleted with the
    task. Requests are signed like those of the organization's webhooks. A task has at most 10 webhooks. 409
    if the task has ended.
    """
    return await configs.create_push_config(call.app, call.caller, session_id, task_id, body)


@route("GET", "/v1/sessions/{session_id}/tasks/{task_id}/push-configs", "task webhooks", errors=(404,))
async def list_task_push_configs(
    call: Call, session_id: SessionId, task_id: TaskId
) -> Listing[TaskPushConfig]:
    """List the webhooks of a task.

    Oldest first. Secrets are never shown.
    """
    return Listing(tuple(await configs.all_push_configs(call.app, call.caller, session_id, task_id)))


@route(
    "DELETE",
    "/v1/sessions/{session_id}/tasks/{task_id}/push-configs/{config_id}",
    "task webhooks",
    errors=(404,),
)
async def delete_task_push_config(
    call: Call, session_id: SessionId, task_id: TaskId, config_id: PushConfigId
) -> None:
    """Delete a webhook of a task.

    What has not been sent to it is not sent any more.
    """
    await configs.delete_push_config(call.app, call.caller, session_id, task_id, config_id)


ROUTES = (
    create_webhook,
    list_webhooks,
    get_webhook,
    update_webhook,
    delete_webhook,
    list_webhook_deliveries,
    test_webhook,
    create_task_push_config,
    list_task_push_configs,
    delete_task_push_config,
)
