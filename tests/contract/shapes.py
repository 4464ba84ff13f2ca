"""The values that a schema allows, reduced to what can be compared: kinds, values, fields, items."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

Schema = dict[str, Any]


class Shape(NamedTuple):
    """One of the forms of a value. `name` is the schema's name, or empty."""

    kind: str
    name: str = ""
    values: frozenset[Any] | None = None
    fields: Mapping[str, Any] = MappingProxyType({})
    required: frozenset[str] = frozenset()
    items: Any = None
    rest: Any = None

    @property
    def tag(self) -> str | None:
        """The single value of `type` or `status` that distinguishes this object from its siblings."""
        for name in ("type", "status"):
            schema = self.fields.get(name)
            if isinstance(schema, dict):
                values = schema.get("enum", [schema["const"]] if "const" in schema else [])
                if len(values) == 1:
                    return str(values[0])
        return None


class Shapes:
    """The schemas of a document."""

    def __init__(self, schemas: dict[str, Schema]) -> None:
        self._schemas = schemas

    def of(self, schema: Any, name: str = "") -> list[Shape]:
        """All forms of a value of this schema; `null` is a form of its own."""
        if not isinstance(schema, dict):
            return [Shape("any")]
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            return self.of(self._schemas[name], name)
        for key in ("oneOf", "anyOf"):
            if key in schema:
                return [
                    shape
                    for each in schema[key]
                    for shape in self.of(each, name if len(schema[key]) == 1 else "")
                ]
        if "allOf" in schema:
            return [self._all_of(schema["allOf"], name)]
        if "const" in schema or "enum" in schema:
            return self._enumerated(schema)
        kinds = schema.get("type", "object" if "properties" in schema else "any")
        return [self._plain(kind, schema, name) for kind in ([kinds] if isinstance(kinds, str) else kinds)]

    @staticmethod
    def _enumerated(schema: Schema) -> list[Shape]:
        values = schema.get("enum", [schema.get("const")])
        named = frozenset(each for each in values if each is not None)
        return [Shape("string", values=named), *([Shape("null")] if None in values else [])]

    @staticmethod
    def _plain(kind: str, schema: Schema, name: str) -> Shape:
        if kind == "object":
            required = frozenset(schema.get("required", ()))
            return Shape(
                kind,
                name,
                None,
                schema.get("properties", {}),
                required,
                rest=schema.get("additionalProperties"),
            )
        return Shape(kind, name, items=schema.get("items") if kind == "array" else None)

    def _all_of(self, parts: list[Any], name: str) -> Shape:
        fields: Mapping[str, Any] = MappingProxyType({})
        required: frozenset[str] = frozenset()
        kind, first = "any", ""
        for part in parts:
            shape = self.of(part)[0]
            fields, required = {**fields, **shape.fields}, required | shape.required
            kind, first = (shape.kind, first or shape.name) if shape.kind != "any" else (kind, first)
        return Shape(kind, first or name, None, fields, required)
