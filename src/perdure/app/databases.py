"""A session's SQL databases, for HTTP and for its own tools."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from perdure.app.context import Scope, Services
from perdure.app.idempotency import Once, write_once
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
"""Seconds that somebody who asks over HTTP for a schema waits for a place to look at it."""

ATTEMPTS = 5
"""How often a change is made anew on a database that somebody else has changed meanwhile."""


class Statement(Struct, frozen=True):
    """One SQLite statement, with the values of its `?` marks."""

    sql: str
    params: Sequence[str | int | float | bool | None] | None = None

    def job(self, image: bytes, *, reading: bool) -> SqlJob:
        return SqlJob(image, self.sql, to_json(self.params).encode(), reading)


def to_database(row: DatabaseRow) -> DatabaseInfo:
    """The row as clients see it."""
    return DatabaseInfo(
        row.name, row.size_bytes, row.page_count, to_rfc3339(row.created_at), to_rfc3339(row.updated_at)
    )


async def all_databases(app: Services, scope: Scope, session_id: SessionId) -> list[DatabaseInfo]:
    """The session's databases, by name."""

    async def work(tx: Tx) -> list[DatabaseInfo]:
        row = await get_session(tx, scope.organization_id, session_id)
        return [to_database(each) for each in await list_databases(tx, row.id)]

    return await app.database.read(work)


async def create_database(
    app: Services, scope: Scope, session_id: SessionId, body: CreateDatabase, once: Once | None = None
) -> DatabaseInfo:
    """Make an empty database. Raises Conflict: there is one of this name, or no room for one more."""
    check_database_name(body.name)
    now = app.now()

    async def work(tx: Tx) -> DatabaseInfo:
        row = await get_session(tx, scope.organization_id, session_id, lock=True)
        await _add(tx, row, body.name, now)
        return to_database(DatabaseRow(body.name, 1, 0, 0, now, now))

    return await write_once(app, once, work)


async def _add(tx: Tx, row: SessionRow, name: str, now: Micros) -> None:
    """Add an empty database to a session, whose row is held."""
    if len(await list_databases(tx, row.id)) >= MAX_DATABASES:
        raise Conflict(f"a session holds at most {MAX_DATABASES} databases", code="too_many_databases")
    if not await add_database(tx, row.org_id, row.id, name, now):
        raise Conflict(f"there is a database {name!r} already", code="database_exists")


async def read_database(app: Services, scope: Scope, session_id: SessionId, name: str) -> DatabaseInfo:
    """One database. Raises NotFound."""

    async def work(tx: Tx) -> DatabaseInfo:
        row = await get_session(tx, scope.organization_id, session_id)
        found = await get_database(tx, row.id, name)
        if found is None:
            raise NotFound("database")
        return to_database(found)

    return await app.database.read(work)


async def remove_database(app: Services, scope: Scope, session_id: SessionId, name: str) -> None:
    """Drop a database with all that is in it."""

    async def work(tx: Tx) -> None:
        row = await get_session(tx, scope.organization_id, session_id)
        if not await drop_database(tx, row.id, name):
            raise NotFound("database")

    await app.database.write(work)


# --- statements -------------------------------------------------------------


async def execute_statement(
    app: Services, scope: Scope, session_id: SessionId, name: str, statement: Statement
) -> Answer:
    """Run a statement that changes a database, which is made if it is not there yet.

    Nobody's change is lost: it is made on the image that was read, or made anew.

    Raises:
        InvalidInput: that is no name of a database.
        Conflict: there are too many databases, or this one is changed by others again and again.
        ToolError: the statement cannot be run.
    """
    check_database_name(name)
    whose = (scope.organization_id, session_id)
    for _ in range(ATTEMPTS):
        # A place in the sandbox comes before the image, which is up to 50 MB.
        async with app.sandbox.place(whose, await _size(app, scope, session_id, name)):
            version, image = await _image_to_change(app, scope, session_id, name)
            answer = await app.sandbox.run(statement.job(image, reading=False), Answer, TIME_LIMIT)
            if answer.image is None or await _replace_image(app, session_id, name, version, answer):
                return answer
    raise Conflict("the database is being changed by somebody else: try again")


async def query_database(
    app: Services, scope: Scope, session_id: SessionId, name: str, statement: Statement
) -> Answer:
    """Run a statement that only reads. Raises NotFound, and ToolError: it cannot be run."""
    info = await read_database(app, scope, session_id, name)
    async with app.sandbox.place((scope.organization_id, session_id), info.size_bytes):
        image = await _image(app, scope, session_id, name)
        return await app.sandbox.run(statement.job(image, reading=True), Answer, TIME_LIMIT)


async def describe_database(app: Services, scope: Scope, session_id: SessionId, name: str) -> DatabaseSchema:
    """A database's tables, views and columns.

    Raises:
        NotFound: there is no such database.
        ToolError: it holds something that takes too long, or too much, to look at.
    """
    info = await read_database(app, scope, session_id, name)
    async with app.sandbox.place((scope.organization_id, session_id), info.size_bytes):
        image = await _image(app, scope, session_id, name)
        tables = await app.sandbox.run(SchemaJob(image), list[JsonObject], TIME_LIMIT)
    return DatabaseSchema(name, tuple(tables))


async def schema_of(app: Services, scope: Scope, session_id: SessionId, name: str) -> DatabaseSchema:
    """`describe_database` for somebody who does not wait for long.

    Raises:
        NotFound: there is no such database.
        Conflict: it cannot be read.
        Unavailable: there is too much else to do.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            return await describe_database(app, scope, session_id, name)
    except ToolError as error:
        raise Conflict(error.message, code="database_unreadable") from None
    except TimeoutError:
        raise Unavailable("there are too many databases in use at the moment") from None


async def _size(app: Services, scope: Scope, session_id: SessionId, name: str) -> int:
    """Bytes of a database; 0 when it is not there."""

    async def work(tx: Tx) -> int:
        row = await get_session(tx, scope.organization_id, session_id)
        found = await get_database(tx, row.id, name)
        return 0 if found is None else found.size_bytes

    return await app.database.read(work)


async def _image(app: Services, scope: Scope, session_id: SessionId, name: str) -> bytes:
    """What a database holds. Raises NotFound."""

    async def work(tx: Tx) -> bytes:
        row = await get_session(tx, scope.organization_id, session_id)
        found = await read_image(tx, row.id, name)
        if found is None:
            raise NotFound("database")
        return found[1]

    return await app.database.read(work, long=True)


async def _image_to_change(
    app: Services, scope: Scope, session_id: SessionId, name: str
) -> tuple[int, bytes]:
    """The version and the image of a database, which is made if it is not there."""
    found = await app.database.read(lambda tx: read_image(tx, session_id, name), long=True)
    if found is not None:
        return found
    now = app.now()

    async def work(tx: Tx) -> tuple[int, bytes]:
        row = await get_session(tx, scope.organization_id, session_id, lock=True)
        there = await read_image(tx, row.id, name)
        if there is not None:  # somebody else was quicker
            return there
        await _add(tx, row, name, now)
        return 1, b""

    return await app.database.write(work)


async def _replace_image(
    app: Services, session_id: SessionId, name: str, version: int, answer: Answer
) -> bool:
    """Whether the database was still as it was read: then it is now as the statement left it."""
    image, now = answer.image or b"", app.now()
    return await app.database.write(
        lambda tx: write_image(tx, session_id, name, version, image, answer.pages, now)
    )
