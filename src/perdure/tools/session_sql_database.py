"""`session_sql_database`: SQLite databases of the session."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator

from perdure.capabilities.port import READ_ONLY, Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.databases import MAX_DATABASES, NAME_PATTERN
from perdure.domain.errors import ToolError
from perdure.domain.messages import JsonObject
from perdure.domain.tools import ToolHints
from perdure.sandbox.pool import Sandbox
from perdure.sandbox.sql import MAX_ROWS, TIME_LIMIT, Answer, SchemaJob, SqlJob
from perdure.store.database import Tx
from perdure.store.databases import add_database, get_database, list_databases, read_image, write_image
from perdure.store.rows import to_json

_NAME = re.compile(NAME_PATTERN)
DEFAULT = "main"

_QUEUE = "sql"
"""Statements of one answer are meant in their order: an `insert` after the `create table` before it."""

ATTEMPTS = 5
"""How often a change is made anew on a database that somebody else has changed meanwhile."""


def _name(arguments: JsonObject) -> str:
    name = arguments.get("database") or DEFAULT
    if not _NAME.match(name):
        raise ToolError(
            "a database's name has up to 63 lower-case letters, digits and underscores, a letter first"
        )
    return str(name)


async def _image(context: ToolContext, name: str, *, make: bool) -> tuple[int, bytes]:
    async def body(tx: Tx) -> tuple[int, bytes]:
        found = await read_image(tx, context.session_id, name)
        if found is None and make:
            if len(await list_databases(tx, context.session_id)) >= MAX_DATABASES:
                raise ToolError(f"a session holds at most {MAX_DATABASES} databases")
            await add_database(tx, context.org_id, context.session_id, name, context.now())
            return 1, b""
        if found is None:
            raise ToolError(f"there is no database {name!r}: make a table with sql_execute first")
        return found

    return await (context.database.write(body) if make else context.database.read(body, long=True))


async def _sql_execute(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    name = _name(arguments)
    for _ in range(ATTEMPTS):
        async with _place(context, name):
            version, image = await _image(context, name, make=True)
            answer = await _run(context, image, arguments, reading=False)
            kept = answer.image is None or await _kept(context, name, version, answer)
        if kept:
            return ToolOutcome(
                _shown(answer) | {"rows_affected": answer.affected, "last_row_id": answer.last_row_id}
            )
    raise ToolError("the database is being changed by somebody else: try again")


async def _run(context: ToolContext, image: bytes, arguments: JsonObject, *, reading: bool) -> Answer:
    job = SqlJob(image, arguments["sql"], to_json(arguments.get("params")).encode(), reading)
    return await context.sandbox.run(job, Answer, TIME_LIMIT)


@contextlib.asynccontextmanager
async def _place(context: ToolContext, name: str) -> AsyncIterator[None]:
    """A place for work on a database, taken before it is read."""
    found = await context.database.read(lambda tx: get_database(tx, context.session_id, name))
    async with context.sandbox.place(context.whose, 0 if found is None else found.size_bytes):
        yield


async def schema_of(sandbox: Sandbox, image: bytes) -> list[JsonObject]:
    """The tables and views of a database with their columns; the caller has a place. Raises ToolError."""
    return await sandbox.run(SchemaJob(image), list[JsonObject], TIME_LIMIT)


async def _kept(context: ToolContext, name: str, version: int, answer: Answer) -> bool:
    image = answer.image or b""
    now = context.now()
    return await context.database.write(
        lambda tx: write_image(tx, context.session_id, name, version, image, answer.pages, now)
    )


async def _sql_query(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    name = _name(arguments)
    async with _place(context, name):
        _, image = await _image(context, name, make=False)
        answer = await _run(context, image, arguments, reading=True)
    return ToolOutcome(_shown(answer))


def _shown(answer: Answer) -> JsonObject:
    if not answer.columns:
        return {}
    shown: JsonObject = {
        "columns": list(answer.columns),
        "rows": [list(row) for row in answer.rows],
        "row_count": len(answer.rows),
    }
    if answer.truncated:
        shown["truncated"] = f"only the first {len(answer.rows)} rows are shown"
    return shown


async def _sql_schema(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    if not arguments.get("database"):
        found = await context.database.read(lambda tx: list_databases(tx, context.session_id))
        if not found:
            return ToolOutcome({"databases": []})
        if len(found) > 1:
            return ToolOutcome(
                {"databases": [{"name": row.name, "size_bytes": row.size_bytes} for row in found]}
            )
        arguments = {"database": found[0].name}
    name = _name(arguments)
    async with _place(context, name):
        _, image = await _image(context, name, make=False)
        tables = await schema_of(context.sandbox, image)
    return ToolOutcome({"database": name, "tables": tables})


_DATABASE = {"type": "string", "maxLength": 63, "description": f"The database's name; {DEFAULT} if left out."}
_SQL = {
    "type": "string",
    "minLength": 1,
    "maxLength": 100_000,
    "description": "One SQLite statement. It is a transaction of its own; foreign keys are enforced.",
}
_VALUE = {"type": ["string", "number", "boolean", "null"]}
_PARAMS = {"type": "array", "maxItems": 500, "items": _VALUE, "description": "Values for ? marks."}

TOOLS = (
    Tool(
        name="sql_execute",
        display_name="SQL execute",
        description="Run one SQLite statement that changes a database of this session. A database is made when it is first written.",
        parameters=schema({"sql": _SQL, "params": _PARAMS, "database": _DATABASE}, "sql"),
        run=_sql_execute,
        hints=ToolHints(readonly=False, destructive=True, idempotent=False),
        queue=_QUEUE,
    ),
    Tool(
        name="sql_query",
        display_name="SQL query",
        description=f"Run one SQLite query on a database of this session; at most {MAX_ROWS} rows are shown.",
        parameters=schema({"sql": _SQL, "params": _PARAMS, "database": _DATABASE}, "sql"),
        run=_sql_query,
        hints=READ_ONLY,
        queue=_QUEUE,
    ),
    Tool(
        name="sql_schema",
        display_name="SQL schema",
        description="The tables, views and columns of a database of this session; without a name, the databases there are.",
        parameters=schema({"database": {**_DATABASE, "description": "The database's name."}}),
        run=_sql_schema,
        hints=READ_ONLY,
        queue=_QUEUE,
    ),
)

SESSION_SQL_DATABASE = Capability(
    id="session_sql_database",
    name="SQL database",
    description="Gives the session SQLite databases of its own.",
    category="storage",
    features=("sql_database",),
    tools=lambda config: TOOLS,
)
