"""Instants: microseconds inside, RFC 3339 on the wire."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.times import from_rfc3339, maybe_rfc3339, to_rfc3339

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST = (datetime(1, 1, 2, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
LAST = (datetime(9999, 12, 30, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
instants = st.integers(FIRST, LAST)


@given(instants)
def test_an_instant_survives_formatting_and_parsing(micros: int) -> None:
    text = to_rfc3339(micros)
    assert from_rfc3339(text) == micros
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)


@given(instants, instants)
def test_texts_sort_like_their_instants(one: int, other: int) -> None:
    assert (to_rfc3339(one) < to_rfc3339(other)) == (one < other)


@given(instants, st.integers(-23 * 60 - 59, 23 * 60 + 59))
def test_an_instant_is_the_same_in_every_offset(micros: int, minutes: int) -> None:
    moment = EPOCH + timedelta(microseconds=micros)
    assert from_rfc3339(moment.astimezone(timezone(timedelta(minutes=minutes))).isoformat()) == micros


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-14T09:26:53.589793Z", "2026-03-14T09:26:53.589793Z"),
        ("2026-03-14t09:26:53z", "2026-03-14T09:26:53.000000Z"),
        ("2026-03-14 09:26:53+01:00", "2026-03-14T08:26:53.000000Z"),
        ("2026-03-14T09:26:53.5-00:30", "2026-03-14T09:56:53.500000Z"),
        ("2026-03-14T09:26:53.123456789Z", "2026-03-14T09:26:53.123456Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000000Z"),
    ],
)
def test_the_forms_of_rfc_3339_are_accepted(text: str, expected: str) -> None:
    assert to_rfc3339(from_rfc3339(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-03-14",
        "2026-03-14T09:26:53",
        "2026-02-30T00:00:00Z",
        "2026-03-14T25:00:00Z",
        "2026-03-14T09:26:53+24:00",
        "20260314T092653Z",
        "2026-W11-6T09:26:53Z",
        "2026-03-14T09:26:53.Z",
        "2026-03-14T09:26:53Z\n",
        "\u0662026-03-14T09:26:53Z",
        "202\u0666-03-14T09:26:53Z",
        "2026-03-14T09:26:5\uff13Z",
        "0000-01-01T00:00:00Z",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        from_rfc3339(text)


@given(
    st.text(max_size=40)
    | st.from_regex(r"\A\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)\Z")
)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        micros = from_rfc3339(text)
    except ValueError:
        return
    assert isinstance(micros, int)


def test_a_missing_instant_has_no_text() -> None:
    assert maybe_rfc3339(None) is None
    assert maybe_rfc3339(0) == "1970-01-01T00:00:00.000000Z"
