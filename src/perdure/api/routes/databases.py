"""Routes of a session's SQL databases."""

from __future__ import annotations

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import databases as use
from perdure.domain.databases import CreateDatabase, DatabaseInfo, DatabaseSchema
from perdure.domain.ids import SessionId
from perdure.domain.paging import Listing


@route("GET", "/v1/sessions/{session_id}/databases", "session databases", errors=(404,))
async def list_databases(call: Call, session_id: SessionId) -> Listing[DatabaseInfo]:
    """List a session's SQL databases.

    Sorted by name.
    """
    return Listing(tuple(await use.all_databases(call.app, call.caller, session_id)))


@route(
    "POST",
    "/v1/sessions/{session_id}/databases",
    "session databases",
    status=201,
    errors=(404, 409),
    body_example={"name": "orders"},
)
async def create_database(call: Call, session_id: SessionId, body: CreateDatabase) -> DatabaseInfo:
    """Create an empty SQL database.

    The agent's tools also create a database when they first write to it. 409 if the name is taken or the
    session has reached its limit of databases.
    """
    return await use.create_database(call.app, call.caller, session_id, body, call.once)


@route("GET", "/v1/sessions/{session_id}/databases/{name}", "session databases", errors=(404,))
async def get_database(call: Call, session_id: SessionId, name: str) -> DatabaseInfo:
    """Get a SQL database.

    Returns its name and its size.
    """
    return await use.read_database(call.app, call.caller, session_id, name)


@route("DELETE", "/v1/sessions/{session_id}/databases/{name}", "session databases", errors=(404,))
async def delete_database(call: Call, session_id: SessionId, name: str) -> None:
    """Delete a SQL database.

    Deletes the database with all its data.
    """
    await use.remove_database(call.app, call.caller, session_id, name)


@route("GET", "/v1/sessions/{session_id}/databases/{name}/schema", "session databases", errors=(404,))
async def get_schema(call: Call, session_id: SessionId, name: str) -> DatabaseSchema:
    """Get a SQL database's schema.

    Returns its tables and views with their columns.
    """
    return await use.schema_of(call.app, call.caller, session_id, name)


ROUTES = (
    list_databases,
    create_database,
    get_database,
    delete_database,
    get_schema,
)
