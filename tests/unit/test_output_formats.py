"""The forms of schemas that are no objects: wrapped in one, they mean the same."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.domain.json_schemas import compile_schema, problems_of
from perdure.engine.output_formats import OutputFormats
from tests.talk import Json

ADDRESS = "https://example.com/schema"
INTEGER: Json = {"type": "integer"}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"$id": ADDRESS, "type": "array", "items": {"$ref": f"{ADDRESS}#/$defs/a"}, "$defs": {"a": INTEGER}},
         [1], ["a"]),
        ({"$id": ADDRESS, "type": "array", "items": {"$ref": ADDRESS}}, [[]], [1]),
        ({"type": "array", "items": {"$ref": "#"}}, [[]], [1]),
        ({"type": "array", "items": {"$ref": "#a"}, "$defs": {"a": {"$anchor": "a", **INTEGER}}}, [1], ["a"]),
        ({"anyOf": [INTEGER, {"type": "array", "items": {"$ref": "#/anyOf/0"}}]}, [1], [[1]]),
        ({"type": ["object", "null"], "properties": {"$ref": INTEGER}}, {"$ref": 1}, {"$ref": "#"}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [INTEGER]},
         [1, "a"], ["a"]),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": True},
         4, 3),
        ({"enum": [None, "a"]}, None, "b"),
    ],
    ids=["$id", "$id itself", "recursive", "anchor", "pointer", "named $ref", "draft 7", "draft 4", "enum"],
)  # fmt: skip
def test_a_wrapped_schema_means_the_same(schema: Json, right: Any, wrong: Any) -> None:
    form = OutputFormats().typed(schema, ()).form.schema
    validator = compile_schema(form, linear=False)
    assert problems_of(validator, {"value": right}, "output") == []
    assert problems_of(validator, {"value": wrong}, "output") != []
