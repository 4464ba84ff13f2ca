"""A session's SQL databases, for HTTP and for its own tools."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from perdure.app.context import Scope, Services
from perdure.app.idempotency import Once, write_once
from perdure.app.own_session import check_session
from perdure.domain.databases import (
    MAX_DATABASES,
    CreateDatabase,
    DatabaseInfo,
    DatabaseSchema,
    check_database_name,
)
from perdure.domain.errors import Conflict, NotFound, ToolError, Unavailable
from perdure.domain.ids import SessionId
from perdure.domain.messages import JsonObject
from perdure.domain.times import Micros, to_rfc3339
from perdure.sandbox.sql import TIME_LIMIT, Answer, SchemaJob, SqlJob
from perdure.store.database import Tx
from perdure.store.databases import (
    DatabaseRow,
    add_database,
    drop_database,
    get_database,
    list_databases,
    read_image,
    write_image,
)
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow, get_session

PATIENCE = 30.0
"""Seconds after which an HTTP request for a schema gives up, waiting for a sandbox slot included."""

ATTEMPTS = 5
"""Attempts to run a statement on a database that others change at the same time."""


class Statement(Struct, frozen=True):
    """One SQLite statement, with the values of its `?` placeholders."""

    sql: str
    params: Sequence[str | int | float | bool | None] | None = None

    def job(self, image: bytes, *, reading: bool) -> SqlJob:
        return SqlJob(image, self.sql, to_json(self.params).encode(), reading)


def to_database(row: DatabaseRow) -> DatabaseInfo:
    """Convert the row to its wire format."""
    return DatabaseInfo(
        row.name, row.size_bytes, row.page_count, to_rfc3339(row.created_at), to_rfc3339(row.updated_at)
    )


async def all_databases(app: Services, scope: Scope, session_id: SessionId) -> list[DatabaseInfo]:
    """List the session's databases, sorted by name."""

    async def work(tx: Tx) -> list[DatabaseInfo]:
        await check_session(tx, scope, session_id)
        return [to_database(each) for each in await list_databases(tx, session_id)]

    return await app.database.read(work)


async def create_database(
    app: Services, scope: Scope, session_id: SessionId, body: CreateDatabase, once: Once | None = None
) -> DatabaseInfo:
    """Create an empty database. Raises Conflict: the name is taken, or the session has reached the limit."""
    check_database_name(body.name)
    now = app.now()

    async def work(tx: Tx) -> DatabaseInfo:
        row = await get_session(tx, scope.organization_id, session_id, lock=True)
        await _add(tx, row, body.name, now)
        return to_database(DatabaseRow(body.name, 1, 0, 0, now, now))

    return await write_once(app, once, work)


async def _add(tx: Tx, row: SessionRow, name: str, now: Micros) -> None:
    """Add an empty database to a session. The caller holds the session's row."""
    if len(await list_databases(tx, row.id)) >= MAX_DATABASES:
        raise Conflict(
            f"a session holds at most {MAX_DATABASES} databases: delete one first", code="too_many_databases"
        )
    if not await add_database(tx, row.org_id, row.id, name, now):
        raise Conflict(f"a database named {name!r} already exists", code="database_exists")


async def read_database(app: Services, scope: Scope, session_id: SessionId, name: str) -> DatabaseInfo:
    """Read the facts about a database. Raises NotFound."""

    async def work(tx: Tx) -> DatabaseInfo:
        await check_session(tx, scope, session_id)
        database = await get_database(tx, session_id, name)
        if database is None:
            raise NotFound("database")
        return to_database(database)

    return await app.database.read(work)


async def remove_database(app: Services, scope: Scope, session_id: SessionId, name: str) -> None:
    """Delete a database with its content. Raises NotFound."""

    async def work(tx: Tx) -> None:
        row = await get_session(tx, scope.organization_id, session_id)
        if not await drop_database(tx, row.id, name):
            raise NotFound("database")

    await app.database.write(work)


# --- statements -------------------------------------------------------------


async def execute_statement(
    app: Services, scope: Scope, session_id: SessionId, name: str, statement: Statement
) -> Answer:
    """Run a statement that changes a database, and create the database if it does not exist.

    Concurrent changes are not lost: if the database has changed since it was read, the statement runs again
    on the new image.

    Raises:
        InvalidInput: the name is not valid.
        Conflict: the session has too many databases, or others keep changing this one.
        ToolError: the statement fails or is not allowed.
    """
    check_database_name(name)
    owners = (scope.organization_id, session_id)
    for _ in range(ATTEMPTS):
        # Acquire the slot before the image, which may be 50 MB, so that waiting statements hold none.
        async with app.sandbox.slot(owners, await _size(app, scope, session_id, name)):
            version, image = await _image_to_change(app, scope, session_id, name)
            answer = await app.sandbox.run(statement.job(image, reading=False), Answer, TIME_LIMIT)
            if answer.image is None or await _replace_image(app, session_id, name, version, answer):
                return answer
    raise Conflict("the database is being changed concurrently: try again")


async def query_database(
    app: Services, scope: Scope, session_id: SessionId, name: str, statement: Statement
) -> Answer:
    """Run a read-only statement. Raises NotFound, and ToolError: the statement fails or is not allowed."""
    info = await read_database(app, scope, session_id, name)
    async with app.sandbox.slot((scope.organization_id, session_id), info.size_bytes):
        image = await _image(app, scope, session_id, name)
        return await app.sandbox.run(statement.job(image, reading=True), Answer, TIME_LIMIT)


async def describe_database(app: Services, scope: Scope, session_id: SessionId, name: str) -> DatabaseSchema:
    """Describe a database's tables, views and columns.

    Raises:
        NotFound: the database does not exist.
        ToolError: the database cannot be read, or reading it exceeds a limit.
    """
    info = await read_database(app, scope, session_id, name)
    async with app.sandbox.slot((scope.organization_id, session_id), info.size_bytes):
        image = await _image(app, scope, session_id, name)
        tables = await app.sandbox.run(SchemaJob(image), list[JsonObject], TIME_LIMIT)
    return DatabaseSchema(name, tuple(tables))


async def schema_of(app: Services, scope: Scope, session_id: SessionId, name: str) -> DatabaseSchema:
    """`describe_database` with a timeout of PATIENCE seconds, for HTTP.

    Raises:
        NotFound: the database does not exist.
        Conflict: the database cannot be read.
        Unavailable: no sandbox slot became free in time.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            return await describe_database(app, scope, session_id, name)
    except ToolError as error:
        raise Conflict(error.message, code="database_unreadable") from None
    except TimeoutError:
        raise Unavailable("too many databases are in use: try again later") from None


async def _size(app: Services, scope: Scope, session_id: SessionId, name: str) -> int:
    """Bytes of a database; 0 if it does not exist."""

    async def work(tx: Tx) -> int:
        await check_session(tx, scope, session_id)
        database = await get_database(tx, session_id, name)
        return 0 if database is None else database.size_bytes

    return await app.database.read(work)


async def _image(app: Services, scope: Scope, session_id: SessionId, name: str) -> bytes:
    """Read a database's image. Raises NotFound."""

    async def work(tx: Tx) -> bytes:
        await check_session(tx, scope, session_id)
        image = await read_image(tx, session_id, name)
        if image is None:
            raise NotFound("database")
        return image[1]

    return await app.database.read(work, long=True)


async def _image_to_change(
    app: Services, scope: Scope, session_id: SessionId, name: str
) -> tuple[int, bytes]:
    """Read a database's version and image, and create the database if it does not exist."""
    image = await app.database.read(lambda tx: read_image(tx, session_id, name), long=True)
    if image is not None:
        return image
    now = app.now()

    async def work(tx: Tx) -> tuple[int, bytes]:
        row = await get_session(tx, scope.organization_id, session_id, lock=True)
        existing = await read_image(tx, row.id, name)
        if existing is not None:  # a concurrent statement created it
            return existing
        await _add(tx, row, name, now)
        return 1, b""

    return await app.database.write(work)


async def _replace_image(
    app: Services, session_id: SessionId, name: str, version: int, answer: Answer
) -> bool:
    """Write the statement's image; returns False if the database has changed since it was read."""
    image, now = answer.image or b"", app.now()
    return await app.database.write(
        lambda tx: write_image(tx, session_id, name, version, image, answer.pages, now)
    )
