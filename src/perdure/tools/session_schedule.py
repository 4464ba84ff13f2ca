"""`session_schedule`: the agent may have messages sent to its own session later, once or regularly."""

from __future__ import annotations

from perdure.capabilities.port import (
    ONCE,
    READ_ONLY,
    REPEATABLE,
    Capability,
    Tool,
    ToolContext,
    ToolOutcome,
    schema,
)
from perdure.domain.errors import InvalidInput, NotFound, ToolError
from perdure.domain.ids import OrgId, SessionId, new_id
from perdure.domain.messages import JsonObject
from perdure.domain.schedules import MAX_ACTIVE, MAX_KEPT, first_firing
from perdure.domain.times import Micros, from_rfc3339, maybe_rfc3339, to_rfc3339
from perdure.store.database import Tx
from perdure.store.schedules import ScheduleRow, add_schedule, delete_schedule, list_schedules


def new_schedule(
    org_id: OrgId, session_id: SessionId, *, name: str | None, message: str, cron: str | None, at: str | None, timezone: str, enabled: bool,
    now: Micros,
) -> ScheduleRow:  # fmt: skip
    """The row of a new schedule. Raises InvalidInput."""
    first = first_firing(cron, at, timezone, now)
    return ScheduleRow(
        new_id("sched"),
        org_id,
        session_id,
        name,
        message,
        "once" if cron is None else "cron",
        cron,
        None if at is None else from_rfc3339(at),
        timezone,
        int(enabled),
        first if enabled else None,
        None,
        0,
        now,
        now,
    )


async def insert_schedule(tx: Tx, row: ScheduleRow) -> None:
    """Keep a new schedule, if the session may have one more. Raises InvalidInput."""
    known = await list_schedules(tx, row.session_id)
    if row.enabled and sum(each.enabled for each in known) >= MAX_ACTIVE:
        raise InvalidInput(f"a session has at most {MAX_ACTIVE} active schedules", code="too_many_schedules")
    if len(known) >= MAX_KEPT:
        raise InvalidInput(f"a session keeps at most {MAX_KEPT} schedules", code="too_many_schedules")
    await add_schedule(tx, row)


def _shown(row: ScheduleRow) -> JsonObject:
    return {
        "id": row.id,
        "message": row.message,
        "cron": row.cron,
        "at": maybe_rfc3339(row.at),
        "timezone": row.timezone,
        "enabled": bool(row.enabled),
        "next_at": maybe_rfc3339(row.next_at),
    }


async def _create_schedule(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    try:
        row = new_schedule(
            context.org_id,
            context.session_id,
            name=None,
            message=context.redactor.text(arguments["message"]),
            cron=arguments.get("cron"),
            at=arguments.get("at"),
            timezone=arguments.get("timezone") or "UTC",
            enabled=True,
            now=context.now(),
        )
        await context.database.write(lambda tx: insert_schedule(tx, row))
    except InvalidInput as error:
        raise ToolError(error.message) from None
    return ToolOutcome({"id": row.id, "next_at": to_rfc3339(row.next_at or 0)})


async def _cancel_schedule(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    try:
        gone = await context.database.write(
            lambda tx: delete_schedule(tx, context.session_id, arguments["id"])
        )
    except NotFound:
        gone = False
    if not gone:
        raise ToolError("there is no such schedule in this session")
    return ToolOutcome({"id": arguments["id"], "cancelled": True})


async def _list_schedules(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    rows = await context.database.read(lambda tx: list_schedules(tx, context.session_id))
    return ToolOutcome({"schedules": [_shown(row) for row in rows]})


TOOLS = (
    Tool(
        name="create_schedule",
        display_name="Create schedule",
        description=(
            "Have a message sent to this session later: once (`at`), or regularly (`cron`, 5 fields). When it comes, you work on it "
            f"as on any message. At most {MAX_ACTIVE} are active at a time."
        ),
        parameters=schema(
            {
                "message": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 20_000,
                    "description": "What you will be asked to do.",
                },
                "cron": {
                    "type": "string",
                    "maxLength": 200,
                    "description": "minute hour day month weekday, such as 0 9 * * mon-fri",
                },
                "at": {
                    "type": "string",
                    "maxLength": 40,
                    "description": "RFC 3339 time with an offset, such as 2030-05-01T09:00:00Z",
                },
                "timezone": {
                    "type": "string",
                    "maxLength": 64,
                    "description": "IANA time zone of the cron expression; UTC if left out.",
                },
            },
            "message",
        ),
        run=_create_schedule,
        hints=ONCE,
    ),
    Tool(
        name="cancel_schedule",
        display_name="Cancel schedule",
        description="Cancel one of this session's schedules.",
        parameters=schema({"id": {"type": "string", "maxLength": 60}}, "id"),
        run=_cancel_schedule,
        hints=REPEATABLE,
    ),
    Tool(
        name="list_schedules",
        display_name="List schedules",
        description="This session's schedules, and when each comes next.",
        parameters=schema({}),
        run=_list_schedules,
        hints=READ_ONLY,
    ),
)

SESSION_SCHEDULE = Capability(
    id="session_schedule",
    name="Schedules",
    description="Lets the agent have messages sent to its session later, once or regularly.",
    category="session",
    features=("schedules",),
    tools=lambda config: TOOLS,
)
