"""A session's schedules, for HTTP and for its own tools; and their firing, exactly once despite crashes."""

from __future__ import annotations

import contextlib
import logging
from functools import partial

from msgspec import UNSET

from perdure.app.at_head import write_at_head
from perdure.app.context import App, Scope, Services
from perdure.app.idempotency import Once, write_once
from perdure.app.messages import append_message
from perdure.app.participants import named_agent
from perdure.domain.errors import InvalidInput, NotFound, Unavailable
from perdure.domain.ids import ScheduleId, SessionId
from perdure.domain.messages import Message, TextPart
from perdure.domain.schedules import (
    MAX_ACTIVE,
    MAX_KEPT,
    SCHEDULED,
    CreateSchedule,
    Schedule,
    UpdateSchedule,
    first_firing,
    next_firing,
    zone_of,
)
from perdure.domain.times import Micros, from_rfc3339, maybe_rfc3339, to_rfc3339
from perdure.store.database import Changes, Tx
from perdure.store.schedules import (
    DUE,
    ScheduleRow,
    add_schedule,
    delete_schedule,
    due_schedules,
    get_schedule,
    list_schedules,
    misdated_schedules,
    move_firing,
    take_firing,
    update_schedule,
)
from perdure.store.sessions import IN_TURN, SessionRow, get_session

log = logging.getLogger("perdure.scheduler")

ROUNDS = 100
"""The most times that `DUE` schedules are fired before the clock is read again."""

FIRE_AGAIN = 60_000_000
"""Microseconds until a firing that failed is tried again. Until then, it keeps no other schedule waiting."""

CLOCK_TOLERANCE = 60_000_000
"""Microseconds by which the clocks of two servers may differ."""


def to_schedule(row: ScheduleRow) -> Schedule:
    """Convert the row to its wire format."""
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


async def create_schedule(
    app: Services, scope: Scope, session_id: SessionId, body: CreateSchedule, once: Once | None = None
) -> Schedule:
    """Create a schedule.

    Raises:
        NotFound: the session does not exist.
        InvalidInput: the schedule can never fire, or the session has reached a limit.
    """
    now = app.now()

    async def work(tx: Tx) -> Schedule:
        session = await get_session(tx, scope.organization_id, session_id, lock=True)
        row = _new_row(app, session, body, now)
        known = await list_schedules(tx, session.id)
        if body.enabled:
            _check_active(known)
        if len(known) >= MAX_KEPT:
            raise InvalidInput(
                f"a session keeps at most {MAX_KEPT} schedules: delete one first", code="too_many_schedules"
            )
        await add_schedule(tx, row)
        return to_schedule(row)

    return await write_once(app, once, work)


def _check_active(known: list[ScheduleRow]) -> None:
    """Check that one more schedule may be active. The caller holds the session's row; the count is exact."""
    if sum(schedule.enabled for schedule in known) >= MAX_ACTIVE:
        raise InvalidInput(
            f"a session has at most {MAX_ACTIVE} active schedules: disable or delete one first",
            code="too_many_schedules",
        )


def _new_row(app: Services, session: SessionRow, body: CreateSchedule, now: Micros) -> ScheduleRow:
    first = first_firing(body.cron, body.at, body.timezone, now)
    return ScheduleRow(
        id=app.new_id("sched"),
        org_id=session.org_id,
        session_id=session.id,
        name=body.name,
        message=body.message,
        kind="once" if body.cron is None else "cron",
        cron=body.cron,
        at=None if body.at is None else from_rfc3339(body.at),
        timezone=body.timezone,
        enabled=int(body.enabled),
        next_at=first if body.enabled else None,
        last_fired_at=None,
        fire_count=0,
        created_at=now,
        updated_at=now,
    )


async def all_schedules(app: Services, scope: Scope, session_id: SessionId) -> list[Schedule]:
    """List the session's schedules, oldest first, including the finished ones."""

    async def work(tx: Tx) -> list[Schedule]:
        session = await get_session(tx, scope.organization_id, session_id)
        return [to_schedule(row) for row in await list_schedules(tx, session.id)]

    return await app.database.read(work)


async def read_schedule(
    app: Services, scope: Scope, session_id: SessionId, schedule_id: ScheduleId
) -> Schedule:
    """Read a schedule. Raises NotFound."""

    async def work(tx: Tx) -> Schedule:
        session = await get_session(tx, scope.organization_id, session_id)
        return to_schedule(await get_schedule(tx, session.id, schedule_id))

    return await app.database.read(work)


async def change_schedule(
    app: Services, scope: Scope, session_id: SessionId, schedule_id: ScheduleId, body: UpdateSchedule
) -> Schedule:
    """Change the fields that the body contains, and recompute the next firing.

    Raises:
        NotFound: the session or the schedule does not exist.
        InvalidInput: the schedule could never fire, or too many schedules would be active.
    """
    now = app.now()

    async def work(tx: Tx) -> Schedule:
        session = await get_session(tx, scope.organization_id, session_id, lock=True)
        row = await get_schedule(tx, session.id, schedule_id)
        changes = _changes(row, body, now)
        if not changes:
            return to_schedule(row)
        if changes.get("enabled") and not row.enabled:
            _check_active(await list_schedules(tx, session.id))
        await update_schedule(tx, row.id, changes | {"updated_at": max(now, row.updated_at + 1)})
        return to_schedule(await get_schedule(tx, session.id, schedule_id))

    return await app.database.write(work)


def _changes(row: ScheduleRow, body: UpdateSchedule, now: Micros) -> Changes:
    """The columns to change. Raises InvalidInput: the schedule could never fire."""
    plain = ("message", "name", "timezone")
    changes: Changes = {name: value for name in plain if (value := getattr(body, name)) is not UNSET}
    if body.cron is not UNSET and body.at is not UNSET:
        raise InvalidInput("set only one of `cron` and `at`", field="cron")
    timed = body.cron is not UNSET or body.at is not UNSET
    if timed or body.timezone is not UNSET or body.enabled is not UNSET:
        cron = (None if timed else row.cron) if body.cron is UNSET else body.cron
        at = (None if timed else maybe_rfc3339(row.at)) if body.at is UNSET else body.at
        enabled = bool(row.enabled) if body.enabled is UNSET else body.enabled
        zone = row.timezone if body.timezone is UNSET else body.timezone
        zone_of(zone)
        # A new time must be valid even while the schedule is disabled; a stored time may have passed.
        first = first_firing(cron, at, zone, now) if enabled or timed else None
        changes |= {
            "cron": cron,
            "at": None if at is None else from_rfc3339(at),
            "kind": "once" if cron is None else "cron",
            "enabled": int(enabled),
            "next_at": first if enabled else None,
        }
    return changes


async def remove_schedule(
    app: Services, scope: Scope, session_id: SessionId, schedule_id: ScheduleId
) -> None:
    """Delete a schedule. Raises NotFound."""

    async def work(tx: Tx) -> None:
        session = await get_session(tx, scope.organization_id, session_id)
        if not await delete_schedule(tx, session.id, schedule_id):
            raise NotFound("schedule")

    await app.database.write(work)


async def fire_due(app: App) -> int:
    """Fire every schedule that is due; returns how many fired.

    A schedule whose session is in a turn waits for its end: its message is a turn of its own, and never
    withdraws a question that a person or a client is about to answer. A schedule that missed several firings
    meanwhile, or while no server ran, fires once. One that cannot be fired is tried again a minute later.
    """
    now = app.now()
    fired = 0
    for _ in range(ROUNDS):
        rows = await app.database.read(lambda tx: due_schedules(tx, now))
        for row in rows:
            fired += await _fire_or_put_off(app, row, now)
        if len(rows) < DUE:  # otherwise there may be more, and these are no longer due
            break
    return fired


async def _fire_or_put_off(app: App, row: ScheduleRow, now: Micros) -> int:
    """Fire a schedule; one that cannot be fired is put off, because the others fire all the same.

    Returns:
        1 if it fired, else 0.

    Raises:
        Unavailable: the database is unavailable.
    """
    try:
        return await write_at_head(app, partial(_fire, app, row=row, now=now))
    except Unavailable as error:
        if error.retryable:
            raise
        log.warning("schedule %s cannot be fired: %s", row.id, error.message)
    except InvalidInput as error:  # its time zone or expression is not known any more
        log.warning("schedule %s is disabled: %s", row.id, error.message)
        off: Changes = {"enabled": 0, "next_at": None, "updated_at": max(now, row.updated_at + 1)}
        await app.database.write(partial(update_schedule, schedule_id=row.id, changes=off))
        return 0
    except Exception:
        log.exception("schedule %s cannot be fired", row.id)
    await app.database.write(partial(move_firing, row=row, next_at=now + FIRE_AGAIN))
    return 0


async def _fire(app: App, tx: Tx, row: ScheduleRow, now: Micros) -> int:
    """Record the firing, append the message and enqueue the job, in one transaction."""
    try:
        session = await get_session(tx, row.org_id, row.session_id, lock=True)
    except NotFound:
        await delete_schedule(tx, row.session_id, row.id)
        return 0
    if session.status in IN_TURN:
        return 0
    next_at = None if row.cron is None else next_firing(row.cron, row.timezone, now)
    if not await take_firing(tx, row, next_at, now):
        return 0
    metadata = {SCHEDULED: {"schedule_id": row.id, "due_at": to_rfc3339(row.next_at or now)}}
    message = Message(
        app.new_id("message"), "user", (TextPart(row.message),), to_rfc3339(now), metadata=metadata
    )
    speaker = await named_agent(tx, session, row.message)
    await append_message(app, tx, session, message, now, origin="schedule", addressed=speaker)
    return 1


async def redate_schedules(app: App) -> int:
    """Bring forward repeated schedules whose next firing was computed by a clock that has gone back since.

    Without this, a schedule that was set while the clock was years ahead would not fire for years.

    Returns:
        The number of schedules that were moved.
    """
    now = app.now()
    moved, last, more = 0, None, True
    while more:
        part = partial(misdated_schedules, changed=now + CLOCK_TOLERANCE, after=last)
        rows = await app.database.read(part, long=True)
        for row in rows:
            with contextlib.suppress(InvalidInput):  # `fire_due` disables it
                next_at = next_firing(row.cron or "", row.timezone, now)
                if row.next_at is not None and next_at < row.next_at:
                    moved += await app.database.write(partial(move_firing, row=row, next_at=next_at))
        last, more = rows[-1].id if rows else None, len(rows) == DUE
    return moved
