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

    By name.
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

    The agent's tools make one as well when they first write to it.
    """
    return await use.create_database(call.app, call.caller, session_id, body, call.once)


@route("GET", "/v1/sessions/{session_id}/databases/{name}", "session databases", errors=(404,))
async def get_database(call: Call, session_id: SessionId, name: str) -> DatabaseInfo:
    """Get a SQL database.

    With its size.
    """
    return await use.read_database(call.app, call.caller, session_id, name)


@route("DELETE", "/v1/sessions/{session_id}/databases/{name}", "session databases", errors=(404,))
async def delete_database(call: Call, session_id: SessionId, name: str) -> None:
    """Drop a SQL database.

    With all that is in it.
    """
    await use.remove_database(call.app, call.caller, session_id, name)


@route("GET", "/v1/sessions/{session_id}/databases/{name}/schema", "session databases", errors=(404,))
async def get_schema(call: Call, session_id: SessionId, name: str) -> DatabaseSchema:
    """Describe a SQL database's tables.

    Tables and views, with their columns.
    """
    return await use.schema_of(call.app, call.caller, session_id, name)


ROUTES = (
    list_databases,
    create_database,
    get_database,
    delete_database,
    get_schema,
)
