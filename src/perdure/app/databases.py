"""A session's SQL databases over HTTP."""

from __future__ import annotations

import asyncio

from perdure.app.context import App
from perdure.domain.accounts import Caller
from perdure.domain.databases import MAX_DATABASES, CreateDatabase, DatabaseInfo, DatabaseSchema
from perdure.domain.errors import Conflict, NotFound, ToolError, Unavailable
from perdure.domain.ids import SessionId
from perdure.domain.times import to_rfc3339
from perdure.store.database import Tx
from perdure.store.databases import (
    DatabaseRow,
    add_database,
    drop_database,
    get_database,
    list_databases,
    read_image,
)
from perdure.store.sessions import get_session
from perdure.tools.session_sql_database import schema_of as describe

PATIENCE = 30.0
"""Seconds that somebody who asks for a schema waits for a place to look at it."""


def to_database(row: DatabaseRow) -> DatabaseInfo:
    """The row as clients see it."""
    return DatabaseInfo(
        row.name, row.size_bytes, row.page_count, to_rfc3339(row.created_at), to_rfc3339(row.updated_at)
    )


async def all_databases(app: App, caller: Caller, session_id: SessionId) -> list[DatabaseInfo]:
    """The session's databases, by name."""

    async def work(tx: Tx) -> list[DatabaseInfo]:
        row = await get_session(tx, caller.organization_id, session_id)
        return [to_database(each) for each in await list_databases(tx, row.id)]

    return await app.database.read(work)


async def create_database(
    app: App, caller: Caller, session_id: SessionId, body: CreateDatabase
) -> DatabaseInfo:
    """Make an empty database."""
    now = app.now()

    async def work(tx: Tx) -> DatabaseInfo:
        row = await get_session(tx, caller.organization_id, session_id, lock=True)
        if len(await list_databases(tx, row.id)) >= MAX_DATABASES:
            raise Conflict(f"a session holds at most {MAX_DATABASES} databases", code="too_many_databases")
        if not await add_database(tx, row.org_id, row.id, body.name, now):
            raise Conflict(f"there is a database {body.name!r} already", code="database_exists")
        return to_database(DatabaseRow(body.name, 1, 0, 0, now, now))

    return await app.database.write(work)


async def read_database(app: App, caller: Caller, session_id: SessionId, name: str) -> DatabaseInfo:
    """One database. Raises NotFound."""

    async def work(tx: Tx) -> DatabaseInfo:
        row = await get_session(tx, caller.organization_id, session_id)
        found = await get_database(tx, row.id, name)
        if found is None:
            raise NotFound("database")
        return to_database(found)

    return await app.database.read(work)


async def remove_database(app: App, caller: Caller, session_id: SessionId, name: str) -> None:
    """Drop a database with all that is in it."""

    async def work(tx: Tx) -> None:
        row = await get_session(tx, caller.organization_id, session_id)
        if not await drop_database(tx, row.id, name):
            raise NotFound("database")

    await app.database.write(work)


async def schema_of(app: App, caller: Caller, session_id: SessionId, name: str) -> DatabaseSchema:
    """A database's tables, views and columns.

    Raises:
        Conflict: it cannot be read.
        Unavailable: there is too much else to do.
    """
    info = await read_database(app, caller, session_id, name)

    async def work(tx: Tx) -> bytes:
        found = await read_image(tx, session_id, name)
        if found is None:
            raise NotFound("database")
        return found[1]

    try:
        async with (
            asyncio.timeout(PATIENCE),
            app.sandbox.place((caller.organization_id, session_id), info.size_bytes),
        ):
            tables = await describe(app.sandbox, await app.database.read(work, long=True))
    except ToolError as error:  # it holds something that takes too long, or too much, to look at
        raise Conflict(error.message, code="database_unreadable") from None
    except TimeoutError:
        raise Unavailable("there are too many databases in use at the moment") from None
    return DatabaseSchema(name, tuple(tables))
