"""`session`: lets the agent read its session's facts and set the title."""

from __future__ import annotations

from functools import partial

from perdure.app.context import Services
from perdure.app.own_session import name_own_session, read_own_session
from perdure.capabilities.port import (
    READ_ONLY,
    REPEATABLE,
    Capability,
    Tool,
    ToolContext,
    ToolOutcome,
    schema,
)
from perdure.domain.messages import JsonObject
from perdure.domain.sessions import MAX_TITLE
from perdure.domain.times import to_rfc3339


def session(services: Services) -> Capability:
    """Create the capability, with its tools bound to the services."""
    tools = (_info_tool(services), _title_tool(services))
    return Capability(
        id="session",
        name="Session",
        description="Lets the agent read facts about its session, and set the session's title.",
        category="session",
        tools=lambda config: tools,
    )


async def _get_session_info(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    row = await read_own_session(services, context, context.session_id)
    return ToolOutcome(
        {
            "session_id": row.id,
            "title": row.title,
            "tags": row.tag_list(),
            "status": row.status,
            "created_at": to_rfc3339(row.created_at),
            "events": row.head,
        }
    )


async def _write_session_title(
    services: Services, context: ToolContext, arguments: JsonObject
) -> ToolOutcome:
    title = context.redactor.text(arguments["title"])
    return ToolOutcome({"title": await name_own_session(services, context, context.session_id, title)})


def _info_tool(services: Services) -> Tool:
    return Tool(
        name="get_session_info",
        display_name="Session info",
        description="Get the current session's id, title, tags, status, creation time and number of events.",
        parameters=schema({}),
        run=partial(_get_session_info, services),
        hints=READ_ONLY,
    )


def _title_tool(services: Services) -> Tool:
    return Tool(
        name="write_session_title",
        display_name="Session title",
        description="Set the session's title: short, and saying what the session is about.",
        parameters=schema({"title": {"type": "string", "minLength": 1, "maxLength": MAX_TITLE}}, "title"),
        run=partial(_write_session_title, services),
        hints=REPEATABLE,
    )
