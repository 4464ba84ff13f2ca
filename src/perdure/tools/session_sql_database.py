"""`session_sql_database`: the session's own SQLite databases."""

from __future__ import annotations

from functools import partial

from perdure.app.context import Services
from perdure.app.databases import (
    Statement,
    all_databases,
    describe_database,
    execute_statement,
    query_database,
)
from perdure.capabilities.port import READ_ONLY, Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.messages import JsonObject
from perdure.domain.tools import ToolHints
from perdure.sandbox.sql import MAX_ROWS, Answer

DEFAULT = "main"

_QUEUE = "sql"
"""Statements of one answer run in their order, so that an `insert` can use the `create table` before it."""


def session_sql_database(services: Services) -> Capability:
    """Create the capability, with its tools bound to the services."""
    tools = (_execute_tool(services), _query_tool(services), _schema_tool(services))
    return Capability(
        id="session_sql_database",
        name="SQL database",
        description="Gives the session its own SQLite databases.",
        category="storage",
        features=("sql_database",),
        tools=lambda config: tools,
    )


def _name(arguments: JsonObject) -> str:
    return str(arguments.get("database") or DEFAULT)


def _statement(arguments: JsonObject) -> Statement:
    return Statement(arguments["sql"], arguments.get("params"))


async def _sql_execute(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    answer = await execute_statement(
        services, context, context.session_id, _name(arguments), _statement(arguments)
    )
    return ToolOutcome(
        _rows_of(answer) | {"rows_affected": answer.affected, "last_row_id": answer.last_row_id}
    )


async def _sql_query(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    answer = await query_database(
        services, context, context.session_id, _name(arguments), _statement(arguments)
    )
    return ToolOutcome(_rows_of(answer))


def _rows_of(answer: Answer) -> JsonObject:
    if not answer.columns:
        return {}
    rows: JsonObject = {
        "columns": list(answer.columns),
        "rows": [list(row) for row in answer.rows],
        "row_count": len(answer.rows),
    }
    if answer.truncated:
        rows["truncated"] = f"only the first {len(answer.rows)} rows are shown"
    return rows


async def _sql_schema(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    name = arguments.get("database")
    if not name:
        databases = await all_databases(services, context, context.session_id)
        if len(databases) != 1:
            sizes = [{"name": each.name, "size_bytes": each.size_bytes} for each in databases]
            return ToolOutcome({"databases": sizes})
        name = databases[0].name
    description = await describe_database(services, context, context.session_id, name)
    return ToolOutcome({"database": description.database, "tables": list(description.tables)})


_DATABASE = {"type": "string", "maxLength": 63, "description": f"The database's name; {DEFAULT} if left out."}
_SQL = {
    "type": "string",
    "minLength": 1,
    "maxLength": 100_000,
    "description": "One SQLite statement. It runs in its own transaction; foreign keys are enforced.",
}
_VALUE = {"type": ["string", "number", "boolean", "null"]}
_PARAMS = {"type": "array", "maxItems": 500, "items": _VALUE, "description": "Values for ? placeholders."}


def _execute_tool(services: Services) -> Tool:
    return Tool(
        name="sql_execute",
        display_name="SQL execute",
        description=(
            "Run one SQLite statement that changes a database of this session. The first write creates the "
            "database."
        ),
        parameters=schema({"sql": _SQL, "params": _PARAMS, "database": _DATABASE}, "sql"),
        run=partial(_sql_execute, services),
        hints=ToolHints(readonly=False, destructive=True, idempotent=False),
        queue=_QUEUE,
    )


def _query_tool(services: Services) -> Tool:
    return Tool(
        name="sql_query",
        display_name="SQL query",
        description=f"Run one SQLite query on a database of this session. Returns at most {MAX_ROWS} rows.",
        parameters=schema({"sql": _SQL, "params": _PARAMS, "database": _DATABASE}, "sql"),
        run=partial(_sql_query, services),
        hints=READ_ONLY,
        queue=_QUEUE,
    )


def _schema_tool(services: Services) -> Tool:
    return Tool(
        name="sql_schema",
        display_name="SQL schema",
        description=(
            "List the tables, views and columns of a database of this session. Without a name: those of the "
            "session's only database, or a list of its databases."
        ),
        parameters=schema({"database": {**_DATABASE, "description": "The database's name."}}),
        run=partial(_sql_schema, services),
        hints=READ_ONLY,
        queue=_QUEUE,
    )
