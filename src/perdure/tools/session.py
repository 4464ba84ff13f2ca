"""`session`: the agent may know, and name, the session it works in."""

from __future__ import annotations

from perdure.capabilities.port import (
    READ_ONLY,
    REPEATABLE,
    Capability,
    Tool,
    ToolContext,
    ToolOutcome,
    schema,
)
from perdure.domain.errors import InvalidInput, ToolError
from perdure.domain.messages import JsonObject
from perdure.domain.sessions import MAX_TITLE, clean_title
from perdure.domain.times import to_rfc3339
from perdure.store.database import Tx
from perdure.store.sessions import get_session, update_session


async def _get_session_info(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    row = await context.database.read(lambda tx: get_session(tx, context.org_id, context.session_id))
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


async def _write_session_title(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    try:
        title = clean_title(context.redactor.text(arguments["title"]).strip())
    except InvalidInput as error:
        raise ToolError(error.message) from None
    if not title:
        raise ToolError("the title must not be empty")

    async def body(tx: Tx) -> None:
        row = await get_session(tx, context.org_id, context.session_id)
        await update_session(tx, row, {"title": title}, context.now())

    await context.database.write(body)
    return ToolOutcome({"title": title})


GET_SESSION_INFO = Tool(
    name="get_session_info",
    display_name="Session info",
    description="The present session: its id, title, tags, status, age and length.",
    parameters=schema({}),
    run=_get_session_info,
    hints=READ_ONLY,
)

WRITE_SESSION_TITLE = Tool(
    name="write_session_title",
    display_name="Session title",
    description="Give the session a short title that says what it is about.",
    parameters=schema({"title": {"type": "string", "minLength": 1, "maxLength": MAX_TITLE}}, "title"),
    run=_write_session_title,
    hints=REPEATABLE,
)

SESSION = Capability(
    id="session",
    name="Session",
    description="Lets the agent look at the session it works in, and give it a title.",
    category="session",
    tools=lambda config: (GET_SESSION_INFO, WRITE_SESSION_TITLE),
)
