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


_MOST = 1_000
"""Values in a sample. A schema that refers to itself could ask for any number."""


def sample(form: OutputFormat) -> Any:
    """Return a value for the form of an answer."""
    return _Sample(form.schema).value(form.schema, 0)


class _Sample:
    def __init__(self, root: Any) -> None:
        self._targets = Targets(root)
        self._left = _MOST

    def value(self, schema: Any, depth: int) -> Any:
        """Return a value for a subschema."""
        self._left -= 1
        if not isinstance(schema, dict) or depth > _DEPTH or self._left < 0:
            return None
        if "$ref" in schema:
            try:
                return self.value(self._targets.find(schema["$ref"]), depth + 1)
            except Unbounded:
                return None
        for keyword in ("default", "const"):
            if keyword in schema:
                return schema[keyword]
        if schema.get("enum"):
            return schema["enum"][0]
        for keyword in ("anyOf", "oneOf", "allOf"):
            if schema.get(keyword):
                return self.value(schema[keyword][0], depth + 1)
        kind = schema.get("type")
        return self._of_type(kind[0] if isinstance(kind, list) and kind else kind, schema, depth)

    def _of_type(self, kind: Any, schema: dict[str, Any], depth: int) -> Any:
        match kind:
            case "object":
                properties = schema.get("properties", {})
                required = schema.get("required", list(properties))
                return {name: self.value(properties.get(name), depth + 1) for name in required}
            case "array":
                item = self.value(schema.get("items"), depth + 1)
                return [item] * min(schema.get("minItems", 0), 100)
            case "string":
                text = _TEXTS.get(schema.get("format", ""), "text")
                least = min(int(schema.get("minLength", 0)), 1000)
                return text.ljust(least, ".")[: int(schema.get("maxLength", 1000))]
            case "integer" | "number":
                least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
                return min(least, schema.get("maximum", least))
            case "boolean":
                return True
        return None
