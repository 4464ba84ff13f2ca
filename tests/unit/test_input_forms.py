"""The forms that servers ask people to fill in, and what is entered into them."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.domain.errors import InvalidInput, ToolError
from perdure.domain.input_requests import MAX_FIELDS, MAX_FORM, check_content, check_form, check_visited


def form(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": []}


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {"type": "array"},
        {"type": "object", "properties": []},
        form(deep={"type": "object"}),
        form(odd=7),
        form(many={"type": "array", "items": {"type": "string"}}),
        form(**{f"f{number}": {"type": "string"} for number in range(MAX_FIELDS + 1)}),
        form(long={"type": "string", "title": "x" * MAX_FORM}),
    ],
)
def test_a_form_that_is_not_flat_and_short_is_refused(schema: Any) -> None:
    with pytest.raises(ToolError):
        check_form(schema)


FIELDS = form(
    name={"type": "string", "minLength": 2, "maxLength": 5},
    mail={"type": "string", "format": "email"},
    size={"type": "string", "enum": ["S", "M"]},
    paint={"type": "string", "oneOf": [{"const": "red", "title": "Red"}]},
    colours={"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 1, "maxItems": 2},
    age={"type": "integer", "minimum": 1, "maximum": 150},
    weight={"type": "number"},
    sure={"type": "boolean"},
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", 7), ("name", "x"), ("name", "x" * 6), ("mail", "nobody"), ("size", "L"), ("paint", "blue"),
        ("colours", "red"), ("colours", ["green"]), ("colours", []), ("colours", ["red"] * 3), ("age", 1.5),
        ("age", 0), ("age", True), ("weight", "1"), ("weight", float("inf")), ("sure", "yes"), ("more", 1),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_field_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_content(check_form(FIELDS), {name: value})
    assert refused.value.field == f"content.{name}"


def test_what_fits_is_returned_and_what_is_required_must_be_there() -> None:
    entered = {"name": "Ada", "mail": "a@b.c", "colours": ["red"], "age": 36, "weight": 1.5, "sure": False}
    assert check_content(FIELDS, entered) == entered
    with pytest.raises(InvalidInput, match="it is required"):
        check_content({**FIELDS, "required": ["name"]}, None)
    with pytest.raises(InvalidInput, match="bytes"):
        check_content(FIELDS, {"name": "x" * MAX_FORM})


@pytest.mark.parametrize(
    "url", [None, "", "ftp://x.org", "https://u:p@x.org", "https://[x", "https://x.org/ä", "https:///no-host"]
)
def test_only_pages_of_the_web_are_visited(url: str | None) -> None:
    with pytest.raises(ToolError):
        check_visited(url)
    assert check_visited("https://example.com/a?b=c") == "https://example.com/a?b=c"
