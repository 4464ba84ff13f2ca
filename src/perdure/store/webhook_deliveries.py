"""Rows of what is on its way to webhooks.

An append notes a delivery for each webhook that hears of its events, in its own transaction, and marks the
line of the webhook and the session as due. Whoever sends takes a line for a time (a lease), makes one
attempt, and notes what became of it. So the first attempts of a session's events are made in the order of its
log, and what a crash interrupts is repeated with the same id.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Literal

import msgspec
from msgspec import Struct

from perdure.domain.errors import Damaged
from perdure.domain.events import (
    NewEvent,
    TaskMessageReceivedData,
    TaskMessageSentData,
    TaskUpdatedData,
)
from perdure.domain.ids import OrgId, SessionId, TaskId
from perdure.domain.tasks import ENDED
from perdure.domain.times import Micros
from perdure.domain.webhooks import DeliveryState, Filter, WebhookKey, hears
from perdure.store.confidential import reader_of
from perdure.store.database import LOCK_ROW, Purged, Row, Tx
from perdure.store.rows import columns, from_json, insert, values


class DeliveryRow(Struct, frozen=True):
    """An event on its way to a webhook. A test has neither a session nor a task.

    Attributes:
        due_at: of the next attempt; None once no attempt follows.
        ended_at: when it was delivered, or given up.
    """

    id: str
    hook_id: WebhookKey
    org_id: OrgId
    session_id: SessionId | Literal[""]
    task_id: TaskId | Literal[""]
    sequence: int
    type: str
    state: DeliveryState
    attempts: int
    due_at: Micros | None
    status_code: int | None
    error: str | None
    created_at: Micros
    ended_at: Micros | None


class Line(Struct, frozen=True):
    """What is left to send to a webhook of a session's events."""

    hook_id: WebhookKey
    session_id: SessionId
    org_id: OrgId
    leased_until: Micros


_COLUMNS = columns(DeliveryRow)
_FILTER = msgspec.json.Decoder(Filter)
_OF_TASKS = (TaskUpdatedData, TaskMessageSentData, TaskMessageReceivedData)
"""Without `task.created`: before it, nobody can ask to hear of the task."""
_MARK = (
    "INSERT INTO webhook_lines (hook_id, session_id, org_id, due_at, leased_until) VALUES (?, ?, ?, ?, 0)"
    " ON CONFLICT (hook_id, session_id) DO UPDATE SET due_at = CASE WHEN webhook_lines.due_at IS NULL"
    " OR webhook_lines.due_at > excluded.due_at THEN excluded.due_at ELSE webhook_lines.due_at END"
)


class _Heard(Struct, frozen=True):
    """An event of a task. `state`: the one that the task is in after it; None if it does not say."""

    sequence: int
    type: str
    task_id: TaskId
    state: str | None

    @property
    def ends(self) -> bool:
        return self.type == TaskUpdatedData.kind and self.state in ENDED


def _heard(events: Sequence[NewEvent], first: int) -> list[_Heard]:
    found = []
    for sequence, event in enumerate(events, first):
        match event.data:
            case TaskUpdatedData(task=task):
                found.append(_Heard(sequence, event.data.kind, task.id, task.state))
            case TaskMessageSentData(task_id=task_id) | TaskMessageReceivedData(task_id=task_id):
                found.append(_Heard(sequence, event.data.kind, task_id, None))
    return found


async def note_task_events(
    tx: Tx, org_id: OrgId, session_id: SessionId, events: Sequence[NewEvent], first: int, now: Micros
) -> None:
    """Note the deliveries of events that were appended to a session's log.

    Appends without events of tasks cost nothing here, others one look into an index.

    Args:
        events: what was appended.
        first: the sequence of the first event.
    """
    if not any(isinstance(event.data, _OF_TASKS) for event in events):
        return
    heard = _heard(events, first)
    tasks = ["", *sorted({each.task_id for each in heard})]
    hooks = await tx.all(
        f"SELECT id, task_id, wanted FROM webhooks WHERE org_id = ? AND task_id IN ({_commas(tasks)})"
        " AND enabled = 1 ORDER BY id",
        org_id,
        *tasks,
    )
    rows = [
        _new_row(org_id, session_id, hook[0], each, now)
        for hook in hooks
        for each in heard
        if _wants(hook, each)
    ]
    if rows and await reader_of(tx, session_id) is None:  # of a closed session, only its user hears
        await tx.run_many(insert("webhook_deliveries", DeliveryRow), [values(row) for row in rows])
        lines = dict.fromkeys((row.hook_id, session_id, org_id, now) for row in rows)
        await tx.run_many(_MARK, list(lines))


def _commas(items: Sequence[str]) -> str:
    return ", ".join("?" * len(items))


def _wants(hook: Row, event: _Heard) -> bool:
    _, task_id, wanted = hook
    if not task_id:
        return event.ends
    return event.task_id == task_id and hears(_filter(wanted), event.type, event.state)


def _filter(text: str) -> Filter:
    """A webhook's filter; everything if it is damaged: an append must not fail for it."""
    try:
        return from_json(_FILTER, text, "")
    except Damaged:
        return ()


def _new_row(
    org_id: OrgId, session_id: SessionId, hook_id: WebhookKey, event: _Heard, now: Micros
) -> DeliveryRow:
    return DeliveryRow(
        delivery_id(hook_id, session_id, event.sequence),
        hook_id,
        org_id,
        session_id,
        event.task_id,
        event.sequence,
        event.type,
        "queued",
        attempts=0,
        due_at=now,
        status_code=None,
        error=None,
        created_at=now,
        ended_at=None,
    )


def delivery_id(hook_id: WebhookKey, session_id: SessionId, sequence: int) -> str:
    """The id of the delivery of an event to a webhook: always the same."""
    digest = sha256(f"{hook_id}/{session_id}/{sequence}".encode()).hexdigest()
    return f"delivery_{digest[:32]}"


async def add_delivery(tx: Tx, row: DeliveryRow) -> None:
    """Insert a delivery that no line belongs to."""
    await tx.run(insert("webhook_deliveries", DeliveryRow), *values(row))


async def last_deliveries(tx: Tx, hook_id: WebhookKey, limit: int) -> list[DeliveryRow]:
    """Return a webhook's deliveries, newest first."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM webhook_deliveries WHERE hook_id = ?"
        " ORDER BY created_at DESC, sequence DESC, id LIMIT ?",
        hook_id,
        limit,
    )
    return [DeliveryRow(*row) for row in rows]


async def due_lines(
    tx: Tx, now: Micros, without: Sequence[WebhookKey], without_orgs: Sequence[OrgId], limit: int
) -> list[Line]:
    """Return lines that are due and that nobody has, the longest overdue first.

    Args:
        without: webhooks to leave out.
        without_orgs: organizations to leave out.
    """
    others = f" AND hook_id NOT IN ({_commas(without)})" if without else ""
    if without_orgs:
        others += f" AND org_id NOT IN ({_commas(without_orgs)})"
    rows = await tx.all(
        "SELECT hook_id, session_id, org_id, leased_until FROM webhook_lines"
        f" WHERE due_at <= ? AND leased_until <= ?{others} ORDER BY due_at LIMIT ?",
        now,
        now,
        *without,
        *without_orgs,
        limit,
    )
    return [Line(*row) for row in rows]


async def take_line(tx: Tx, line: Line, until: Micros) -> Line | None:
    """Take a line for a time, by a compare-and-set; None if another process was faster."""
    taken = await tx.run(
        "UPDATE webhook_lines SET leased_until = ? WHERE hook_id = ? AND session_id = ? AND leased_until = ?",
        until,
        line.hook_id,
        line.session_id,
        line.leased_until,
    )
    return msgspec.structs.replace(line, leased_until=until) if taken == 1 else None


async def lock_line(tx: Tx, line: Line) -> bool:
    """Lock a line's row until the commit; return whether this process still has it."""
    found = await tx.one(
        "SELECT leased_until FROM webhook_lines WHERE hook_id = ? AND session_id = ?" + LOCK_ROW[tx.dialect],
        line.hook_id,
        line.session_id,
    )
    return found is not None and found[0] == line.leased_until


async def next_delivery(tx: Tx, line: Line, now: Micros) -> DeliveryRow | None:
    """Return what to send next: first attempts in the order of the log, before further ones that are due."""
    where = f"SELECT {_COLUMNS} FROM webhook_deliveries WHERE hook_id = ? AND session_id = ? AND due_at"
    found = await tx.one(
        f"{where} IS NOT NULL AND state = 'queued' ORDER BY sequence LIMIT 1", line.hook_id, line.session_id
    ) or await tx.one(f"{where} <= ? ORDER BY due_at, sequence LIMIT 1", line.hook_id, line.session_id, now)
    return None if found is None else DeliveryRow(*found)


async def put_attempt(tx: Tx, before: DeliveryRow, after: DeliveryRow) -> bool:
    """Store what became of an attempt; return False if another process has stored one meanwhile."""
    stored = await tx.run(
        "UPDATE webhook_deliveries SET state = ?, attempts = ?, due_at = ?, status_code = ?, error = ?,"
        " ended_at = ? WHERE id = ? AND attempts = ? AND due_at IS NOT NULL",
        after.state,
        after.attempts,
        after.due_at,
        after.status_code,
        after.error,
        after.ended_at,
        before.id,
        before.attempts,
    )
    return stored == 1


async def leave_line(tx: Tx, line: Line, *, enabled: bool) -> Micros | None:
    """Give a line back, whose row is locked; return when its next attempt is due, and remove it without one.

    Args:
        enabled: whether the webhook is; if not, the line waits until it is.
    """
    found = await tx.one(
        "SELECT MIN(due_at) FROM webhook_deliveries WHERE hook_id = ? AND session_id = ?"
        " AND due_at IS NOT NULL",
        line.hook_id,
        line.session_id,
    )
    due: Micros | None = None if found is None else found[0]
    if due is None:
        await tx.run(
            "DELETE FROM webhook_lines WHERE hook_id = ? AND session_id = ?", line.hook_id, line.session_id
        )
        return None
    await tx.run(
        "UPDATE webhook_lines SET due_at = ?, leased_until = 0 WHERE hook_id = ? AND session_id = ?",
        due if enabled else None,
        line.hook_id,
        line.session_id,
    )
    return due if enabled else None


async def wake_lines(tx: Tx, hook_id: WebhookKey, now: Micros) -> None:
    """Make all that waits for a webhook due, because it has been enabled or has another URL."""
    later = "hook_id = ? AND due_at > ?"
    await tx.run(
        f"UPDATE webhook_lines SET due_at = ? WHERE {later} OR hook_id = ? AND due_at IS NULL",
        *(now, hook_id, now, hook_id),
    )
    await tx.run(f"UPDATE webhook_deliveries SET due_at = ? WHERE {later}", now, hook_id, now)


async def free_lines(tx: Tx) -> None:
    """Take all lines back from a process that has ended."""
    await tx.run("UPDATE webhook_lines SET leased_until = 0 WHERE leased_until > 0")


async def event_data(tx: Tx, row: DeliveryRow) -> tuple[str, Micros] | None:
    """Return the data of a delivery's event, as JSON, and its time; None if its log is gone."""
    found = await tx.one(
        "SELECT data, ts FROM events WHERE session_id = ? AND sequence = ? AND org_id = ?",
        row.session_id,
        row.sequence,
        row.org_id,
    )
    return None if found is None else (found[0], found[1])


async def purge_deliveries(tx: Tx, before: Micros, batch: int = 500) -> Purged:
    """Remove a batch of deliveries that were noted before an instant, in microseconds."""
    rows = await tx.all("SELECT id FROM webhook_deliveries WHERE created_at < ? LIMIT ?", before, batch)
    await tx.run_many("DELETE FROM webhook_deliveries WHERE id = ?", rows)
    return Purged(len(rows), len(rows) == batch)


async def purge_lines(tx: Tx) -> None:
    """Remove the lines of disabled webhooks of which nothing is left to send."""
    await tx.run(
        "DELETE FROM webhook_lines WHERE due_at IS NULL AND NOT EXISTS (SELECT 1 FROM webhook_deliveries"
        " WHERE webhook_deliveries.hook_id = webhook_lines.hook_id"
        " AND webhook_deliveries.session_id = webhook_lines.session_id"
        " AND webhook_deliveries.due_at IS NOT NULL)"
    )
