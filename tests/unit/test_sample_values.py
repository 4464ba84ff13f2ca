"""Values that the simulated model gives for a schema: they fit it, and cost little."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.domain.json_schemas import compile_schema, problems_of
from perdure.llm.driver import OutputFormat, ToolSpec
from perdure.llm.sample_values import sample


def sample_of(schema: Any) -> Any:
    return sample(OutputFormat(schema, ToolSpec("result", "", schema)))


FITTING: list[tuple[Any, Any]] = [
    ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "boolean"}}}, True),
    ({"default": 7, "type": "integer"}, 7),
    ({"const": "x"}, "x"),
    ({"enum": ["b", "a"]}, "b"),
    ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 0),
    ({"oneOf": [{"type": "string"}]}, "text"),
    ({"allOf": [{"type": "boolean"}]}, True),
    ({"type": ["string", "null"]}, "text"),
    ({"type": "null"}, None),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
    ({"type": "array"}, []),
    ({"type": "string", "minLength": 6}, "text.."),
    ({"type": "string", "maxLength": 2}, "te"),
    ({"type": "string", "format": "date"}, "2026-01-01"),
    ({"type": "number", "minimum": 2.5}, 2.5),
    ({"type": "integer", "exclusiveMinimum": 4}, 5),
    ({"type": "integer", "maximum": -3}, -3),
    (
        {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {}}, "required": ["a"]},
        {"a": True},
    ),
    ({"type": "object", "properties": {"a": {"type": "boolean"}}}, {"a": True}),
]


@pytest.mark.parametrize(("schema", "expected"), FITTING)
def test_a_value_fits_its_schema(schema: Any, expected: Any) -> None:
    value = sample_of(schema)
    assert value == expected
    assert problems_of(compile_schema(schema, linear=False), value, "value") == []


@pytest.mark.parametrize(
    "schema", [{"$ref": "https://elsewhere.example/schema"}, {"$ref": "#/$defs/missing"}, {}, True]
)
def test_a_schema_that_is_not_understood_gives_null(schema: Any) -> None:
    assert sample_of({"type": "object", "properties": {"a": schema}}) == {"a": None}


def test_a_schema_that_refers_to_itself_gives_a_small_value() -> None:
    deep = sample_of({"type": "object", "properties": {"next": {"$ref": "#"}}})
    depth = 0
    while deep is not None:
        deep, depth = deep["next"], depth + 1
    assert 5 < depth <= 20
    many = {"type": "object", "properties": {name: {"$ref": "#"} for name in "abcdefgh"}}
    values, waiting = 0, [sample_of(many)]
    while waiting:
        each = waiting.pop()
        values += each is not None
        waiting += [] if each is None else each.values()
    assert values <= 1_000
