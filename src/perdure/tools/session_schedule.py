"""`session_schedule`: lets the agent schedule messages to its own session, once or repeatedly."""

from __future__ import annotations

from functools import partial

from perdure.app.context import Services
from perdure.app.schedules import all_schedules, create_schedule, remove_schedule
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
from perdure.domain.ids import ScheduleId
from perdure.domain.messages import JsonObject
from perdure.domain.schedules import MAX_ACTIVE, MAX_INSTRUCTION, CreateSchedule, Schedule


def session_schedule(services: Services) -> Capability:
    """Create the capability, with its tools bound to the services."""
    tools = (_create_tool(services), _cancel_tool(services), _list_tool(services))
    return Capability(
        id="session_schedule",
        name="Schedules",
        description="Lets the agent schedule messages to its own session, once or repeatedly.",
        category="session",
        features=("schedules",),
        tools=lambda config: tools,
    )


async def _create_schedule(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    body = CreateSchedule(
        message=context.redactor.text(arguments["message"]),
        cron=arguments.get("cron"),
        at=arguments.get("at"),
        timezone=arguments.get("timezone") or "UTC",
    )
    schedule = await create_schedule(services, context, context.session_id, body)
    return ToolOutcome({"id": schedule.id, "next_at": schedule.next_at})


async def _cancel_schedule(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    await remove_schedule(services, context, context.session_id, ScheduleId(arguments["id"]))
    return ToolOutcome({"id": arguments["id"], "cancelled": True})


async def _list_schedules(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    schedules = await all_schedules(services, context, context.session_id)
    return ToolOutcome({"schedules": [_as_json(schedule) for schedule in schedules]})


def _as_json(schedule: Schedule) -> JsonObject:
    return {
        "id": schedule.id,
        "message": schedule.message,
        "cron": schedule.cron,
        "at": schedule.at,
        "timezone": schedule.timezone,
        "enabled": schedule.enabled,
        "next_at": schedule.next_at,
    }


def _create_tool(services: Services) -> Tool:
    return Tool(
        name="create_schedule",
        display_name="Create schedule",
        description=(
            "Schedule a message to this session: once (`at`), or repeatedly (`cron`, 5 fields). When it "
            "arrives, you work on it as on any other message. It never interrupts a turn: it waits for the "
            "end, and a schedule that was due several times meanwhile sends one message. At most "
            f"{MAX_ACTIVE} schedules can be active at a time."
        ),
        parameters=schema(
            {
                "message": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_INSTRUCTION,
                    "description": "The message that you will receive: what to do then.",
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
        run=partial(_create_schedule, services),
        hints=ONCE,
        persistent=True,
    )


def _cancel_tool(services: Services) -> Tool:
    return Tool(
        name="cancel_schedule",
        display_name="Cancel schedule",
        description="Cancel one of this session's schedules.",
        parameters=schema({"id": {"type": "string", "maxLength": 60}}, "id"),
        run=partial(_cancel_schedule, services),
        hints=REPEATABLE,
        persistent=True,
    )


def _list_tool(services: Services) -> Tool:
    return Tool(
        name="list_schedules",
        display_name="List schedules",
        description="List this session's schedules, with the time at which each fires next.",
        parameters=schema({}),
        run=partial(_list_schedules, services),
        hints=READ_ONLY,
    )
