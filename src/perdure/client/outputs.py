"""Typed results: the JSON Schema of a type, and the value of a turn's output as that type."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec
from msgspec.structs import replace

from perdure.domain.messages import Controls, JsonObject, JsonValue

T = TypeVar("T")

Schema = type[T] | JsonObject
"""What a result must match: a type that msgspec or pydantic knows, or a JSON Schema."""


def schema_of(schema: Schema[Any]) -> JsonObject:
    """Return the JSON Schema of a type that msgspec or pydantic knows.

    Raises:
        TypeError: it is of another kind.
    """
    if isinstance(schema, dict):
        return schema
    of_pydantic = _of_pydantic(schema)
    try:
        return _inlined(msgspec.json.schema(schema) if of_pydantic is None else of_pydantic.json_schema())
    except TypeError as error:
        raise TypeError(
            "`schema` must be a type, such as a struct, a dataclass or a model of pydantic, or a dict with a "
            f"JSON Schema: {error}"
        ) from None


def _of_pydantic(schema: Any) -> Any:
    """Pydantic's adapter of a type, if it is one of pydantic's or contains one, as `list[Model]` does.

    A program that has such a type has imported pydantic.
    """
    adapter = getattr(sys.modules.get("pydantic"), "TypeAdapter", None)
    if adapter is None:
        return None
    try:
        if not hasattr(schema, "__pydantic_validator__"):
            msgspec.json.schema(schema)
            return None
    except TypeError:
        pass
    try:
        return adapter(schema)
    except RuntimeError:  # it knows the type no better
        return None


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
    convert = _converter(schema)
    try:
        return convert(output)
    except ValueError:
        # JSON Schema calls `21.0` an integer. The first error says more if that was not the reason.
        try:
            return convert(_whole(output))
        except ValueError:
            pass
        raise


def _converter(schema: Any) -> Callable[[JsonValue], Any]:
    of_pydantic = _of_pydantic(schema)
    if of_pydantic is None:
        return lambda output: msgspec.convert(output, schema, str_keys=True)
    # As JSON: strict models take times and the like as texts only from there.
    return lambda output: of_pydantic.validate_json(msgspec.json.encode(output))


def _whole(value: JsonValue) -> JsonValue:
    """The value with `21.0` as `21`."""
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
