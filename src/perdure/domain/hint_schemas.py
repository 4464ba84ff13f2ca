"""JSON Schemas of Python's type hints, in the form that model vendors accept: without references."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from perdure.domain.docstrings import read_docstring
from perdure.domain.hint_values import UnsupportedHint, check_convertible
from perdure.domain.messages import JsonObject
from perdure.domain.schema_cost import SUBSCHEMAS

MAX_PARTS = 1_000
"""Subschemas of one parameter."""

SUPPORTED = (
    "str, int, float, bool, None, Any, list, dict, tuple, set, Literal, Enum, unions of these, date and "
    "time, UUID, Decimal, bytes, dataclasses, TypedDict, NamedTuple and msgspec structs"
)
_TYPES_OF_VALUES = {str: "string", bool: "boolean", int: "integer"}

FIELD_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
"""The names of arguments that all model vendors accept."""


def schema_of_hint(hint: Any) -> JsonObject:
    """Derive the JSON Schema of a type hint.

    The docstrings of classes describe them and, under `Attributes:`, their fields.

    Raises:
        UnsupportedHint: the type is not supported, contains itself, or is one that no JSON becomes.
    """
    try:
        (schema,), parts = msgspec.json.schema_components((hint,))
        inlined = _Inliner(parts).part(schema)
        check_convertible(hint)
    except UnsupportedHint:
        raise
    except RecursionError as error:
        raise UnsupportedHint("is nested too deeply: use a flatter type") from error
    except Exception as error:
        # The classes are their author's: deriving their schemas may fail in any way.
        raise UnsupportedHint(_reason(error)) from error
    return inlined


def _reason(error: Exception) -> str:
    text = str(error).strip()
    if "custom types" in text:
        kind = text.rpartition("\n")[2].removeprefix("type ").removesuffix(" is not supported")
        return f"is not supported ({kind}). Supported are {SUPPORTED}"
    return f"is not supported: {text.partition(chr(10))[0][:300]}"


class _Inliner:
    """Replaces references by what they refer to."""

    def __init__(self, parts: dict[str, JsonObject]) -> None:
        self._parts = parts
        self._open: list[str] = []
        self._left = MAX_PARTS

    def part(self, schema: JsonObject) -> JsonObject:
        self._left -= 1
        if self._left < 0:
            raise UnsupportedHint(f"has over {MAX_PARTS} parts: use a smaller type")
        if "$ref" in schema:
            return self._referred(schema)
        done = {name: self._value(name, value) for name, value in schema.items() if name != "discriminator"}
        values = done.get("enum")
        if isinstance(values, list) and "type" not in done:
            types = {type(value) for value in values}
            if len(types) == 1 and (name := _TYPES_OF_VALUES.get(types.pop())):
                done = {"type": name, **done}
        return done

    def _referred(self, schema: JsonObject) -> JsonObject:
        name = schema["$ref"].rpartition("/")[2]
        if name not in self._parts:
            raise UnsupportedHint(
                f"has a schema of its own with `$ref`, which is not possible: {name[:100]!r}"
            )
        if name in self._open:
            raise UnsupportedHint(f"contains itself ({name}): not every model can call such a tool")
        self._open.append(name)
        found = self.part(_documented(self._parts[name]))
        self._open.pop()
        return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}

    def _value(self, name: str, value: Any) -> Any:
        kind = SUBSCHEMAS.get(name)
        if kind == "map":
            for field in value:
                if not FIELD_NAME.fullmatch(field):
                    raise UnsupportedHint(
                        f"has a field {field!r}: names of 1 to 64 letters, digits and characters of _.- are "
                        "what model vendors accept"
                    )
            return {field: self.part(each) for field, each in value.items()}
        if kind is not None and isinstance(value, list):
            return [self.part(each) for each in value]
        return self.part(value) if kind is not None and isinstance(value, dict) else value


def _documented(schema: JsonObject) -> JsonObject:
    """The schema of a class, with its docstring distributed to its fields."""
    doc = read_docstring(schema.get("description", ""))
    texts = doc.texts()
    done = {name: value for name, value in schema.items() if name not in ("title", "description")}
    if doc.description:
        done["description"] = doc.description
    fields = schema.get("properties")
    if isinstance(fields, dict):
        done["properties"] = {
            name: {**field, "description": texts[name]}
            if name in texts and "description" not in field
            else field
            for name, field in fields.items()
        }
    return done
