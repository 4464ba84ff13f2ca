"""No description and no example of release 0.1.0's OpenAPI document is lost.

tests/golden/openapi_0_1_0.json.xz is that document. Texts may change; whatever had one must keep one.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from perdure.api.openapi.document import build_document
from perdure.routing import ThisProcess, all_routes
from perdure.settings import Settings

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "openapi_0_1_0.json.xz"


def documented_parts(document: dict[str, Any]) -> set[str]:
    """List every part of the document that has a description or an example."""
    components = document["components"]
    found = {f"info: {key}" for key in ("summary", "description") if document["info"].get(key)}
    found |= {f"tag {tag['name']}" for tag in document["tags"] if tag["description"]}
    for name, schema in components["schemas"].items():
        found |= set(_described(f"schema {name}", schema))
        for field, each in schema.get("properties", {}).items():
            found |= set(_described(f"field {name}.{field}", each))
    for section in ("parameters", "securitySchemes"):
        for name, each in components[section].items():
            found |= set(_described(f"{section} {name}", each))
    for name, answer in components["responses"].items():
        found |= set(_answered(f"response {name}", answer))
    for item in document["paths"].values():
        for operation in item.values():
            found |= set(_operation(operation))
    return found


def _operation(operation: dict[str, Any]) -> Iterator[str]:
    name = operation["operationId"]
    if operation["summary"]:
        yield f"operation {name}: summary"
    yield from _described(f"operation {name}", operation)
    for parameter in operation.get("parameters", ()):
        if "$ref" in parameter:
            yield f"operation {name}: {parameter['$ref']}"
        else:
            yield from _described(f"operation {name}, parameter {parameter['name']}", parameter)
    yield from _contents(f"operation {name}, body", operation.get("requestBody", {}))
    for status, answer in operation["responses"].items():
        if "$ref" in answer:
            yield f"operation {name}: {answer['$ref']}"
        else:
            yield from _answered(f"operation {name}, {status}", answer)


def _answered(place: str, answer: dict[str, Any]) -> Iterator[str]:
    yield from _described(place, answer)
    yield from _contents(place, answer)
    for header, each in answer.get("headers", {}).items():
        yield from _described(f"{place}, header {header}", each)


def _described(place: str, schema: dict[str, Any]) -> Iterator[str]:
    if schema.get("description"):
        yield f"{place}: description"
    branches = [schema, *schema.get("anyOf", ()), schema.get("schema", {}), schema.get("items", {})]
    if any(branch.get("examples") for branch in branches):
        yield f"{place}: example"


def _contents(place: str, holder: dict[str, Any]) -> Iterator[str]:
    for kind, content in holder.get("content", {}).items():
        if content.get("example") is not None:
            yield f"{place}, {kind}: example"


def test_every_description_and_example_of_the_first_release_is_still_there() -> None:
    before = documented_parts(msgspec.json.decode(lzma.decompress(GOLDEN.read_bytes())))
    now = documented_parts(build_document(all_routes(Settings(), ThisProcess()), "0"))
    assert len(before) > 1500
    assert sorted(before - now) == []
