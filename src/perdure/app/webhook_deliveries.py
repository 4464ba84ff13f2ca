"""Deliveries to webhooks: what is due, one attempt, and what becomes of it.

An attempt is made outside any transaction. Before it, the line of the webhook and the session is taken for
`LEASE`. A process that dies in between leaves it to another one, which sends the event again under its id.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from perdure.app.context import Services
from perdure.domain.errors import Unreadable
from perdure.domain.ids import OrgId
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.webhooks import (
    MAX_ERROR,
    Signed,
    WebhookKey,
    is_dead,
    next_attempt,
    sign,
)
from perdure.net.webhook_http import Reply
from perdure.store.database import Changes, Tx
from perdure.store.webhook_deliveries import (
    DeliveryRow,
    Line,
    due_lines,
    event_data,
    free_lines,
    leave_line,
    lock_line,
    next_delivery,
    put_attempt,
    take_line,
)
from perdure.store.webhooks import (
    WebhookRow,
    binding_of,
    find_webhook,
    remove_webhooks,
    update_webhook,
)

LEASE = 60_000_000
"""Microseconds for which a process takes a line, longer than an attempt takes."""
GONE = 410
"""The status by which a receiver says that it wants to hear nothing more."""
LOST = Reply(None, "the event cannot be read any more: its session was deleted, or is damaged")
"""What becomes of an attempt without an event to send. Nothing follows it."""
UNSIGNED = Reply(None, "the webhook's secret cannot be decrypted: see the operations guide on master keys")
"""What becomes of an attempt without a key to sign with, which another process may have."""


class Attempt(Struct, frozen=True):
    """An attempt to make.

    Attributes:
        request: what to send; without it, what becomes of the attempt.
        failing: whether the webhook's last attempt failed.
    """

    line: Line
    delivery: DeliveryRow
    url: str
    request: Signed | Reply
    failing: bool


async def look_due(
    app: Services, without: tuple[WebhookKey, ...], limit: int, *, without_orgs: tuple[OrgId, ...] = ()
) -> list[Line]:
    """Return lines that are due, except those of some webhooks and organizations."""
    return await app.database.read(lambda tx: due_lines(tx, app.now(), without, without_orgs, limit))


async def take_attempt(app: Services, line: Line) -> Attempt | None:
    """Take a line, and return the attempt to make; None if there is none, or another process has it."""
    now = app.now()

    async def work(tx: Tx) -> Attempt | None:
        mine = await take_line(tx, line, now + LEASE)
        if mine is None:
            return None
        hook = await _hook(tx, line.hook_id)
        if hook is None:
            await remove_webhooks(tx, [line.hook_id])
            return None
        delivery = await next_delivery(tx, mine, now) if hook.enabled else None
        if delivery is None:
            await leave_line(tx, mine, enabled=bool(hook.enabled))
            return None
        request = await _request(app, tx, hook, delivery, now)
        return Attempt(mine, delivery, hook.url, request, failing=hook.failures > 0)

    return await app.database.write(work)


async def _hook(tx: Tx, hook_id: WebhookKey, *, changes: bool = False) -> WebhookRow | None:
    """The webhook of a line that is locked.

    Its row is locked, too, if it is changed, has failed or is disabled: whoever enables it at the same time
    waits for that, or is seen here. Else failures would get lost, or the line would wait without end.
    """
    hook = await find_webhook(tx, hook_id)
    if hook is not None and (changes or hook.failures or not hook.enabled):
        return await find_webhook(tx, hook_id, lock=True)
    return hook


async def _request(
    app: Services, tx: Tx, hook: WebhookRow, delivery: DeliveryRow, now: Micros
) -> Signed | Reply:
    event = await event_data(tx, delivery)
    if event is None:
        return LOST
    data, ts = event
    try:
        secret = await app.vault.open(tx, hook.org_id, hook.secret, binding_of(hook.id))
        body = body_of(delivery, data, ts)
    except Unreadable:
        return UNSIGNED
    except msgspec.DecodeError:
        return LOST
    return sign(secret, delivery.id, now // 1_000_000, body)


def body_of(delivery: DeliveryRow, data: str, ts: Micros) -> bytes:
    """The body of a delivery: the event's type, time and data, and where it is in the log.

    Raises:
        DecodeError: the event is damaged.
    """
    fields: dict[str, object] = {
        **msgspec.json.decode(data, type=dict[str, Raw]),
        "session_id": delivery.session_id,
        "task_id": delivery.task_id,
        "sequence": delivery.sequence,
        "organization_id": delivery.org_id,
    }
    return msgspec.json.encode({"type": delivery.type, "timestamp": to_rfc3339(ts), "data": fields})


async def note_reply(app: Services, attempt: Attempt, reply: Reply) -> Micros | None:
    """Note what became of an attempt; return when the line's next attempt is due."""
    now = app.now()

    async def work(tx: Tx) -> Micros | None:
        mine = await lock_line(tx, attempt.line)
        hook = await _hook(tx, attempt.line.hook_id, changes=reply.error is not None)
        if hook is None:
            return None
        # What its former receiver answers says nothing about the one that it has now.
        moved = hook.url != attempt.url
        after = _after(attempt.delivery, reply, now, gone=reply.status == GONE and not moved)
        enabled = bool(hook.enabled)
        if await put_attempt(tx, attempt.delivery, after) and isinstance(attempt.request, Signed):
            changes = {} if moved else _changes(hook, reply, now)
            if changes:
                await update_webhook(tx, hook.id, changes)
            enabled = enabled and "enabled" not in changes
        return await leave_line(tx, attempt.line, enabled=enabled) if mine else None

    return await app.database.write(work)


def _after(row: DeliveryRow, reply: Reply, now: Micros, *, gone: bool) -> DeliveryRow:
    """The delivery after an attempt. `gone`: whether the receiver wants nothing more."""
    attempts = row.attempts + 1
    new = replace(
        row, attempts=attempts, status_code=reply.status, error=reply.error, due_at=None, ended_at=now
    )
    if reply.error is None:
        return replace(new, state="delivered")
    due = None if reply is LOST else next_attempt(row.created_at, attempts, now, reply.retry_after)
    if due is None or gone:
        return replace(new, state="failed")
    return replace(new, state="retrying", due_at=due, ended_at=None)


def _changes(hook: WebhookRow, reply: Reply, now: Micros) -> Changes:
    """What an attempt changes of its webhook."""
    if reply.error is None:
        calm: Changes = {"failures": 0, "failing_since": None, "last_error": None}
        return calm if hook.failures else {}
    failures = hook.failures + 1
    since = hook.failing_since or now
    changes: Changes = {
        "failures": failures,
        "failing_since": since,
        "last_error": reply.error[:MAX_ERROR],
    }
    reason = None
    if reply.status == GONE:
        reason = "the receiver answered 410: it wants to hear nothing more"
    elif is_dead(failures, since, now):
        reason = f"the last {failures} attempts failed, since {to_rfc3339(since)}: {reply.error}"
    if reason is not None and hook.enabled:
        stopped: Changes = {
            "enabled": 0,
            "disabled_reason": reason,
            "updated_at": max(now, hook.updated_at + 1),
        }
        changes |= stopped
    return changes


async def free_all(app: Services) -> None:
    """Take the lines back from the process that ran before, where only one runs at a time."""
    await app.database.write(free_lines)
