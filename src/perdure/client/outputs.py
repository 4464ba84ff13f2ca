"""Typed results: the JSON Schema of a type, and the value of a turn's output as that type."""

from __future__ import annotations

from typing import Any, TypeVar, overload

import msgspec
from msgspec.structs import replace

from perdure.domain.messages import Controls, JsonObject, JsonValue

T = TypeVar("T")

Schema = type[T] | JsonObject
"""What a result must match: a type that msgspec knows, a model of pydantic, or a JSON Schema."""


def schema_of(schema: Schema[Any]) -> JsonObject:
    """Return the JSON Schema of a type: a struct, dataclass, TypedDict, built-in type or model of pydantic.

    Raises:
        TypeError: it is of another kind.
    """
    if isinstance(schema, dict):
        return schema
    of_pydantic = getattr(schema, "model_json_schema", None)
    if of_pydantic is not None:
        found: JsonObject = of_pydantic()
        return found
    try:
        return _inlined(msgspec.json.schema(schema))
    except TypeError as error:
        raise TypeError(
            "`schema` must be a type, such as a struct, a dataclass or a model of pydantic, or a dict with a "
            f"JSON Schema: {error}"
        ) from None


def _inlined(schema: JsonObject) -> JsonObject:
    """Put the schema that the root refers to in its place: some vendors want an object there."""
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    definitions: JsonObject = schema.get("$defs", {})
    if name not in definitions:
        return schema
    root = definitions[name]
    rest = {key: each for key, each in definitions.items() if key != name}
    if f'"#/$defs/{name}"'.encode() in msgspec.json.encode([root, rest]):
        rest = definitions  # it refers to itself
    return {**root, "$defs": rest} if rest else root


@overload
def value_of(schema: type[T], output: JsonValue) -> T: ...
@overload
def value_of(schema: JsonObject, output: JsonValue) -> JsonValue: ...
def value_of(schema: Schema[Any], output: JsonValue) -> Any:
    """Convert an output to the type whose schema it matches; for a JSON Schema, return it as it is.

    Raises:
        ValueError: it breaks a rule that the schema does not have, as msgspec or pydantic says.
    """
    if isinstance(schema, dict):
        return output
    of_pydantic = getattr(schema, "model_validate", None)
    return msgspec.convert(output, schema) if of_pydantic is None else of_pydantic(output)


def with_schema(controls: Controls | None, schema: Schema[Any] | None) -> Controls | None:
    """Return a message's choices with this schema for its turn's result.

    Raises:
        ValueError: the choices have a schema already.
    """
    if schema is None:
        return controls
    before = controls or Controls()
    if before.output_schema is not None or before.response_format is not None:
        raise ValueError("pass `schema`, or a schema in `controls`, but not both")
    return replace(before, output_schema=schema_of(schema))
