"""JSON schemas of the tools' arguments and results: plain ones, without references, for every client."""

from __future__ import annotations

from functools import lru_cache

import msgspec
from msgspec import Struct

from perdure.domain.messages import JsonObject, JsonValue

_REF = "#/$defs/{name}"
_START = _REF.format(name="")
_LEFT_OUT = ("title", "examples")
"""What helps readers of the API's documentation, and costs the tokens of a model."""
DESCRIBED = 2
"""Levels of lists whose fields are described, the result itself included."""
_OF_ARGUMENTS = ("default", "pattern")
"""What helps to fill in arguments, and is of no use in results."""


@lru_cache(maxsize=64)  # the tools of all agents share theirs
def plain_schema(kind: type[Struct]) -> JsonObject:
    """Return the JSON schema of a struct, with references replaced by what they lead to.

    It has no description of its own, because the tool has one. Optional fields do not mention null: a client
    leaves them out.
    """
    _, components = msgspec.json.schema_components((kind,), ref_template=_REF)
    return _without(_plain(components[kind.__name__], components), "description")


@lru_cache(maxsize=64)
def result_schema(kind: type[Struct], *, described: bool = True) -> JsonObject:
    """Return the plain JSON schema of a struct that is a tool's result: shorter than one of arguments.

    Args:
        described: whether it says what the fields mean, to `DESCRIBED` levels of lists. One tool has to say
            it of a result that several have.
    """
    return _shortened(plain_schema(kind), DESCRIBED if described else 0)


def _shortened(schema: JsonObject, levels: int) -> JsonObject:
    left_out = _OF_ARGUMENTS if levels else (*_OF_ARGUMENTS, "description")
    found = {name: value for name, value in schema.items() if name not in left_out}
    if "properties" in found:
        found["properties"] = {field: _shortened(each, levels) for field, each in found["properties"].items()}
    if "items" in found:
        items = _shortened(found["items"], max(levels - 1, 0))
        found["items"] = _without(items, "description") if "description" in found else items
    return found


def _plain(schema: JsonObject, components: dict[str, JsonObject]) -> JsonObject:
    if "$ref" in schema:
        target = components[schema["$ref"].removeprefix(_START)]
        return _plain({**target, **_without(schema, "$ref")}, components)
    choices = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(choices) == 1:
        return _plain({**choices[0], **_without(schema, "anyOf")}, components)
    if choices and all(set(each) == {"enum"} for each in choices):
        return _plain({"enum": _names(choices), **_without(schema, "anyOf")}, components)
    found: JsonObject = {}
    for name, value in schema.items():
        if name == "properties":
            found[name] = {field: _plain(each, components) for field, each in value.items()}
        elif name == "description":
            found[name] = " ".join(value.split())
        elif name not in _LEFT_OUT and not (name == "default" and value in (None, (), [])):
            found[name] = _inside(value, components)
    return found


def _names(choices: list[JsonObject]) -> list[JsonValue]:
    return sorted(name for each in choices for name in each["enum"])


def _inside(value: JsonValue, components: dict[str, JsonObject]) -> JsonValue:
    if isinstance(value, list):
        return [_inside(each, components) for each in value]
    return _plain(value, components) if isinstance(value, dict) else value


def _without(schema: JsonObject, name: str) -> JsonObject:
    return {each: value for each, value in schema.items() if each != name}
