"""Webhooks: URLs that hear of tasks."""

from __future__ import annotations

from perdure.client import routes
from perdure.client.routes import Caller, listed, path_of
from perdure.domain.webhooks import (
    CreatePushConfig,
    CreateTaskWebhook,
    Filter,
    TaskPushConfig,
    TaskWebhook,
    UpdateTaskWebhook,
    WebhookDelivery,
)

_HOOKS = "/v1/task-webhooks"
_HOOK = f"{_HOOKS}/{{}}"
_CONFIGS = "/v1/sessions/{}/tasks/{}/push-configs"


class WebhookMethods(Caller):
    """The client's methods about webhooks."""

    create_webhook = routes.posts(
        _HOOKS, CreateTaskWebhook, TaskWebhook, "Create a webhook, which hears of the end of every task."
    )
    list_webhooks = routes.lists(_HOOKS, TaskWebhook, "List the organization's webhooks.")
    get_webhook = routes.reads(_HOOK, TaskWebhook, "Return a webhook, without its secret.")
    update_webhook = routes.updates(
        _HOOK, UpdateTaskWebhook, TaskWebhook, "Change, enable or disable a webhook."
    )
    delete_webhook = routes.sends("DELETE", _HOOK, "Delete a webhook: nothing more is sent to it.")
    list_webhook_deliveries = routes.lists_under(
        f"{_HOOK}/deliveries", WebhookDelivery, "List a webhook's last 50 deliveries, newest first."
    )
    test_webhook = routes.acts(
        "POST", f"{_HOOK}/test", WebhookDelivery, "Send a test to a webhook; return what became of it."
    )

    async def create_push_config(
        self,
        session_id: str,
        task_id: str,
        url: str,
        *,
        secret: str | None = None,
        event_filter: Filter | None = None,
    ) -> TaskPushConfig:
        """Create a webhook of one task, for all of its events or for those that `event_filter` names."""
        body = CreatePushConfig(url, secret, event_filter)
        return await self.call("POST", path_of(_CONFIGS, session_id, task_id), TaskPushConfig, body=body)

    async def list_push_configs(self, session_id: str, task_id: str) -> tuple[TaskPushConfig, ...]:
        """List the webhooks of a task."""
        return await listed(self, path_of(_CONFIGS, session_id, task_id), TaskPushConfig)

    async def delete_push_config(self, session_id: str, task_id: str, config_id: str) -> None:
        """Delete a webhook of a task."""
        await self.transport.request("DELETE", path_of(f"{_CONFIGS}/{{}}", session_id, task_id, config_id))
