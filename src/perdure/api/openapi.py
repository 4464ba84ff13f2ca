"""The server's own OpenAPI 3.1 document, made from the table of routes."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct

from perdure.api.http import Route
from perdure.api.problems import Problem

_REF = "#/components/schemas/{name}"
_STATUS_WORDS = {
    400: "The request is malformed or breaks a rule",
    401: "No valid credentials",
    403: "Not allowed",
    404: "Not there, or not yours",
    405: "Not a method of this path",
    409: "The resource's state does not allow it",
    412: "It has changed since it was read",
    413: "Too large",
    415: "Not JSON",
    429: "Too many requests",
    503: "A part of the server is not ready",
}


def build_document(routes: tuple[Route, ...], version: str) -> dict[str, Any]:
    """The document as a JSON value."""
    types: list[Any] = [Problem]
    for route in routes:
        types += [kind for kind in (route.body, route.returns, route.query) if kind is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(map(id, types), schemas, strict=True))
    named = {_clean(name): schema for name, schema in components.items()}
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type, components)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Perdure", "version": version, "description": "A durable harness for LLM agents."},
        "servers": [{"url": "/"}, {"url": "/api"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": named,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A personal access token (`pdr_pat_...`)."}
            },
        },
    }
    return msgspec.json.decode(_rename(msgspec.json.encode(document)), type=dict[str, Any])


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _rename(document: bytes) -> bytes:
    """References to generic types, with names that OpenAPI allows."""
    return re.sub(
        rb'"#/components/schemas/([^"]+)"',
        lambda match: b'"#/components/schemas/' + _clean(match[1].decode()).encode() + b'"',
        document,
    )


def _operation(route: Route, by_type: dict[int, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": route.operation_id, "summary": route.summary, "tags": [route.tag]}
    if route.description:
        operation["description"] = route.description
    parameters = [_path_parameter(name, route) for name in re.findall(r"{(\w+)}", route.path)]
    if route.query is not None:
        parameters += _query_parameters(route.query, components)
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        content: dict[str, Any] = {"schema": by_type[id(route.body)]}
        if route.body_example is not None:
            content["example"] = route.body_example
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    operation["responses"] = _responses(route, by_type)
    if route.public:
        operation["security"] = []
    return operation


def _path_parameter(name: str, route: Route) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    prefix = route.ids.get(name)
    if prefix is not None:
        schema["pattern"] = f"^{prefix}_[0-9a-f]{{32}}$"
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(query: type[Struct], components: dict[str, Any]) -> list[dict[str, Any]]:
    properties = components[query.__name__]["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in properties.items()]


def _responses(route: Route, by_type: dict[int, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done"}
    if route.returns is not None:
        good["content"] = {route.content: {"schema": by_type[id(route.returns)]}}
    elif route.content != "application/json":
        good["content"] = {route.content: {"schema": {"type": "string"}}}
    responses = {str(route.status): good}
    if route.status == 201:
        responses["200"] = good
    bad = {400, 503, *route.errors} | (set() if route.public else {401})
    if route.body is not None:
        bad |= {413, 415}
    for status in sorted(bad):
        responses[str(status)] = {
            "description": _STATUS_WORDS[status],
            "content": {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}},
        }
    return responses
