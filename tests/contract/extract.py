"""Extracts contract.json from the full OpenAPI document of the wire contract.

contract.json has the structure that the API is compared with: paths, parameters, names and types of fields,
and which are required. It has no prose. Usage: python -m tests.contract.extract DOCUMENT
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONTRACT = Path(__file__).with_name("contract.json")

AREAS = (
    "/v1/agents", "/v1/capabilities", "/v1/harness-examples", "/v1/harnesses", "/v1/images", "/v1/memories",
    "/v1/models", "/v1/orgs", "/v1/providers", "/v1/resolve-org", "/v1/sessions", "/v1/users",
    "/v1/workspaces",
)  # fmt: skip

KEPT = ("$ref", "type", "enum", "const", "required")
MANY = ("oneOf", "anyOf", "allOf")
ONE = ("items", "additionalProperties")


def bare(schema: Any) -> Any:
    """A schema without prose, formats and limits."""
    if not isinstance(schema, dict):
        return schema
    found = {key: schema[key] for key in KEPT if key in schema}
    found |= {key: [bare(each) for each in schema[key]] for key in MANY if key in schema}
    found |= {key: bare(schema[key]) for key in ONE if key in schema}
    if "properties" in schema:
        found["properties"] = {name: bare(each) for name, each in schema["properties"].items()}
    return found


def bodies(content: dict[str, Any]) -> dict[str, Any]:
    return {kind: bare(each.get("schema", {})) for kind, each in content.items()}


def operation(full: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"operationId": full["operationId"]}
    if full.get("parameters"):
        found["parameters"] = [
            {
                "name": each["name"],
                "in": each["in"],
                "required": bool(each.get("required")),
                "schema": bare(each.get("schema", {})),
            }
            for each in full["parameters"]
        ]
    if "requestBody" in full:
        body = full["requestBody"]
        found["requestBody"] = {"required": bool(body.get("required")), "content": bodies(body["content"])}
    found["responses"] = {
        status: bodies(answer.get("content", {}))
        for status, answer in full["responses"].items()
        if status.startswith("2")
    }
    return found


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "$ref":
                yield each.rsplit("/", 1)[1]
            else:
                yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def extract(document: dict[str, Any]) -> dict[str, Any]:
    paths = {
        path: {method: operation(each) for method, each in item.items()}
        for path, item in document["paths"].items()
        if path.startswith(AREAS)
    }
    schemas: dict[str, Any] = {}
    todo = ["ErrorResponse", *references(paths)]
    while todo:
        name = todo.pop()
        if name not in schemas:
            schemas[name] = bare(document["components"]["schemas"][name])
            todo += references(schemas[name])
    return {"paths": paths, "schemas": dict(sorted(schemas.items()))}


def write(found: dict[str, Any], file: Path) -> None:
    """Write one path or schema per line, so that the file is small and its changes are readable."""
    parts = (
        f'"{part}":{{\n'
        + ",\n".join(
            f"{json.dumps(name)}:{json.dumps(each, separators=(',', ':'))}" for name, each in items.items()
        )
        for part, items in found.items()
    )
    file.write_text("{" + "\n},\n".join(parts) + "\n}}\n")


if __name__ == "__main__":
    write(extract(json.loads(Path(sys.argv[1]).read_text())), CONTRACT)
