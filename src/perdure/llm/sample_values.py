"""Small values that fit JSON Schemas, for the simulated model. Rare keywords are not understood."""

from __future__ import annotations

from typing import Any

from perdure.domain.schema_cost import Targets, Unbounded
from perdure.llm.driver import OutputFormat

_DEPTH = 20
_TEXTS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "somebody@example.com",
    "uri": "https://example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def sample(form: OutputFormat) -> Any:
    """Return a value for the form of an answer."""
    return _value(form.schema, Targets(form.schema), 0)


def _value(schema: Any, targets: Targets, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _DEPTH:
        return None
    if "$ref" in schema:
        try:
            return _value(targets.find(schema["$ref"]), targets, depth + 1)
        except Unbounded:
            return None
    for keyword in ("default", "const"):
        if keyword in schema:
            return schema[keyword]
    if schema.get("enum"):
        return schema["enum"][0]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if schema.get(keyword):
            return _value(schema[keyword][0], targets, depth + 1)
    kind = schema.get("type")
    return _of_type(kind[0] if isinstance(kind, list) and kind else kind, schema, targets, depth)


def _of_type(kind: Any, schema: dict[str, Any], targets: Targets, depth: int) -> Any:
    match kind:
        case "object":
            properties = schema.get("properties", {})
            required = schema.get("required", list(properties))
            return {name: _value(properties.get(name), targets, depth + 1) for name in required}
        case "array":
            item = _value(schema.get("items"), targets, depth + 1)
            return [item] * min(schema.get("minItems", 0), 100)
        case "string":
            text = _TEXTS.get(schema.get("format", ""), "text")
            return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength", 1000)]
        case "integer" | "number":
            least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
            return min(least, schema.get("maximum", least))
        case "boolean":
            return True
    return None
