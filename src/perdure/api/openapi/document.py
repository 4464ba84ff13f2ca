"""Builds the server's OpenAPI 3.1 document from the table of routes and the types of bodies and responses.

A field's description and examples come from its `msgspec.Meta`, a schema's description from its type's
docstring, an operation's summary and description from its handler's docstring.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import get_origin

import msgspec

from perdure.api.kernel.audits import audited
from perdure.api.kernel.problems import STATUS, Problem
from perdure.api.kernel.route import Route
from perdure.api.kernel.variables import Variable
from perdure.api.openapi.examples import DOCUMENT, EVENT_STREAM, Examples, NoExample, error_example
from perdure.api.openapi.tags import TAGS
from perdure.domain.audits import REASON_HEADER
from perdure.domain.events import EVENT_DATA
from perdure.domain.ids import Prefix
from perdure.domain.messages import JsonObject
from perdure.domain.paths import MAX_PATH

_REF = "#/components/schemas/{name}"
_NAMES = {
    "EventPage": "ListResponse_Event",
    "Listing": "ListResponse",
    "Problem": "ErrorResponse",
    "WireEvent": "Event",
}
"""Schemas whose names differ from those of our types."""

_TITLES = dict(STATUS.values()) | {405: "Method not allowed"}

_PATH_PARAMETERS = {
    "capability_id": "The capability's id.",
    "workflow_id": "The turn: the id of its session, a dot, and its id.",
    "dlq_id": "The dead letter: the id of its session, a dot, and that of its turn.",
    "key": "The model's id.",
    "command": "The command's name: an operation id, or the name that command-line clients use.",
    "name": "The database's name.",
    "server_name": "The name of an inline MCP server, or the id of a registered one.",
    "tool_name": "The tool's name at the MCP server.",
    "item_id": "The id of the inbox item.",
    "entity_ref": "The id or name of an agent or a harness.",
    "revision": "The revision's number.",
    "token": "The token at the end of the URL.",
    "provider": "The id of an MCP server, or the `provider` of a connection.",
    "path": "The path of the file or folder. Slashes need not be percent-encoded.",
}
"""Descriptions of path parameters that are not ids."""

_KINDS: dict[Prefix, str] = {"agentver": "version", "org": "organization", "sched": "schedule"}
"""Names of the kinds of id whose prefix is an abbreviation."""

_HEADERS: dict[str, JsonObject] = {
    "Organization": {
        "name": "X-Org-Id",
        "description": "The organization to act in. Required if the caller belongs to several.",
        "schema": {"type": "string", "pattern": "^org_[0-9a-f]{32}$"},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "description": (
            "A text of your choice that identifies the request. If the same request is repeated with the "
            "same key, the server returns the first response again and changes nothing. A different request "
            "with that key is refused with 409. Keys are kept for a day."
        ),
        "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
    },
    "IfMatch": {
        "name": "If-Match",
        "description": (
            "The `ETag` of the version that you have read. The request fails with 412 if a client has "
            "changed the resource since. Changes that the server makes itself, such as to a status or a "
            "counter, do not count."
        ),
        "schema": {"type": "string", "pattern": r'^(\*|"[!#-~]*")$'},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "description": (
            "The `ETag` of the version that you have read. If the resource is unchanged, the response is 304 "
            "without a body."
        ),
        "schema": {"type": "string", "pattern": r'^(\*|"[!#-~]*")$'},
    },
    "Range": {
        "name": "Range",
        "description": (
            "The bytes to return, such as `bytes=0-1023`, `bytes=1024-` or, for the last ones, `bytes=-512`. "
            "The response is 206; several ranges are parts of `multipart/byteranges`."
        ),
        "schema": {"type": "string", "pattern": r"^bytes=[0-9, -]+$"},
    },
    "IfRange": {
        "name": "If-Range",
        "description": "The `ETag` for which `Range` counts. With another one, the response is the whole.",
        "schema": {"type": "string", "pattern": r'^"[!#-~]*"$'},
    },
    "Reason": {
        "name": REASON_HEADER,
        "description": (
            "Why you change this, for people who read the audit log later: text in UTF-8, up to 1,000"
            " characters."
        ),
        "schema": {"type": "string"},
    },
    "LastEventId": {
        "name": "Last-Event-ID",
        "description": (
            "The id of the last event received: the stream continues after it. Browsers send it when they "
            "reconnect. If `since_id` is sent as well, the later of the two counts."
        ),
        "schema": {"type": "string", "pattern": "^(event_[0-9a-f]{32})?$"},
    },
}


_INFO = {
    "title": "Perdure",
    "summary": "A durable harness for LLM agents.",
    "description": (
        "All paths are also served below `/api`. All lists, errors and times have the same format."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}

_TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "description": (
        "An access token (`pdr_pat_...`). A server that listens on loopback and has no tokens needs none."
    ),
}


RAW: dict[str, JsonObject] = {
    "application/json": {},
    "text/plain": {"type": "string"},
    "multipart/form-data": {
        "type": "object",
        "properties": {"file": {"type": "string", "format": "binary"}},
        "required": ["file"],
    },
}
"""Schemas of bodies of any type, by media type; all others are bytes."""


def build_document(routes: tuple[Route, ...], version: str) -> JsonObject:
    """Build the document.

    Args:
        version: the server's version, for the document's `info`.
    """
    types: list[object] = [Problem, *EVENT_DATA.values()]
    for route in routes:
        types += [kind for kind in (route.body, route.returns, route.also, route.query) if kind is not None]
    type_schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(map(id, types), type_schemas, strict=True))
    queries = {route.query.__name__ for route in routes if route.query is not None}
    schemas = {
        _openapi_name(name): _cleaned(each) for name, each in components.items() if name not in queries
    }
    schemas["Event"]["properties"]["data"]["anyOf"] = [
        {"$ref": _REF.format(name=name)}
        for name in dict.fromkeys(kind.__name__ for kind in EVENT_DATA.values())
    ]
    examples = Examples(components)
    paths: JsonObject = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(
            route, by_type, components, examples
        )
    document = {
        "openapi": "3.1.0",
        "info": {**_INFO, "version": version},
        "servers": [{"url": "/"}, {"url": "/api"}],
        "security": [{"token": []}],
        "tags": [
            {"name": name, "description": TAGS.get(name, "")}
            for name in dict.fromkeys(route.tag for route in routes)
        ],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "responses": {
                f"Error{status}": _error(status)
                for status in sorted({s for route in routes for s in errors_of(route)})
            },
            "parameters": {
                name: {"in": "header", "required": False, **header} for name, header in _HEADERS.items()
            },
            "securitySchemes": {"token": _TOKEN},
        },
    }
    return msgspec.json.decode(_rename_references(msgspec.json.encode(document)), type=JsonObject)


def _openapi_name(name: str) -> str:
    """Convert msgspec's name of a type, such as `Listing[Session]`, into one that OpenAPI allows."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_")
    return "_".join(_NAMES.get(part, part) for part in name.split("_"))


def _rename_references(document: bytes) -> bytes:
    """Rename the references to schemas, as the schemas themselves are renamed."""
    return re.sub(
        rb'"#/components/schemas/([^"]+)"',
        lambda match: b'"#/components/schemas/' + _openapi_name(match[1].decode()).encode() + b'"',
        document,
    )


def _cleaned(schema: JsonObject) -> JsonObject:
    """Drop a component's title, join its description's lines, and clean its fields."""
    schema.pop("title", None)
    if "description" in schema:
        schema["description"] = " ".join(inspect.cleandoc(schema["description"]).split())
    for field in schema.get("properties", {}).values():
        _clean_field(field)
    return schema


def _clean_field(field: JsonObject) -> None:
    """Drop a default of null, and describe the tag field that msgspec adds to tagged structs."""
    if field.get("default", ...) is None:
        del field["default"]
    if list(field) == ["enum"]:
        field["description"] = f"Always `{field['enum'][0]}`: the kind of object."


def _operation(
    route: Route, by_type: dict[int, JsonObject], components: JsonObject, examples: Examples
) -> JsonObject:
    """Describe an operation. `by_type` has the schema of each type, by the type's `id()`."""
    operation: JsonObject = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "tags": [route.tag],
    }
    if route.description:
        operation["description"] = route.description
    parameters = [_path_parameter(each) for each in route.variables]
    if route.query is not None:
        parameters += _query_parameters(components[route.query.__name__])
    parameters += [{"$ref": f"#/components/parameters/{name}"} for name in _headers_of(route)]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        content: JsonObject = {"schema": by_type[id(route.body)]}
        if route.body_example is not None:
            content["example"] = route.body_example
        kinds = {"application/json": content} | _streamed(route)
        operation["requestBody"] = {"required": True, "content": kinds}
    elif route.stream_limit:
        operation["requestBody"] = {"required": True, "content": _streamed(route)}
    elif route.text_limit:
        text: JsonObject = {"schema": {"type": "string"}}
        if route.body_example is not None:
            text["example"] = route.body_example
        operation["requestBody"] = {"required": True, "content": {"text/plain": text, "text/markdown": text}}
    elif route.raw_limit:
        content = {
            kind: {"schema": RAW.get(kind, {"type": "string", "format": "binary"})} for kind in route.accepts
        }
        if route.body_example is not None:
            content[route.accepts[0]]["example"] = route.body_example
        operation["requestBody"] = {"required": False, "content": content}
    operation["responses"] = _responses(route, by_type, examples)
    if route.public:
        operation["security"] = []
    return operation


def _streamed(route: Route) -> JsonObject:
    """Describe a body that is not JSON: bytes, or a form with a file."""
    if not route.stream_limit:
        return {}
    form: JsonObject = {
        "type": "object",
        "properties": {"file": {"type": "string", "format": "binary"}},
        "required": ["file"],
    }
    binary: JsonObject = {"schema": {"type": "string", "format": "binary"}}
    if route.body is None:
        return {"multipart/form-data": {"schema": form}}
    return {"application/octet-stream": binary, "multipart/form-data": {"schema": form}}


def _headers_of(route: Route) -> Iterable[str]:
    if route.public:
        return
    yield "Organization"
    if route.takes_key:
        yield "IdempotencyKey"
    if audited(route.operation_id):
        yield "Reason"
    if route.etag:
        yield "IfNoneMatch" if route.method == "GET" else "IfMatch"
    if route.content == "text/event-stream":
        yield "LastEventId"
    if route.content == "application/octet-stream":
        yield "Range"
        yield "IfRange"


def _path_parameter(variable: Variable) -> JsonObject:
    name = variable.name
    schema: JsonObject = {"type": "string"}
    if variable.rest:
        schema |= {"minLength": 1, "maxLength": MAX_PATH}
    description = _PATH_PARAMETERS.get(name, "")
    if variable.prefixes:
        prefix = variable.prefixes[0]
        schema["pattern"] = f"^{prefix}_[0-9a-f]{{32}}$"
        description = f"The {_KINDS.get(prefix, prefix)}'s id."
        if variable.named:
            schema["pattern"] = f"^({prefix}_[0-9a-f]{{32}}|[a-z0-9-]{{1,64}})$"
            description = f"The {prefix}'s id or name."
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def _query_parameters(query: JsonObject) -> list[JsonObject]:
    """Describe the query parameters that are the fields of a struct with this schema."""
    parameters = []
    for name, field in query["properties"].items():
        _clean_field(field)
        parameter = {"name": name, "in": "query", "required": name in query.get("required", ())}
        if "description" in field:
            parameter["description"] = field["description"]
        # A query string cannot hold null: an optional parameter is left out instead.
        branches = [branch for branch in field.get("anyOf", ()) if branch != {"type": "null"}]
        rest = {key: value for key, value in field.items() if key not in ("anyOf", "description")}
        kind = branches[0] if len(branches) == 1 else {"anyOf": branches} if branches else {}
        if rest.get("type") == "object":
            parameter |= {"style": "deepObject", "explode": True}
        parameters.append({**parameter, "schema": {**kind, **rest}})
    return parameters


def errors_of(route: Route) -> set[int]:
    """Return the HTTP statuses of the errors that an operation can respond with."""
    if route.public:
        return set(route.errors)
    errors = {400, 401, 403, 429, 503, *route.errors}
    if route.method in ("POST", "PUT", "PATCH"):
        errors.add(413)
    if route.body is not None or route.text_limit or route.stream_limit:
        errors.add(415)
    if "IdempotencyKey" in _headers_of(route):
        errors.add(409)
    return errors


def _responses(route: Route, by_type: dict[int, JsonObject], examples: Examples) -> JsonObject:
    success: JsonObject = {"description": "No content." if route.status == 204 else "Success."}
    others: JsonObject | None = None
    if route.content != "application/json":
        text = EVENT_STREAM if route.content == "text/event-stream" else route.example
        success["content"] = {
            route.content: {"schema": {"type": "string"}, **({} if text is None else {"example": text})}
        }
    elif route.returns is not None:
        kinds = [by_type[id(kind)] for kind in (route.returns, route.also) if kind is not None]
        if len(kinds) > 1 and route.other:
            kinds, others = kinds[:1], _content(route, kinds[1:], examples)
        success["content"] = _content(route, kinds, examples)
    if route.etag:
        success["headers"] = {
            "ETag": {"description": "The version of the resource.", "schema": {"type": "string"}}
        }
    elsewhere = success if others is None else {**success, "content": others}
    responses = {str(route.status): success} | {str(status): elsewhere for status in route.other}
    if route.etag and route.method == "GET":
        responses["304"] = {"description": "Not changed since the version in `If-None-Match`."}
    if route.content == "application/octet-stream":
        responses["206"] = {**success, "description": "The bytes of the ranges."}
    for status in errors_of(route):
        shared: JsonObject = {"$ref": f"#/components/responses/Error{status}"}
        is_page = route.public and route.content == "text/html"
        responses[str(status)] = _page_error(status) if is_page else shared
    return dict(sorted(responses.items()))


def _content(route: Route, kinds: list[JsonObject], examples: Examples) -> JsonObject:
    """Describe JSON of one of these kinds, with an example of the first."""
    content: JsonObject = {"schema": kinds[0] if len(kinds) == 1 else {"anyOf": kinds}}
    with suppress(NoExample):
        content["example"] = DOCUMENT if get_origin(route.returns) is dict else examples.of(kinds[0])
    return {route.content: content}


def _page_error(status: int) -> JsonObject:
    """Describe an error of a page: people see a page; a request that no browser makes gets the usual JSON."""
    response = _error(status)
    return {**response, "content": {"text/html": {"schema": {"type": "string"}}, **response["content"]}}


def _error(status: int) -> JsonObject:
    schema = {"$ref": _REF.format(name="Problem")}
    content = {"schema": schema, "example": error_example(status, _TITLES[status])}
    response: JsonObject = {
        "description": f"{_TITLES[status]}.",
        "content": {"application/problem+json": content},
    }
    if status in (429, 503):
        response["headers"] = {
            "Retry-After": {
                "description": "The time to wait before the next attempt, in seconds.",
                "schema": {"type": "integer"},
            },
        }
    if status == 401:
        response["headers"] = {
            "WWW-Authenticate": {
                "description": "The authentication scheme: `Bearer`.",
                "schema": {"type": "string"},
            }
        }
    return response
