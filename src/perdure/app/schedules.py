"""Schedules over HTTP, and their firing: each exactly once, whatever crashes."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from perdure.app.context import App
from perdure.app.messages import take_in
from perdure.app.sessions import write_at_head
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput, NotFound
from perdure.domain.ids import ScheduleId, SessionId
from perdure.domain.messages import Message, TextPart
from perdure.domain.schedules import (
    MAX_ACTIVE,
    CreateSchedule,
    Schedule,
    UpdateSchedule,
    first_firing,
    next_firing,
    zone_of,
)
from perdure.domain.times import Micros, from_rfc3339, maybe_rfc3339, to_rfc3339
from perdure.store.database import Tx
from perdure.store.schedules import (
    ScheduleRow,
    delete_schedule,
    due_schedules,
    get_schedule,
    list_schedules,
    take_firing,
    update_schedule,
)
from perdure.store.sessions import get_session
from perdure.tools.session_schedule import insert_schedule, new_schedule


def to_schedule(row: ScheduleRow) -> Schedule:
    """The row as clients see it."""
    return Schedule(
        row.id,
        row.session_id,
        row.message,
        row.kind,
        row.timezone,
        bool(row.enabled),
        row.fire_count,
        to_rfc3339(row.created_at),
        to_rfc3339(row.updated_at),
        row.name,
        row.cron,
        maybe_rfc3339(row.at),
        maybe_rfc3339(row.next_at),
        maybe_rfc3339(row.last_fired_at),
    )


async def create_schedule(app: App, caller: Caller, session_id: SessionId, body: CreateSchedule) -> Schedule:
    """Make a schedule."""
    now = app.now()

    async def work(tx: Tx) -> Schedule:
        session = await get_session(tx, caller.organization_id, session_id, lock=True)
        row = new_schedule(
            session.org_id,
            session.id,
            name=body.name,
            message=body.message,
            cron=body.cron,
            at=body.at,
            timezone=body.timezone,
            enabled=body.enabled,
            now=now,
        )
        await insert_schedule(tx, row)
        return to_schedule(row)

    return await app.database.write(work)


async def all_schedules(app: App, caller: Caller, session_id: SessionId) -> list[Schedule]:
    """The session's schedules, oldest first, those that are over included."""

    async def work(tx: Tx) -> list[Schedule]:
        session = await get_session(tx, caller.organization_id, session_id)
        return [to_schedule(row) for row in await list_schedules(tx, session.id)]

    return await app.database.read(work)


async def read_schedule(app: App, caller: Caller, session_id: SessionId, schedule_id: ScheduleId) -> Schedule:
    """One schedule. Raises NotFound."""

    async def work(tx: Tx) -> Schedule:
        session = await get_session(tx, caller.organization_id, session_id)
        return to_schedule(await get_schedule(tx, session.id, schedule_id))

    return await app.database.read(work)


async def change_schedule(
    app: App, caller: Caller, session_id: SessionId, schedule_id: ScheduleId, body: UpdateSchedule
) -> Schedule:
    """Change what the caller named; the next firing follows from it."""
    now = app.now()

    async def work(tx: Tx) -> Schedule:
        session = await get_session(tx, caller.organization_id, session_id, lock=True)
        row = await get_schedule(tx, session.id, schedule_id)
        changes = _changes(row, body, now)
        if not changes:
            return to_schedule(row)
        if changes.get("enabled") and not row.enabled:
            active = sum(each.enabled for each in await list_schedules(tx, session.id))
            if active >= MAX_ACTIVE:
                raise InvalidInput(
                    f"a session has at most {MAX_ACTIVE} active schedules", code="too_many_schedules"
                )
        await update_schedule(tx, row.id, changes | {"updated_at": max(now, row.updated_at + 1)})
        return to_schedule(await get_schedule(tx, session.id, schedule_id))

    return await app.database.write(work)


def _changes(row: ScheduleRow, body: UpdateSchedule, now: Micros) -> dict[str, Any]:
    given = {name: getattr(body, name) for name in body.__struct_fields__ if getattr(body, name) is not UNSET}
    changes: dict[str, Any] = {name: given[name] for name in ("message", "name", "timezone") if name in given}
    if "cron" in given and "at" in given:
        raise InvalidInput("give either `cron` or `at`", field="cron")
    cron = given.get("cron", None if "at" in given else row.cron)
    at = given.get("at", None if "cron" in given else maybe_rfc3339(row.at))
    enabled = given.get("enabled", bool(row.enabled))
    if {"cron", "at", "timezone", "enabled"} & given.keys():
        zone = given.get("timezone", row.timezone)
        zone_of(zone)
        # What is given has to be right, also while the schedule is off; a time that came, and is over, may
        # stay.
        first = first_firing(cron, at, zone, now) if enabled or {"cron", "at"} & given.keys() else None
        changes |= {
            "cron": cron,
            "at": None if at is None else from_rfc3339(at),
            "kind": "once" if cron is None else "cron",
        }
        changes |= {"enabled": int(enabled), "next_at": first if enabled else None}
    return changes


async def remove_schedule(app: App, caller: Caller, session_id: SessionId, schedule_id: ScheduleId) -> None:
    """Delete a schedule."""

    async def work(tx: Tx) -> None:
        session = await get_session(tx, caller.organization_id, session_id)
        if not await delete_schedule(tx, session.id, schedule_id):
            raise NotFound("schedule")

    await app.database.write(work)


async def fire_due(app: App) -> int:
    """Fire every schedule whose time has come; how many did.

    What was missed while nobody was there comes once, not as often as it was missed.
    """
    now = app.now()
    fired = 0
    for row in await app.database.read(lambda tx: due_schedules(tx, now)):
        fired += await write_at_head(app, lambda tx, row=row: _fire(app, tx, row, now))
    return fired


async def _fire(app: App, tx: Tx, row: ScheduleRow, now: Micros) -> int:
    """The firing, the message and the job are one transaction: all or none."""
    try:
        session = await get_session(tx, row.org_id, row.session_id, lock=True)
    except NotFound:
        await delete_schedule(tx, row.session_id, row.id)
        return 0
    next_at = None if row.cron is None else next_firing(row.cron, row.timezone, now)
    if not await take_firing(tx, row, next_at, now):
        return 0
    marked = {"scheduled": {"schedule_id": row.id, "due_at": to_rfc3339(row.next_at or now)}}
    message = Message(
        app.new_id("message"), "user", (TextPart(row.message),), to_rfc3339(now), metadata=marked
    )
    await take_in(app, tx, session, message, now)
    return 1
