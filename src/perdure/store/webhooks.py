"""Rows of webhooks: those of organizations, and those of single tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from perdure.domain.errors import NotFound
from perdure.domain.ids import OrgId, SessionId, TaskId
from perdure.domain.times import Micros
from perdure.domain.webhooks import Filter, WebhookKey
from perdure.store.database import LOCK_ROW, Changes, Tx
from perdure.store.rows import assignments, columns, from_json, insert, values

OF_ORGANIZATION: Literal[""] = ""
"""The session and the task of a webhook that hears of all tasks."""


class WebhookRow(Struct, frozen=True):
    """A webhook.

    Attributes:
        secret: what its requests are signed with, encrypted.
        wanted: its filter of events, as JSON.
        failures: the attempts that failed since the last one that succeeded.
        failing_since: when the first of them failed.
        disabled_reason: why the server has disabled it.
    """

    id: WebhookKey
    org_id: OrgId
    session_id: SessionId | Literal[""]
    task_id: TaskId | Literal[""]
    url: str
    secret: bytes
    wanted: str
    enabled: int
    disabled_reason: str | None
    failures: int
    failing_since: Micros | None
    last_error: str | None
    created_at: Micros
    updated_at: Micros

    def filter(self) -> Filter:
        """The types of events and the states that it wants; empty for all."""
        return from_json(_FILTER, self.wanted, f"the webhook {self.id}")


_FILTER = msgspec.json.Decoder(Filter)
_COLUMNS = columns(WebhookRow)


def binding_of(hook_id: WebhookKey) -> str:
    """The place that a webhook's encrypted secret is bound to."""
    return f"webhook/{hook_id}"


async def add_webhook(tx: Tx, row: WebhookRow) -> None:
    """Insert a new webhook."""
    await tx.run(insert("webhooks", WebhookRow), *values(row))


async def find_webhook(tx: Tx, hook_id: WebhookKey, *, lock: bool = False) -> WebhookRow | None:
    """Return a webhook of any organization, for the server itself; `lock` locks its row."""
    suffix = LOCK_ROW[tx.dialect] if lock else ""
    found = await tx.one(f"SELECT {_COLUMNS} FROM webhooks WHERE id = ?{suffix}", hook_id)
    return None if found is None else WebhookRow(*found)


async def get_webhook(
    tx: Tx, org_id: OrgId, task_id: TaskId | Literal[""], hook_id: WebhookKey, *, lock: bool = False
) -> WebhookRow:
    """Return the webhook of an organization, or of a task; `lock` locks its row. Raises NotFound."""
    suffix = LOCK_ROW[tx.dialect] if lock else ""
    found = await tx.one(
        f"SELECT {_COLUMNS} FROM webhooks WHERE id = ? AND org_id = ? AND task_id = ?{suffix}",
        hook_id,
        org_id,
        task_id,
    )
    if found is None:
        raise NotFound("webhook" if task_id == OF_ORGANIZATION else "push config")
    return WebhookRow(*found)


async def list_webhooks(tx: Tx, org_id: OrgId, task_id: TaskId | Literal[""]) -> list[WebhookRow]:
    """Return the webhooks of an organization, or of a task, oldest first."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM webhooks WHERE org_id = ? AND task_id = ? ORDER BY created_at, id",
        org_id,
        task_id,
    )
    return [WebhookRow(*row) for row in rows]


async def update_webhook(tx: Tx, hook_id: WebhookKey, changes: Changes) -> None:
    """Store what changed of a webhook."""
    await tx.run(f"UPDATE webhooks SET {assignments(changes)} WHERE id = ?", *changes.values(), hook_id)


async def remove_webhooks(tx: Tx, hook_ids: Sequence[WebhookKey]) -> None:
    """Remove webhooks with everything that is on its way to them."""
    rows = [(each,) for each in hook_ids]
    # Lines first, as whoever sends locks them first.
    await tx.run_many("DELETE FROM webhook_lines WHERE hook_id = ?", rows)
    await tx.run_many("DELETE FROM webhook_deliveries WHERE hook_id = ?", rows)
    await tx.run_many("DELETE FROM webhooks WHERE id = ?", rows)


async def remove_webhooks_of_tasks(tx: Tx, tasks: Sequence[tuple[OrgId, TaskId]]) -> None:
    """Remove the webhooks of tasks that are removed."""
    for org_id, task_id in tasks:
        rows = await tx.all("SELECT id FROM webhooks WHERE org_id = ? AND task_id = ?", org_id, task_id)
        await remove_webhooks(tx, [row[0] for row in rows])
