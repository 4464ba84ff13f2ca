"""`current_time`: the current date and time, in any time zone."""

from __future__ import annotations

from datetime import UTC, datetime

from perdure.capabilities.port import READ_ONLY, Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.errors import InvalidInput, ToolError
from perdure.domain.messages import JsonObject
from perdure.domain.schedules import zone_of


async def _get_current_time(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    name = arguments.get("timezone") or "UTC"
    try:
        zone = zone_of(name)
    except InvalidInput as error:
        raise ToolError(error.message) from None
    moment = datetime.fromtimestamp(context.now() / 1_000_000, UTC).astimezone(zone)
    return ToolOutcome(
        {
            "iso": moment.isoformat(timespec="seconds"),
            "timezone": name,
            "weekday": moment.strftime("%A"),
            "unix": int(moment.timestamp()),
        }
    )


GET_CURRENT_TIME = Tool(
    name="get_current_time",
    display_name="Current time",
    description="Get the current date and time, with the day of the week.",
    parameters=schema(
        {"timezone": {"type": "string", "description": "IANA name such as Europe/Paris; UTC if left out."}}
    ),
    run=_get_current_time,
    hints=READ_ONLY,
)

CURRENT_TIME = Capability(
    id="current_time",
    name="Current time",
    description="Lets the agent get the current date and time in any time zone.",
    category="utility",
    tools=lambda config: (GET_CURRENT_TIME,),
)
