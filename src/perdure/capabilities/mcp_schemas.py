"""Makes the schemas of MCP servers' tools acceptable to every model vendor.

References are resolved, keywords that some vendor refuses are dropped, and names of properties that one
refuses are replaced. What is dropped only loosens a schema: the server checks the arguments itself. A schema
that stays unusable is replaced by one that takes any object.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.json_schemas import compile_pattern
from perdure.domain.messages import JsonObject
from perdure.domain.schema_cost import MAX_HEIGHT, Targets, Unbounded
from perdure.domain.tool_schemas import MAX_PATTERN, TYPES, SchemaBudget, check_schema
from perdure.domain.weights import weight_of
from perdure.llm.schemas import acceptable

MAX_WEIGHT = 48 * 1024
"""What a tool's schema may hold (`weight_of`), with all references resolved."""
MAX_PARTS = 1_000
"""Subschemas of a tool's schema, with all references resolved."""
MAX_REPEATS = 2
"""How often a reference may lead into itself before it is cut."""
MAX_NOTES = 10
"""Notes about one schema."""

_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_TEXTS = frozenset({"title", "description", "format"})
_PLAIN = frozenset(
    {
        "default", "examples", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
        "minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
        "required", "const", "readOnly", "writeOnly", "deprecated",
    }
)  # fmt: skip
"""Keywords that are kept as they are; the vendors' drivers check their values."""
_SCHEMA = frozenset({"items", "additionalProperties", "not"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf"})
_DEFINED = frozenset({"$defs", "definitions", "$schema", "$id", "$comment", "$anchor"})
"""Keywords that nothing is lost without."""
_OPEN = frozenset({"patternProperties", "unevaluatedProperties", "dependentSchemas", "dependencies"})
"""Keywords without which a schema that allows no further properties would refuse valid arguments."""


class Adapted(Struct, frozen=True):
    """A tool's schema for models.

    Attributes:
        renamed: by the name that the model uses, the property's name at the server.
        notes: what of the schema is lost, for people.
    """

    schema: JsonObject
    renamed: dict[str, str] = {}
    notes: tuple[str, ...] = ()


ANYTHING: JsonObject = {"type": "object", "properties": {}}


def adapt(schema: JsonObject, budget: SchemaBudget, hidden: str | None = None) -> Adapted:
    """Make a tool's schema acceptable.

    Args:
        budget: what is left for the schemas of this server.
        hidden: an argument that the model does not see, because the server fills it in.
    """
    adapter = _Adapter(schema)
    try:
        made = adapter.part(schema, 1, ())
        if not isinstance(made, dict):
            raise Unbounded("it is not an object")
        made = _without(acceptable(made), hidden)
        if weight_of(made, MAX_WEIGHT) > MAX_WEIGHT:
            raise Unbounded("it is too large")
        check_schema(made, "schema", budget)
    except Unbounded as problem:
        return Adapted(ANYTHING, {}, (f"its schema is left out: {problem}",))
    except InvalidInput as problem:
        return Adapted(ANYTHING, {}, (f"its schema is left out: {problem.message[:200]}",))
    return Adapted(made, adapter.renamed, adapter.notes())


def _without(schema: JsonObject, hidden: str | None) -> JsonObject:
    properties = schema.get("properties")
    if hidden is None or not isinstance(properties, dict) or hidden not in properties:
        return schema
    left = {**schema, "properties": {name: each for name, each in properties.items() if name != hidden}}
    required = [name for name in schema.get("required") or () if name != hidden]
    if required or "required" in schema:
        left["required"] = required
    if not left["properties"] and not required:
        left.pop("required", None)
    return left


def sent_name(name: str) -> str:
    """Return a property's name that every vendor accepts."""
    if _PROPERTY.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{re.sub(r'[^a-zA-Z0-9_.-]', '_', name)[:55]}_{digest}"


def original(value: Any, renamed: dict[str, str]) -> Any:
    """Return a call's arguments with the names that the server knows."""
    if not renamed:
        return value
    if isinstance(value, dict):
        return {renamed.get(name, name): original(each, renamed) for name, each in value.items()}
    return [original(each, renamed) for each in value] if isinstance(value, list) else value


class _Adapter:
    """Rebuilds one schema. Raises Unbounded: it has too many parts."""

    def __init__(self, root: JsonObject) -> None:
        self.renamed: dict[str, str] = {}
        self._targets = Targets(root)
        self._left = MAX_PARTS
        self._lost: dict[str, None] = {}

    def notes(self) -> tuple[str, ...]:
        """What is lost, each once."""
        if self.renamed:
            names = ", ".join(repr(name)[:80] for name in list(self.renamed.values())[:5])
            self._lost[f"properties whose names some vendors refuse are renamed: {names}"] = None
        return tuple(list(self._lost)[:MAX_NOTES])

    def part(self, schema: Any, depth: int, trail: tuple[str, ...]) -> Any:
        """Rebuild a subschema. `trail`: the references that led to it."""
        self._left -= 1
        if self._left < 0 or depth > MAX_HEIGHT:
            raise Unbounded("it has too many parts")
        if isinstance(schema, bool) or not isinstance(schema, dict):
            return schema if isinstance(schema, bool) else {}
        reference = schema.get("$ref", schema.get("$dynamicRef", schema.get("$recursiveRef")))
        if reference is not None:
            return self._followed(schema, reference, depth, trail)
        made: JsonObject = {}
        for keyword, value in schema.items():
            self._add(made, keyword, value, depth, trail)
        if made.get("additionalProperties") is False and _OPEN & schema.keys():
            del made["additionalProperties"]
        return made

    def _followed(self, schema: JsonObject, reference: Any, depth: int, trail: tuple[str, ...]) -> Any:
        beside = {
            key: each for key, each in schema.items() if key not in ("$ref", "$dynamicRef", "$recursiveRef")
        }
        try:
            target = self._targets.find(reference)
        except Unbounded:
            self._lose(f"the reference {str(reference)[:60]!r} leads to nothing")
            return self.part(beside, depth + 1, trail)
        if trail.count(reference) >= MAX_REPEATS:
            self._lose(f"the reference {reference[:60]!r} is recursive, and is cut")
            return {"type": "object"} if _is_object(target) else {}
        if not isinstance(target, dict):
            return self.part(beside, depth + 1, trail)
        return self.part({**target, **beside}, depth + 1, (*trail, reference))

    def _add(self, made: JsonObject, keyword: str, value: Any, depth: int, trail: tuple[str, ...]) -> None:
        if keyword == "properties" and isinstance(value, dict):
            made[keyword] = {
                self._name(name): self.part(each, depth + 1, trail) for name, each in value.items()
            }
        elif keyword == "required":
            if isinstance(value, list):
                made[keyword] = [self._name(name) for name in value if isinstance(name, str)]
        elif keyword in _SCHEMA and isinstance(value, dict | bool):
            made[keyword] = self.part(value, depth + 1, trail)
        elif keyword in _LISTS and isinstance(value, list):
            made[keyword] = [self.part(each, depth + 1, trail) for each in value]
        elif (
            keyword in _PLAIN
            or (keyword in _TEXTS and isinstance(value, str))
            or (keyword == "enum" and isinstance(value, list) and value)
            or (keyword == "type" and _is_type(value))
            or (keyword == "pattern" and _is_pattern(value))
        ):
            made[keyword] = value
        elif keyword not in _DEFINED:
            self._lose(f"the keyword {keyword[:60]!r} is left out")

    def _name(self, name: str) -> str:
        sent = sent_name(name)
        if sent != name:
            self.renamed[sent] = name
        return sent

    def _lose(self, note: str) -> None:
        self._lost[note] = None


def _is_object(target: Any) -> bool:
    return isinstance(target, dict) and (target.get("type") == "object" or "properties" in target)


def _is_type(value: object) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return bool(kinds) and all(isinstance(each, str) and each in TYPES for each in kinds)


def _is_pattern(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_PATTERN and compile_pattern(value) is None
