"""Which schemas a tool may have, what they cost, and how older ones are adapted for vendors."""

from __future__ import annotations

import time
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import InvalidInput
from perdure.domain.schema_cost import MAX_AUTOMATON, cost_of, pattern_states
from perdure.domain.tool_schemas import SchemaBudget, check_schema
from perdure.llm.schemas import acceptable
from perdure.tools.built_in import catalogue
from tests.adversarial.costly_schemas import COSTLY

Json = dict[str, Any]


def of(**properties: Any) -> Json:
    return {"type": "object", "properties": properties}


_KEYWORDS = (
    "type", "properties", "items", "additionalProperties", "required", "enum", "const", "default", "examples",
    "title", "description", "format", "pattern", "minimum", "exclusiveMaximum", "multipleOf", "minLength",
    "maxItems", "uniqueItems", "deprecated", "anyOf", "patternProperties", "x-note",
)  # fmt: skip
_VALUES = (
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["string", "object", "[", "a", 1.5])
    | st.lists(st.sampled_from(["string", "null", "a", 1, {}]), max_size=3)
)  # fmt: skip
_WILD = st.recursive(
    st.dictionaries(st.sampled_from(_KEYWORDS), _VALUES, max_size=4),
    lambda inner: st.dictionaries(
        st.sampled_from(_KEYWORDS),
        _VALUES | inner | st.dictionaries(st.sampled_from("ab"), inner),
        max_size=4,
    ),
    max_leaves=6,
)
"""Schemas with values that may not be valid at their places."""


def inside(value: Any) -> Json:
    """A schema with this one somewhere inside."""
    return of(a={"type": "array", "items": value})


INVALID: list[tuple[str, Json, str]] = [
    ("unknown type", of(a={"type": "strng"}), ".properties.a.type"),
    ("capital type", of(a={"type": "String"}), ".properties.a.type"),
    ("type null", of(a={"type": None}), ".properties.a.type"),
    ("type of Python", inside({"type": "dict"}), ".properties.a.items.type"),
    ("no types", of(a={"type": []}), ".properties.a.type"),
    ("a type in a list", of(a={"type": ["string", "any"]}), ".properties.a.type"),
    ("type twice", of(a={"type": ["string", "string"]}), ".properties.a.type"),
    ("properties null", {"type": "object", "properties": None}, ".properties"),
    ("properties list", {"type": "object", "properties": ["a"]}, ".properties"),
    ("property text", of(a="string"), ".properties.a"),
    ("property null", of(a=None), ".properties.a"),
    ("property number", inside(5), ".properties.a.items"),
    ("odd name", of(**{"a b": 1}), ".properties['a b']"),
    ("pattern [", of(a={"type": "string", "pattern": "["}), ".properties.a.pattern"),
    ("pattern (", inside({"pattern": "(a"}), ".properties.a.items.pattern"),
    ("pattern *", of(a={"pattern": "*"}), ".properties.a.pattern"),
    ("pattern number", of(a={"pattern": 5}), ".properties.a.pattern"),
    ("pattern of names", {"type": "object", "patternProperties": {"[": {}}}, ".patternProperties"),
    ("required text", {**of(a={}), "required": "a"}, ".required"),
    ("required true", of(a={"type": "string", "required": True}), ".properties.a.required"),
    ("required numbers", {**of(a={}), "required": [1]}, ".required"),
    ("required twice", {**of(a={}), "required": ["a", "a"]}, ".required"),
    ("required null", {**of(a={}), "required": None}, ".required"),
    ("enum text", of(a={"enum": "x"}), ".properties.a.enum"),
    ("enum empty", of(a={"enum": []}), ".properties.a.enum"),
    ("enum object", of(a={"enum": {"x": 1}}), ".properties.a.enum"),
    ("minimum text", of(a={"minimum": "0"}), ".properties.a.minimum"),
    ("length below zero", of(a={"minLength": -1}), ".properties.a.minLength"),
    ("length fraction", of(a={"maxLength": 1.5}), ".properties.a.maxLength"),
    ("multiple of zero", of(a={"multipleOf": 0}), ".properties.a.multipleOf"),
    ("unique text", of(a={"uniqueItems": "yes"}), ".properties.a.uniqueItems"),
    ("items text", of(a={"items": "string"}), ".properties.a.items"),
    ("anyOf object", of(a={"anyOf": {"type": "string"}}), ".properties.a.anyOf"),
    ("anyOf empty", of(a={"anyOf": []}), ".properties.a.anyOf"),
    ("anyOf of texts", of(a={"anyOf": ["string"]}), ".properties.a.anyOf[0]"),
    ("description null", of(a={"description": None}), ".properties.a.description"),
    ("title number", of(a={"title": 5}), ".properties.a.title"),
    ("definitions list", {**of(), "$defs": []}, ".$defs"),
    ("unused definition", {**of(), "$defs": {"a": {"type": "strng"}}}, ".$defs.a.type"),
    ("lost reference", of(a={"$ref": "#/$defs/b"}), ".properties.a.$ref"),
    ("reference to a text", {**of(a={"$ref": "#/title"}), "title": "t"}, ".properties.a.$ref"),
    ("reference elsewhere", of(a={"$ref": "https://other.test/s"}), ".properties.a.$ref"),
    ("reference null", of(a={"$ref": None}), ".properties.a.$ref"),
    ("array at the top", {"type": "array", "items": {}}, ""),
    ("two types at the top", {"type": ["object", "null"]}, ""),
    ("a list of one type at the top", {"type": ["object"]}, ""),
    ("type null at the top", {"type": None}, ""),
    ("anyOf at the top", {"type": "object", "anyOf": [of(a={}), of(b={})]}, ".anyOf"),
    ("only anyOf", {"anyOf": [of(a={}), of(b={})]}, ".anyOf"),
    ("oneOf at the top", {**of(a={}), "oneOf": [{"required": ["a"]}]}, ".oneOf"),
    ("allOf at the top", {**of(a={}), "allOf": [{"required": ["a"]}]}, ".allOf"),
    ("enum at the top", {"type": "object", "enum": [{}]}, ".enum"),
    ("const at the top", {"type": "object", "const": {}}, ".const"),
    ("not at the top", {"type": "object", "not": {}}, ".not"),
    ("a choice behind a reference", {"$ref": "#/$defs/a", "$defs": {"a": {"oneOf": [of()]}}}, ".oneOf"),
    ("a text behind a reference", {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}, ""),
    ("only itself", {"$ref": "#"}, ".$ref"),
]

VALID: list[tuple[str, Json]] = [
    ("nothing", {}),
    ("an object", {"type": "object"}),
    ("properties without a type", {"properties": {"a": {"type": "string"}}}),
    ("no properties", of()),
    ("booleans", of(a=True, b={"items": False}, c={"additionalProperties": False})),
    ("several types", of(a={"type": ["string", "null"]})),
    ("definitions", {**of(a={"$ref": "#/$defs/A"}), "$defs": {"A": of(b={"type": "string"})}}),
    ("old definitions", {**of(a={"$ref": "#/definitions/A"}), "definitions": {"A": {"enum": [1, None]}}}),
    ("a reference at the top", {"$ref": "#/definitions/A", "definitions": {"A": of(a={})}}),
    ("a tree", {**of(a={"$ref": "#/$defs/T"}), "$defs": {"T": of(kids={"items": {"$ref": "#/$defs/T"}})}}),
    ("itself", of(again={"$ref": "#"})),
    ("an anchor", {**of(a={"$ref": "#here"}), "$defs": {"A": {"$anchor": "here", "type": "null"}}}),
    ("choices inside", of(a={"anyOf": [{"type": "string"}, {"type": "null"}], "default": None})),
    ("draft 7", {"$schema": "http://json-schema.org/draft-07/schema#", **of(a={"items": [{}, {}]})}),
    (
        "draft 4",
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            **of(a={"exclusiveMinimum": True, "minimum": 0}),
        },
    ),
    ("another schema of schemas", {"$schema": "https://example.test/mine", **of(a={})}),
    ("an id", {"$id": "https://example.test/tool", **of(a={"$ref": "#/properties/b"}, b={})}),
    ("names of keywords", of(properties={}, required={}, **{"$ref": {"type": "string"}, "type": {}})),
    ("values that look like schemas", of(a={"enum": [{"$ref": "x"}], "default": {"type": "strng"}})),
    ("patterns", of(a={"pattern": r"^[0-9a-f]{8}-[0-9a-f]{4}$"}, b={"pattern": r"^(?!\.)[\w.]+$"})),
    ("other words", of(a={"type": "string", "nullable": True, "x-order": 1, "example": {}})),
    ("lengths as floats", of(a={"minLength": 5.0})),
    ("if", of(a={"if": {"type": "string"}, "then": {"minLength": 1}, "else": True})),
]


@pytest.mark.parametrize(("schema", "path"), [row[1:] for row in INVALID], ids=[row[0] for row in INVALID])
def test_a_schema_that_no_vendor_accepts_is_refused_with_its_path(schema: Json, path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_schema(schema, "tools[3].parameters", SchemaBudget())
    assert caught.value.code == "invalid_tool_schema"
    assert caught.value.message.startswith(f"`tools[3].parameters{path}"), caught.value.message


@pytest.mark.parametrize("schema", [row[1] for row in VALID], ids=[row[0] for row in VALID])
def test_a_valid_schema_is_accepted_and_vendors_get_it_as_an_object(schema: Json) -> None:
    check_schema(schema, "parameters", SchemaBudget())
    check_top(acceptable(schema))


def check_top(sent: Json) -> None:
    """What the strictest vendors want of a tool's whole schema."""
    assert sent["type"] == "object"
    assert isinstance(sent["properties"], dict)
    assert not {"anyOf", "oneOf", "allOf", "not", "enum", "const", "$ref"} & sent.keys()
    jsonschema_rs.meta.validate(sent)


@pytest.mark.parametrize("schema", [row[1] for row in INVALID], ids=[row[0] for row in INVALID])
def test_an_old_schema_that_is_refused_today_is_sent_in_a_form_that_vendors_accept(schema: Json) -> None:
    check_top(acceptable(schema))


@given(_WILD)
def test_whatever_a_schema_holds_it_is_valid_as_it_is_sent(schema: Json) -> None:
    assert jsonschema_rs.meta.is_valid(acceptable(schema))


@pytest.mark.parametrize("name", COSTLY)
def test_adapting_and_refusing_a_costly_schema_takes_no_time(name: str) -> None:
    costly, began = COSTLY[name], time.process_time()
    check_top(acceptable(costly.schema))
    if costly.refused:
        with pytest.raises(InvalidInput):
            check_schema(costly.schema, "parameters", SchemaBudget())
    else:
        check_schema(costly.schema, "parameters", SchemaBudget())
    assert time.process_time() - began < 1


def test_a_choice_of_objects_is_sent_as_one_object_with_all_properties() -> None:
    choice = {"anyOf": [{**of(a={"type": "string"}), "required": ["a"]}, of(b={"type": "integer"})]}
    assert acceptable(choice) == of(a={"type": "string"}, b={"type": "integer"})
    both = {**of(a={}), "required": ["a"], "allOf": [{**of(b={}), "required": ["b"]}]}
    assert acceptable(both) == {**of(a={}, b={}), "required": ["a", "b"]}


def test_the_tools_of_the_server_are_valid_cheap_and_sent_as_they_are() -> None:
    tools = [tool for capability in catalogue() for tool in capability.tools(None)]
    assert tools
    for tool in tools:
        check_schema(tool.parameters, tool.name, SchemaBudget())
        assert acceptable(tool.parameters) is tool.parameters
        assert cost_of(tool.parameters).steps < 500


NUMBERS = {"items": {"multipleOf": 0.01}}


@pytest.mark.parametrize(
    ("schema", "value", "small"),
    [
        ({"maxLength": 1}, "a" * 1_000_000, True),
        ({"allOf": [{"maxLength": 1}] * 3000}, "a" * 1000, True),
        # Each problem copies the value that it is about.
        ({"allOf": [{"maxLength": 1}] * 3000}, "a" * 10_000, False),
        ({"anyOf": [{"type": "integer"}] * 3000}, ["a" * 10_000], False),
        ({"allOf": [{"required": ["b"]}] * 3000}, {"a" * 10_000: 1}, False),
        (NUMBERS, [19.99] * 200, True),
        (NUMBERS, [1.7e308] * 2000, False),
        ({"allOf": [{"multipleOf": 7}] * 300}, 10**4000, False),
        ({"items": {"maximum": 1}}, [10**4000] * 100, False),
    ],
)
def test_a_value_is_checked_at_once_only_if_that_takes_little_time_and_memory(
    schema: Json, value: object, small: bool
) -> None:
    assert cost_of(of(x=schema)).is_small({"x": value}) is small


def test_the_schemas_of_one_request_have_a_common_limit() -> None:
    wide = of(**{f"p{number}": {"type": "string"} for number in range(4000)})
    budget = SchemaBudget()
    check_schema(wide, "one", budget)
    check_schema(wide, "two", budget)
    with pytest.raises(InvalidInput, match="too many subschemas"):
        check_schema(wide, "three", budget)


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        ("abc", 3, 8),
        ("[a-z]+", 1, 20),
        ("(a{9}){9}", 81, 200),
        ("(((a{9}){9}){9}){9}", 6561, 20_000),
        ("a{1000}{1000}", MAX_AUTOMATON + 1, MAX_AUTOMATON + 1),
        ("^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{12}$", 24, 400),
        ("{", 0, 10), ("(((", 0, 10), ("[", 0, 20), ("\\", 0, 10), (")", 0, 10), ("", 0, 2),
    ],
)  # fmt: skip
def test_the_size_of_a_pattern_is_estimated_from_its_repetitions(pattern: str, least: int, most: int) -> None:
    assert least <= pattern_states(pattern) <= most
