"""Routes of a session's SQL databases."""

from __future__ import annotations

from perdure.api.kernel.http import Call, Route
from perdure.api.routes.sessions import IDS
from perdure.app import databases as use
from perdure.domain.databases import CreateDatabase, DatabaseInfo, DatabaseSchema
from perdure.domain.paging import Listing

_ALL = "/v1/sessions/{session_id}/databases"
_ONE = _ALL + "/{name}"


async def list_databases(call: Call) -> Listing[DatabaseInfo]:
    return Listing(tuple(await use.all_databases(call.app, call.caller, call.params["session_id"])))


async def create_database(call: Call) -> DatabaseInfo:
    return await use.create_database(call.app, call.caller, call.params["session_id"], call.body)


async def get_database(call: Call) -> DatabaseInfo:
    return await use.read_database(call.app, call.caller, call.params["session_id"], call.params["name"])


async def delete_database(call: Call) -> None:
    await use.remove_database(call.app, call.caller, call.params["session_id"], call.params["name"])


async def get_schema(call: Call) -> DatabaseSchema:
    return await use.schema_of(call.app, call.caller, call.params["session_id"], call.params["name"])


ROUTES = (
    Route("GET", _ALL, "list_databases", "List a session's SQL databases", "session databases", list_databases, ids=IDS,
          returns=Listing[DatabaseInfo], errors=(404,)),
    Route("POST", _ALL, "create_database", "Create an empty SQL database", "session databases", create_database, ids=IDS,
          body=CreateDatabase, body_example={"name": "orders"}, returns=DatabaseInfo, status=201, errors=(404, 409)),
    Route("GET", _ONE, "get_database", "Get a SQL database", "session databases", get_database, ids=IDS, returns=DatabaseInfo,
          errors=(404,)),
    Route("DELETE", _ONE, "delete_database", "Drop a SQL database", "session databases", delete_database, ids=IDS, status=204,
          errors=(404,)),
    Route("GET", f"{_ONE}/schema", "get_schema", "Describe a SQL database's tables", "session databases", get_schema, ids=IDS,
          returns=DatabaseSchema, errors=(404,)),
)  # fmt: skip
