"""Repairing tool calls that are almost right."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.repair import fit_arguments, repair_arguments, repair_name

OBJECTS = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=5
    ),
)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('{"a": 1,}', {"a": 1}),
        ('{"a": [1, 2,],}', {"a": [1, 2]}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('Here you are: {"a": 1} as asked', {"a": 1}),
        ("{'a': 'b', 'c': True}", {"a": "b", "c": True}),
        ('"{\\"a\\": 1}"', {"a": 1}),
        ("", {}),
        ('{"a": "two\nlines", "b": true}', {"a": "two\nlines", "b": True}),
        ("{'a': 'b', 'c': true, 'd': null,}", {"a": "b", "c": True, "d": None}),
        ("{a: 1, b_c: [2, -3.5e2],}", {"a": 1, "b_c": [2, -350.0]}),
        ('{"a": 1, // one\n "b": /* two */ 2}', {"a": 1, "b": 2}),
        ('{"path": "C:\\Users"}', {"path": "C:\\Users"}),
        ('{"code": "f(a,]", "b": true,}', {"code": "f(a,]", "b": True}),
        ("{\u201ca\u201d: \u201cit's\u201d}", {"a": "it's"}),
        ('{"a": "\\ud83d\\ude00 \\ud83d",}', {"a": "\U0001f600 \ufffd"}),
        ('{"url": "http://x/*y*/", b: 1}', {"url": "http://x/*y*/", "b": 1}),
    ],
)
def test_arguments_that_are_almost_json_are_read_as_they_were_meant(text: str, meant: dict[str, Any]) -> None:
    assert repair_arguments(text) == meant


@pytest.mark.parametrize(
    "text",
    ["no object here", "[1, 2]", "{1: 2}", "{" * 5000, "__import__('os')", '{"a": "say "hi" now"}',
     '{"path": "C:\\app\\new"}', '{"a": hello}', '{"a" 1}', '{"a": 1 "b": 2}', '{a: 1, a: 2}',
     '{"a": 1.2.3}', "{a: /* 1}"],
)  # fmt: skip
def test_ambiguous_arguments_are_not_repaired(text: str) -> None:
    assert repair_arguments(text) is None


@pytest.mark.parametrize(
    "text",
    ['{"a": {"b": [1, 2', '{"a": "unfinished', '{"a": 1', '{"a": 1,', '{"a": {"b": 1}', "{'a': 'b'",
     '[{"a": 1}, {"b', '```json\n{"a": 1', '"{\\"a\\": 1', '{"a": 1} {"b": 2',
     '{"path": "/a", "content": "x\\', "{a: 'two\nlin", "{a: 1 // }", "{a: [1, 2}", '{"a": tru'],
)  # fmt: skip
def test_arguments_whose_end_is_missing_are_not_repaired(text: str) -> None:
    assert repair_arguments(text) is None


@given(OBJECTS, st.integers(1, 200))
def test_no_beginning_of_an_object_is_taken_for_the_object(value: dict[str, Any], at: int) -> None:
    text = json.dumps(value)
    assert at >= len(text) or repair_arguments(text[:-at]) in (None, {})


@given(OBJECTS)
def test_python_literals_of_an_object_are_read_back(value: dict[str, Any]) -> None:
    assert repair_arguments(repr(value)) == value


@given(st.text())
def test_repair_never_raises(text: str) -> None:
    result = repair_arguments(text)
    assert result is None or isinstance(result, dict)


SCHEMA = {
    "properties": {
        "count": {"type": "integer"}, "share": {"type": "number"}, "deep": {"type": "boolean"},
        "text": {"type": "string"},
        "paths": {"type": "array", "items": {"type": "string"}}, "any": {"type": ["string", "null"]},
        "map": {"type": "object"},
    },
    "required": ["text"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"count": "5", "share": "0.5", "deep": "true"}, {"count": 5, "share": 0.5, "deep": True}),
        ({"count": None, "text": None, "any": None, "else": None}, {"text": None, "any": None, "else": None}),
        ({"paths": "/a"}, {"paths": ["/a"]}),
        ({"paths": '["/a", "/b"]', "map": '{"a": 1}'}, {"paths": ["/a", "/b"], "map": {"a": 1}}),
    ],
)
def test_values_of_a_wrong_type_are_converted(given: dict[str, Any], meant: dict[str, Any]) -> None:
    assert fit_arguments(given, SCHEMA) == meant


@pytest.mark.parametrize(
    "value",
    [{"count": "five"}, {"count": "1.5"}, {"count": 1.5}, {"deep": "yes"}, {"text": "5"}, {"text": 5},
     {"any": "5"}, {"paths": "[x"},
     {"map": "[1]"}, {"map": "[" * 90_000}, {"count": "1e999"}],
)  # fmt: skip
def test_ambiguous_values_are_not_changed(value: dict[str, Any]) -> None:
    assert fit_arguments(value, SCHEMA) == value
    for schema in (
        {},
        {"properties": 1},
        {"properties": {"count": True}},
        {"properties": {}, "required": True},
    ):
        assert fit_arguments(value, schema) == value


def test_a_misspelled_name_is_repaired_only_if_one_tool_matches() -> None:
    known = {"read_file", "write_file", "list_directory"}
    assert repair_name("readFile", known) == "read_file"
    assert repair_name("functions.write-file", known) == "write_file"
    assert repair_name("read_file", known) is None
    assert repair_name("remove_file", known) is None
    assert repair_name("a_b", {"ab", "a-b"}) is None
