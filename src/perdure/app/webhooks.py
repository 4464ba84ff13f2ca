"""Webhooks of an organization, which hear of the end of every task: create, read, change, delete, test."""

from __future__ import annotations

import os
from typing import Literal

import msgspec
from msgspec.structs import replace

from perdure.app.context import Services
from perdure.domain.accounts import Caller, require
from perdure.domain.errors import Conflict
from perdure.domain.ids import OrgId, SessionId, TaskId, WebhookId
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.domain.webhooks import (
    MAX_WEBHOOKS,
    SHOWN,
    TEST,
    CreateTaskWebhook,
    Filter,
    TaskWebhook,
    UpdateTaskWebhook,
    WebhookDelivery,
    WebhookKey,
    body_of_test,
    key_of,
    new_secret,
    sign,
)
from perdure.net.webhook_http import check_target, post_signed
from perdure.store.accounts import lock_organization
from perdure.store.database import Changes, Tx
from perdure.store.rows import to_json
from perdure.store.webhook_deliveries import DeliveryRow, add_delivery, last_deliveries, wake_lines
from perdure.store.webhooks import (
    OF_ORGANIZATION,
    WebhookRow,
    add_webhook,
    binding_of,
    get_webhook,
    list_webhooks,
    remove_webhooks,
    update_webhook,
)

SECRET_BYTES = 32
"""Random bytes of a secret that the server makes."""


def to_webhook(row: WebhookRow, secret: str | None = None) -> TaskWebhook:
    """Convert a row to the resource that clients see.

    Args:
        secret: the secret that was made for it, which is shown this once.
    """
    return TaskWebhook(
        WebhookId(row.id),
        row.url,
        bool(row.enabled),
        has_secret=True,
        created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at),
        secret=secret,
        disabled_reason=row.disabled_reason,
        last_error=row.last_error,
    )


def to_delivery(row: DeliveryRow) -> WebhookDelivery:
    """Convert a row to the resource that clients see."""
    return WebhookDelivery(
        row.id,
        row.type,
        row.state,
        row.attempts,
        to_rfc3339(row.created_at),
        row.session_id or None,
        row.task_id or None,
        row.sequence or None,
        row.status_code,
        row.error,
        maybe_rfc3339(row.due_at),
        maybe_rfc3339(row.ended_at),
    )


def made_secret(given: str | None) -> tuple[str, str | None]:
    """The secret of a new webhook, and what of it is shown: a secret that is made now, but not a given one.

    Raises:
        InvalidInput: the given one cannot be used.
    """
    if given is None:
        made = new_secret(os.urandom(SECRET_BYTES))
        return made, made
    key_of(given)
    return given, None


async def sealed_row(
    app: Services,
    tx: Tx,
    org_id: OrgId,
    place: tuple[SessionId | Literal[""], TaskId | Literal[""]],
    hook_id: WebhookKey,
    url: str,
    secret: str,
    *,
    wanted: Filter = (),
    enabled: bool = True,
) -> WebhookRow:
    """The row of a new webhook. `place`: the session and the task, or none."""
    now = app.now()
    return WebhookRow(
        hook_id,
        org_id,
        *place,
        url=url,
        secret=await app.vault.seal(tx, org_id, secret, binding_of(hook_id)),
        wanted=to_json(wanted),
        enabled=int(enabled),
        disabled_reason=None,
        failures=0,
        failing_since=None,
        last_error=None,
        created_at=now,
        updated_at=now,
    )


async def create_webhook(app: Services, caller: Caller, body: CreateTaskWebhook) -> TaskWebhook:
    """Create a webhook.

    Raises:
        Forbidden: the caller is no admin.
        InvalidInput: the URL or the secret cannot be used.
        Conflict: the organization has as many as are allowed.
    """
    require(caller, "admin")
    secret, shown = made_secret(body.secret)
    await check_target(body.url, app.private_addresses)
    org_id, hook_id = caller.organization_id, WebhookId(app.new_id("webhook"))

    async def work(tx: Tx) -> TaskWebhook:
        await lock_organization(tx, org_id)
        if len(await list_webhooks(tx, org_id, OF_ORGANIZATION)) >= MAX_WEBHOOKS:
            raise Conflict(
                f"the organization has {MAX_WEBHOOKS} webhooks, and more are not allowed: delete one first",
                code="too_many_webhooks",
            )
        nowhere = (OF_ORGANIZATION, OF_ORGANIZATION)
        row = await sealed_row(app, tx, org_id, nowhere, hook_id, body.url, secret, enabled=body.enabled)
        await add_webhook(tx, row)
        return to_webhook(row, shown)

    return await app.database.write(work)


async def all_webhooks(app: Services, caller: Caller) -> list[TaskWebhook]:
    """List the organization's webhooks, oldest first. Raises Forbidden."""
    require(caller, "admin")
    rows = await app.database.read(lambda tx: list_webhooks(tx, caller.organization_id, OF_ORGANIZATION))
    return [to_webhook(row) for row in rows]


async def read_webhook(app: Services, caller: Caller, hook_id: WebhookId) -> TaskWebhook:
    """Return a webhook. Raises Forbidden, NotFound."""
    require(caller, "admin")
    return to_webhook(await app.database.read(lambda tx: _get(tx, caller, hook_id)))


async def _get(tx: Tx, caller: Caller, hook_id: WebhookId, *, lock: bool = False) -> WebhookRow:
    return await get_webhook(tx, caller.organization_id, OF_ORGANIZATION, hook_id, lock=lock)


async def change_webhook(
    app: Services, caller: Caller, hook_id: WebhookId, body: UpdateTaskWebhook
) -> TaskWebhook:
    """Change a webhook. What waits is sent once it is enabled, or has another URL.

    Raises:
        Forbidden: the caller is no admin.
        NotFound: there is no such webhook.
        InvalidInput: the URL or the secret cannot be used.
    """
    require(caller, "admin")
    if body.secret is not None:
        key_of(body.secret)
    if body.url is not None:
        await check_target(body.url, app.private_addresses)
    now = app.now()

    async def work(tx: Tx) -> TaskWebhook:
        row = await _get(tx, caller, hook_id, lock=True)
        changes: Changes = {"updated_at": max(now, row.updated_at + 1)}
        moved = body.url is not None and body.url != row.url
        if moved:
            changes["url"] = body.url
        if body.secret is not None:
            changes["secret"] = await app.vault.seal(tx, row.org_id, body.secret, binding_of(row.id))
        if body.enabled is not None:
            changes |= {"enabled": int(body.enabled), "disabled_reason": None}
        enabled = bool(row.enabled) if body.enabled is None else body.enabled
        if enabled and (moved or not row.enabled):
            changes |= {"failures": 0, "failing_since": None, "last_error": None}
            await wake_lines(tx, row.id, now)
        await update_webhook(tx, row.id, changes)
        return to_webhook(await _get(tx, caller, hook_id))

    return await app.database.write(work)


async def delete_webhook(app: Services, caller: Caller, hook_id: WebhookId) -> None:
    """Delete a webhook with everything that is on its way to it. Raises Forbidden, NotFound."""
    require(caller, "admin")

    async def work(tx: Tx) -> None:
        row = await _get(tx, caller, hook_id)
        await remove_webhooks(tx, [row.id])

    await app.database.write(work)


async def deliveries_of(app: Services, caller: Caller, hook_id: WebhookId) -> list[WebhookDelivery]:
    """List a webhook's last deliveries, newest first. Raises Forbidden, NotFound."""
    require(caller, "admin")

    async def work(tx: Tx) -> list[DeliveryRow]:
        row = await _get(tx, caller, hook_id)
        return await last_deliveries(tx, row.id, SHOWN)

    return [to_delivery(row) for row in await app.database.read(work)]


async def send_test(app: Services, caller: Caller, hook_id: WebhookId) -> WebhookDelivery:
    """Send a test to a webhook, also to a disabled one: one attempt, whose result is returned.

    Raises:
        Forbidden: the caller is no admin.
        NotFound: there is no such webhook.
    """
    require(caller, "admin")
    now = app.now()

    async def read(tx: Tx) -> tuple[WebhookRow, str]:
        row = await _get(tx, caller, hook_id)
        return row, await app.vault.open(tx, row.org_id, row.secret, binding_of(row.id))

    row, secret = await app.database.read(read)
    test = _test(row, app.new_id("delivery"), now)
    body = msgspec.json.encode(body_of_test(row.org_id, row.id, to_rfc3339(now)))
    reply = await post_signed(row.url, sign(secret, test.id, now // 1_000_000, body), app.private_addresses)
    sent = replace(
        test,
        state="delivered" if reply.error is None else "failed",
        status_code=reply.status,
        error=reply.error,
        ended_at=app.now(),
    )

    async def note(tx: Tx) -> None:
        await _get(tx, caller, hook_id)
        await add_delivery(tx, sent)

    await app.database.write(note)
    return to_delivery(sent)


def _test(row: WebhookRow, delivery_id: str, now: Micros) -> DeliveryRow:
    return DeliveryRow(
        delivery_id, row.id, row.org_id, OF_ORGANIZATION, OF_ORGANIZATION, 0, TEST, "queued",
        attempts=1, due_at=None, status_code=None, error=None, created_at=now, ended_at=None,
    )  # fmt: skip
