"""Narrows the schema of an answer to what a vendor's structured output knows.

Vendors compile such a schema to a grammar, and refuse what they cannot compile. What only bounds a value
(`minimum`, `maxLength`) is moved to the description; the answer is checked against the whole schema later. A
schema whose structure a vendor cannot express is not narrowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.messages import JsonObject
from perdure.domain.schema_cost import MAX_HEIGHT, Unbounded, cost_of
from perdure.domain.tool_schemas import MAX_SUBSCHEMAS
from perdure.llm.driver import OutputFormat
from perdure.llm.schemas import acceptable


class Dialect(Struct, frozen=True):
    """What a vendor's structured output knows.

    Attributes:
        bounds: the bounds of values that it enforces.
        formats: the formats of texts that it enforces.
        all_required: every property must be required.
        recursive: a schema may refer to itself.
    """

    bounds: frozenset[str]
    formats: frozenset[str]
    all_required: bool
    recursive: bool


_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
OPENAI = Dialect(
    frozenset(
        {
            "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "pattern",
            "minItems", "maxItems",
        }
    ),
    _FORMATS,
    all_required=True,
    recursive=True,
)  # fmt: skip
ANTHROPIC = Dialect(frozenset(), _FORMATS | {"uri"}, all_required=False, recursive=False)

GEMINI = Dialect(
    frozenset({"minimum", "maximum", "minItems", "maxItems"}),
    frozenset({"date-time", "date", "time"}),
    all_required=False,
    recursive=True,
)

_BOUNDS = frozenset(
    {
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "pattern", "minLength",
        "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "format",
    }
)  # fmt: skip
_LOOKS_AROUND = re.compile(r"\(\?<?[=!]")
_KEPT = frozenset({"title", "description"})
_PLAIN = (str, int, float, bool, type(None))
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


class _Inexpressible(Exception):
    """The vendor cannot express the schema."""


def narrowed(schema: JsonObject, dialect: Dialect) -> JsonObject | None:
    """Return the schema of an object in a vendor's dialect; None if the dialect cannot express it."""
    try:
        if not dialect.recursive and cost_of(schema).recursive:
            return None
        narrow = _Narrow(dialect)
        made = narrow.part(schema, 1)
        definitions = schema.get("$defs")
        if isinstance(definitions, dict):
            made["$defs"] = {name: narrow.part(each, 2) for name, each in definitions.items()}
    except (_Inexpressible, Unbounded):
        return None
    return made if made.get("type") == "object" else None


class _Narrow:
    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._left = MAX_SUBSCHEMAS

    def part(self, schema: Any, depth: int) -> JsonObject:
        """Narrow one subschema. Raises _Inexpressible."""
        self._left -= 1  # lists of types multiply their parts
        if not isinstance(schema, dict) or depth > MAX_HEIGHT or self._left < 0:
            raise _Inexpressible
        made: JsonObject = {name: schema[name] for name in _KEPT if isinstance(schema.get(name), str)}
        if "$ref" in schema:
            if not str(schema["$ref"]).startswith("#/$defs/"):
                raise _Inexpressible
            return {"$ref": schema["$ref"]}
        if "const" in schema or "enum" in schema:
            return made | _enumerated(schema)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                choices = schema[keyword]
                if not isinstance(choices, list) or schema.keys() & {"properties", "items", "allOf"}:
                    raise _Inexpressible
                return made | {"anyOf": [self.part(each, depth + 1) for each in choices]}
        if schema.keys() & {"allOf", "patternProperties", "prefixItems", "dependentSchemas"}:
            raise _Inexpressible
        kind = schema.get("type")
        if isinstance(kind, list):
            return made | {"anyOf": [self.part({**_bare(schema), "type": each}, depth + 1) for each in kind]}
        if kind == "object":
            made |= self._object(schema, depth)
        elif kind == "array":
            made |= {"type": "array", "items": self.part(schema.get("items"), depth + 1)}
        elif kind in _TYPES:
            made["type"] = kind
        else:
            raise _Inexpressible
        return self._bounded(made, schema)

    def _object(self, schema: JsonObject, depth: int) -> JsonObject:
        properties = schema.get("properties")
        required = schema.get("required", [])
        if not isinstance(properties, dict) or schema.get("additionalProperties", False) is not False:
            raise _Inexpressible
        if not set(required) <= properties.keys():
            raise _Inexpressible
        if self._dialect.all_required and set(required) != properties.keys():
            raise _Inexpressible
        return {
            "type": "object",
            "properties": {name: self.part(each, depth + 1) for name, each in properties.items()},
            "required": required,
            "additionalProperties": False,
        }

    def _bounded(self, made: JsonObject, schema: JsonObject) -> JsonObject:
        moved = []
        for name in sorted(_BOUNDS & schema.keys()):
            known = name in self._dialect.bounds or (
                name == "format" and schema[name] in self._dialect.formats
            )
            if known and not _refused_everywhere(schema[name]):
                made[name] = schema[name]
            else:
                moved.append(f"{name}: {msgspec.json.encode(schema[name]).decode()}")
        if moved:
            words = [made["description"]] if made.get("description") else []
            made["description"] = " ".join([*words, f"({', '.join(moved)})"])
        return made


def _refused_everywhere(bound: Any) -> bool:
    """Whether it is an `exclusiveMinimum` of draft 4, or a pattern that looks around."""
    return isinstance(bound, bool) or (isinstance(bound, str) and _LOOKS_AROUND.search(bound) is not None)


def _bare(schema: JsonObject) -> JsonObject:
    return {name: value for name, value in schema.items() if name not in _KEPT}


def _enumerated(schema: JsonObject) -> JsonObject:
    values = [schema["const"]] if "const" in schema else schema["enum"]
    if not isinstance(values, list) or not all(isinstance(value, _PLAIN) for value in values):
        raise _Inexpressible
    kind = schema.get("type")
    if not isinstance(kind, str):
        return {"enum": values}
    kept = [value for value in values if type(value) in _TYPES.get(kind, ())]
    return {"type": kind, "enum": kept or values}


class OutputSchemas:
    """A driver's most recent formats of answers, encoded: sessions ask for the same again."""

    _CAPACITY = 8

    def __init__(self, encode: Callable[[JsonObject], JsonObject | None]) -> None:
        self._encode = encode
        self._entries: list[tuple[OutputFormat, JsonObject | None]] = []

    def encoded(self, output: OutputFormat) -> JsonObject | None:
        """Return the format in the vendor's encoding; None if it has none for it."""
        for cached, encoding in self._entries:
            if cached is output or cached == output:
                return encoding
        encoding = self._encode(output.schema)
        self._entries.append((output, encoding))
        del self._entries[: -self._CAPACITY]
        return encoding


def openai_schema(schema: JsonObject) -> JsonObject:
    """Return the fields `schema` and `strict` for OpenAI: strict if its dialect can express the schema."""
    strict = narrowed(schema, OPENAI)
    return (
        {"schema": acceptable(schema), "strict": False}
        if strict is None
        else {"schema": strict, "strict": True}
    )


def compatible_schema(schema: JsonObject) -> JsonObject:
    """Return the same fields for other servers, which get the whole schema."""
    whole = acceptable(schema)
    return {"schema": whole, "strict": narrowed(schema, OPENAI) == whole}
