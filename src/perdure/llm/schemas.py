"""Adapts tool schemas to what vendors accept.

New schemas are checked when they are created. Those of plug-ins, and those that older releases stored, may
have parts that a vendor refuses, and a refused schema would fail every turn of its session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

from perdure.domain.json_schemas import compile_pattern
from perdure.domain.messages import JsonObject
from perdure.domain.schema_cost import MAX_HEIGHT, SUBSCHEMAS, Targets, Unbounded
from perdure.domain.tool_schemas import MAX_PATTERN, MAX_SUBSCHEMAS, NOT_AT_TOP, TYPES, inlined

ANYTHING: JsonObject = {"type": "object", "properties": {}}
"""Replaces a schema that cannot be adapted: the tool then checks the arguments."""


def acceptable(schema: JsonObject) -> JsonObject:
    """Return the schema of an object that vendors accept; the same object if nothing has to change."""
    try:
        adapted = _Adapter(schema).part(_as_object(inlined(schema)), 1)
        return adapted if _is_valid(adapted) else ANYTHING
    except Unbounded:
        return ANYTHING


def _is_valid(schema: JsonObject) -> bool:
    if _is_plain(schema):
        return True
    import jsonschema_rs  # heavy: 5 MB that few sessions need

    try:
        return bool(jsonschema_rs.meta.is_valid(schema))
    except (ValueError, jsonschema_rs.ReferencingError):
        return False


def _as_object(schema: JsonObject) -> JsonObject:
    """The schema with the type `object`, with properties, and without a choice at its top."""
    chosen = [keyword for keyword in NOT_AT_TOP if keyword in schema]
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict) and not chosen:
        return schema
    properties: JsonObject = {}
    required: list[Any] = []
    for keyword in ("properties", "allOf", "anyOf", "oneOf"):
        branches = [schema] if keyword == "properties" else schema.get(keyword)
        for branch in branches if isinstance(branches, list) else ():
            if isinstance(branch, dict) and isinstance(branch.get("properties"), dict):
                properties = {**branch["properties"], **properties}
                if keyword in ("properties", "allOf") and isinstance(branch.get("required"), list):
                    required += [name for name in branch["required"] if name not in required]
    replaced = {*chosen, "type", "properties", "required"}
    kept = {name: value for name, value in schema.items() if name not in replaced}
    adapted = {"type": "object", "properties": properties, **kept}
    return {**adapted, "required": required} if required else adapted


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive(value: object) -> bool:
    return _is_number(value) and value > 0


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool)


def _is_kind(value: object) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return bool(kinds) and all(each in TYPES for each in kinds) and len(set(kinds)) == len(kinds)


def _is_pattern(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_PATTERN and compile_pattern(value) is None


_FORMS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("title", "description", "format", "$comment"), _is_text),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    "multipleOf": _is_positive,
    **dict.fromkeys(
        (
            "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
            "minContains", "maxContains",
        ),
        _is_count,
    ),
    **dict.fromkeys(("uniqueItems", "readOnly", "writeOnly", "deprecated"), _is_boolean),
    "required": _is_names,
    "type": _is_kind,
    "enum": lambda value: isinstance(value, list) and bool(value),
    "examples": lambda value: isinstance(value, list),
    "pattern": _is_pattern,
}  # fmt: skip
"""What the value of a keyword must be; keywords that are not here are left alone."""


_PLAIN = frozenset({*_FORMS, "default", "const", "properties", "items", "additionalProperties"})


def _is_plain(schema: Any) -> bool:
    """Whether an adapted schema has only keywords that the adapter has checked completely."""
    if isinstance(schema, bool):
        return True
    if not isinstance(schema, dict) or not schema.keys() <= _PLAIN:
        return False
    parts = [schema[name] for name in ("items", "additionalProperties") if name in schema]
    return all(map(_is_plain, [*schema.get("properties", {}).values(), *parts]))


class _Adapter:
    """Leaves out what is no valid part of a schema. Raises Unbounded if there are too many subschemas."""

    def __init__(self, root: JsonObject) -> None:
        self._targets = Targets(root)
        self._left = MAX_SUBSCHEMAS

    def part(self, schema: Any, depth: int) -> Any:
        """Adapt one subschema; returns the same object if nothing has to change."""
        self._left -= 1
        if self._left < 0 or depth > MAX_HEIGHT:
            raise Unbounded("the schema is too large")
        if not isinstance(schema, dict):
            return schema if isinstance(schema, bool) else {}
        adapted = {name: value for name, value in schema.items() if self._is_usable(name, value)}
        for name in [name for name in adapted if name in SUBSCHEMAS]:
            adapted[name] = self._parts(name, adapted[name], depth + 1)
        if adapted.get("type") == "array" and not {"items", "prefixItems"} & adapted.keys():
            adapted["items"] = {}  # some vendors refuse lists of unknown items
        same = adapted.keys() == schema.keys() and all(adapted[name] is schema[name] for name in adapted)
        return schema if same else adapted

    def _parts(self, name: str, value: Any, depth: int) -> Any:
        if isinstance(value, list):
            parts = [self.part(each, depth) for each in value]
            return value if all(map(_same, parts, value)) else parts
        if SUBSCHEMAS[name] == "one":
            return self.part(value, depth)
        named = {
            key: each if isinstance(each, list) else self.part(each, depth)
            for key, each in value.items()
            if name != "patternProperties" or _is_pattern(key)
        }
        same = len(named) == len(value) and all(map(_same, named.values(), value.values()))
        return value if same else named

    def _is_usable(self, name: str, value: Any) -> bool:
        kind = SUBSCHEMAS.get(name)
        if kind is not None:
            forms = {"one": dict | bool, "list": list, "map": dict}
            return isinstance(value, forms[kind]) or (name == "items" and isinstance(value, list))
        if name == "$ref":
            try:
                self._targets.find(value)
            except Unbounded:
                return False
            return True
        form = _FORMS.get(name)
        return form is None or form(value)


def _same(first: object, second: object) -> bool:
    return first is second
