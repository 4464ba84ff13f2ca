"""The server's own OpenAPI 3.1 document, made from the table of routes and the types of what goes in and out.

What the document says about a field is the field's own `msgspec.Meta`; a schema's description is the
docstring of its type.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, get_origin

import msgspec

from perdure.api.kernel.problems import STATUS, Problem
from perdure.api.kernel.route import Route
from perdure.api.kernel.variables import Variable
from perdure.api.openapi.examples import DOCUMENT, EVENT_STREAM, Examples, NoExample, error_example
from perdure.api.openapi.words import TAGS
from perdure.domain.events import EVENT_DATA
from perdure.domain.ids import Prefix
from perdure.domain.paths import MAX_PATH

_REF = "#/components/schemas/{name}"
_NAMES = {"Listing": "ListResponse", "Problem": "ErrorResponse", "WireEvent": "Event"}
"""Names of schemas that differ from those of our types."""

_TITLES = dict(STATUS.values()) | {405: "Method not allowed"}

_IN_PATHS = {
    "capability_id": "The capability's id.",
    "name": "The database's name.",
    "path": "The path of the file or folder. Slashes in it may be sent as they are.",
}
"""Descriptions of parameters of paths that are no ids."""

_KINDS: dict[Prefix, str] = {"agentver": "version", "org": "organization", "sched": "schedule"}
"""What people call a kind of id, where its prefix does not say it."""

_HEADERS: dict[str, dict[str, Any]] = {
    "Organization": {
        "name": "X-Org-Id",
        "description": "The organization to work in; needed when the caller belongs to several.",
        "schema": {"type": "string", "pattern": "^org_[0-9a-f]{32}$"},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "description": (
            "Any text of your own. The same request with the same key gets the first answer again, and "
            "changes nothing; another request with that key is refused. Kept for a day."
        ),
        "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
    },
    "IfMatch": {
        "name": "If-Match",
        "description": (
            "The `ETag` that was read: refuses with 412 when somebody has changed the resource since. What "
            "changes by itself (a turn that runs, a count) does not matter."
        ),
        "schema": {"type": "string", "pattern": r'^(\*|"[!#-~]*")$'},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "description": (
            "The `ETag` that was read: answers 304, without a body, while the resource is the same."
        ),
        "schema": {"type": "string", "pattern": r'^(\*|"[!#-~]*")$'},
    },
    "LastEventId": {
        "name": "Last-Event-ID",
        "description": "As `since_id`; what browsers send when they connect again.",
        "schema": {"type": "string", "pattern": "^(event_[0-9a-f]{32})?$"},
    },
}


_INFO = {
    "title": "Perdure",
    "summary": "A durable harness for LLM agents.",
    "description": (
        "Every path is served below `/api` as well. Lists, errors and times look the same everywhere."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}

_TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "description": "An access token (`pdr_pat_...`). A server on loopback without any token asks for none.",
}


def build_document(routes: tuple[Route, ...], version: str) -> dict[str, Any]:
    """The document as a JSON value."""
    types: list[Any] = [Problem, *EVENT_DATA.values()]
    for route in routes:
        types += [kind for kind in (route.body, route.returns, route.also, route.query) if kind is not None]
    found, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(map(id, types), found, strict=True))
    queries = {route.query.__name__ for route in routes if route.query is not None}
    schemas = {_clean(name): _explained(each) for name, each in components.items() if name not in queries}
    schemas["Event"]["properties"]["data"]["anyOf"] = [
        {"$ref": _REF.format(name=name)}
        for name in dict.fromkeys(kind.__name__ for kind in EVENT_DATA.values())
    ]
    examples = Examples(components)
    paths: dict[str, Any] = {}
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
    return msgspec.json.decode(_rename(msgspec.json.encode(document)), type=dict[str, Any])


def _clean(name: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_")
    return "_".join(_NAMES.get(part, part) for part in name.split("_"))


def _rename(document: bytes) -> bytes:
    """References to our types, with names that OpenAPI allows."""
    return re.sub(
        rb'"#/components/schemas/([^"]+)"',
        lambda match: b'"#/components/schemas/' + _clean(match[1].decode()).encode() + b'"',
        document,
    )


def _explained(schema: dict[str, Any]) -> dict[str, Any]:
    """A component without noise."""
    schema.pop("title", None)
    if "description" in schema:
        schema["description"] = " ".join(inspect.cleandoc(schema["description"]).split())
    for each in schema.get("properties", {}).values():
        _explain(each)
    return schema


def _explain(field: dict[str, Any]) -> None:
    """Drop `null` as the default of what is optional, and describe the tag that msgspec adds to a kind."""
    if field.get("default", ...) is None:
        del field["default"]
    if list(field) == ["enum"]:
        field["description"] = f"Always `{field['enum'][0]}`: the kind of object."


def _operation(
    route: Route, by_type: dict[int, Any], components: dict[str, Any], examples: Examples
) -> dict[str, Any]:
    operation: dict[str, Any] = {
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
        content: dict[str, Any] = {"schema": by_type[id(route.body)]}
        if route.body_example is not None:
            content["example"] = route.body_example
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    elif route.text_limit:
        text: dict[str, Any] = {"schema": {"type": "string"}}
        if route.body_example is not None:
            text["example"] = route.body_example
        operation["requestBody"] = {"required": True, "content": {"text/plain": text}}
    operation["responses"] = _responses(route, by_type, examples)
    if route.public:
        operation["security"] = []
    return operation


def _headers_of(route: Route) -> Iterable[str]:
    if route.public:
        return
    yield "Organization"
    if route.takes_key:
        yield "IdempotencyKey"
    if route.etag:
        yield "IfNoneMatch" if route.method == "GET" else "IfMatch"
    if route.content == "text/event-stream":
        yield "LastEventId"


def _path_parameter(variable: Variable) -> dict[str, Any]:
    name = variable.name
    schema: dict[str, Any] = {"type": "string"}
    if variable.rest:
        schema |= {"minLength": 1, "maxLength": MAX_PATH}
    words = _IN_PATHS.get(name, "")
    if variable.prefixes:
        prefix = variable.prefixes[0]
        schema["pattern"] = f"^{prefix}_[0-9a-f]{{32}}$"
        words = f"The {_KINDS.get(prefix, prefix)}'s id."
        if variable.named:
            schema["pattern"] = f"^({prefix}_[0-9a-f]{{32}}|[a-z0-9-]{{1,64}})$"
            words = f"The {prefix}'s id or name."
    return {"name": name, "in": "path", "required": True, "description": words, "schema": schema}


def _query_parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, each in schema["properties"].items():
        _explain(each)
        parameter = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        if "description" in each:
            parameter["description"] = each["description"]
        # A parameter that is there has a value: null is said by leaving it out.
        branches = [branch for branch in each.get("anyOf", ()) if branch != {"type": "null"}]
        rest = {key: value for key, value in each.items() if key not in ("anyOf", "description")}
        only = branches[0] if len(branches) == 1 else {"anyOf": branches} if branches else {}
        found.append({**parameter, "schema": {**only, **rest}})
    return found


def errors_of(route: Route) -> set[int]:
    """The statuses of errors that an operation can answer with."""
    if route.public:
        return set(route.errors)
    errors = {400, 401, 403, 429, 503, *route.errors}
    if route.method in ("POST", "PUT", "PATCH"):
        errors.add(413)
    if route.body is not None or route.text_limit:
        errors.add(415)
    if "IdempotencyKey" in _headers_of(route):
        errors.add(409)
    return errors


def _responses(route: Route, by_type: dict[int, Any], examples: Examples) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "No content." if route.status == 204 else "Done."}
    if route.content != "application/json":
        shown = EVENT_STREAM if route.content == "text/event-stream" else route.example
        good["content"] = {
            route.content: {"schema": {"type": "string"}, **({} if shown is None else {"example": shown})}
        }
    elif route.returns is not None:
        kinds = [by_type[id(kind)] for kind in (route.returns, route.also) if kind is not None]
        good["content"] = {route.content: {"schema": kinds[0] if len(kinds) == 1 else {"anyOf": kinds}}}
        with suppress(NoExample):
            example = DOCUMENT if get_origin(route.returns) is dict else examples.of(kinds[0])
            good["content"][route.content]["example"] = example
    if route.etag:
        good["headers"] = {
            "ETag": {"description": "The version of the resource.", "schema": {"type": "string"}}
        }
    responses = {str(status): good for status in (route.status, *route.other)}
    if route.etag and route.method == "GET":
        responses["304"] = {"description": "It is still the same."}
    for status in errors_of(route):
        responses[str(status)] = {"$ref": f"#/components/responses/Error{status}"}
    return dict(sorted(responses.items()))


def _error(status: int) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name="Problem")}
    content = {"schema": schema, "example": error_example(status, _TITLES[status])}
    answer: dict[str, Any] = {
        "description": f"{_TITLES[status]}.",
        "content": {"application/problem+json": content},
    }
    if status in (429, 503):
        answer["headers"] = {
            "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
        }
    if status == 401:
        answer["headers"] = {
            "WWW-Authenticate": {"description": "How to log in.", "schema": {"type": "string"}}
        }
    return answer
