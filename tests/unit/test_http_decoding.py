"""Which bodies and query strings are accepted, which are refused, and with which message."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import MutableMapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from perdure.api.kernel import decoding
from perdure.api.kernel.decoding import (
    MAX_BODY,
    ClientLeft,
    QueryDecoder,
    decode,
    parameters_of,
    read_body,
    read_json,
)
from perdure.api.kernel.intake import Arrival, Intake
from perdure.api.kernel.json_bounds import MAX_DEPTH, check_bounds, without_strings
from perdure.domain.agents import CreateAgent
from perdure.domain.errors import InvalidInput, TooLarge, UnsupportedMedia
from perdure.domain.ids import OrgId
from perdure.domain.sessions import CreateSession
from perdure.domain.tools import SubmitApprovals

ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder()

# Values that both databases can store: no NUL, no surrogates, 64 bits.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


class Body(Struct):
    """A body to decode."""

    title: Annotated[str, Meta(max_length=5)] | None = None
    count: Annotated[int, Meta(ge=1, le=10)] = 1
    free: Any = None


BODY = msgspec.json.Decoder(Body)


def refused(decoder: msgspec.json.Decoder[Any], body: bytes) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        decode(decoder, body)
    return caught.value


@given(JSON)
def test_every_json_value_that_can_be_stored_is_decoded_unchanged(value: Any) -> None:
    assert decode(ANYTHING, json.dumps(value, ensure_ascii=False).encode()) == value
    assert decode(ANYTHING, json.dumps(value, ensure_ascii=True).encode()) == value


@given(JSON)
def test_unknown_fields_are_ignored(value: Any) -> None:
    assert decode(BODY, json.dumps({"unknown": value, "count": 2}).encode()) == Body(count=2)


BAD = {
    "NaN": b"NaN",
    "infinity": b"Infinity",
    "minus infinity": b"-Infinity",
    "beyond a double": b"1e400",
    "beyond a double, negative": b"-1E+400",
    "beyond a double, long": b"9" * 400 + b".5",
    "400 digits": b"9" * 400,
    "5000 digits": b"-" + b"9" * 5000,
    "just beyond 64 bits": b"9223372036854775808",
    "NUL, escaped": b'"a\\u0000b"',
    "NUL after an escaped backslash": b'"a\\\\\\u0000b"',
    "NUL in a key": b'{"\\u0000": 1}',
    "NUL, raw": b'"a\x00b"',
    "a control character": b'"a\x01b"',
    "a line break": b'"a\nb"',
    "a high surrogate alone": b'"\\ud800"',
    "a low surrogate alone": b'"\\udc00"',
    "surrogates the wrong way round": b'"\\udc00\\ud800"',
    "a surrogate in a key": b'{"\\ud800": 1}',
    "bytes that are not UTF-8": b'"\xff\xfe"',
    "an overlong encoding": b'"\xc0\x80"',
    "an encoded surrogate": b'"\xed\xa0\x80"',
    "nesting of 100": b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1),
    "nesting of 100,000": b"[" * 100_000 + b"]" * 100_000,
    "nesting without an end": b'{"a":' * 100_000,
    "single quotes": b"'a'",
    "a comment": b"/* a */ 1",
    "a leading zero": b"01",
    "a plus sign": b"+1",
    "hexadecimal": b"0x10",
    "a trailing comma": b"[1,]",
    "a bad escape": b'"\\x41"',
}


FILE = b'{"file": "' + b"1e400,[{" * 10_000 + b'", '
"""The beginning of a body that is mostly a file's content."""

MANY: dict[str, tuple[bytes, str]] = {
    "numbers": (b"[" + b"0," * 1_100_000 + b"0]", "at most 1000000 values"),
    "empty texts": (b"[" + b'"",' * 1_100_000 + b"0]", "at most 1000000 values"),
    "empty objects": (b"[" + b"{}," * 1_100_000 + b"{}]", "at most 1000000 values"),
    "large exponents": (b"[" + b"1e300," * 2000 + b"0]", "exponent of three digits"),
    "small exponents": (b"[" + b"1.5E-310," * 2000 + b"0]", "exponent of three digits"),
    "exponents in digits": (b"[" + (b"1" + b"0" * 300 + b".5,") * 2000 + b"0]", "exponent of three digits"),
}


@pytest.mark.parametrize(("value", "problem"), MANY.values(), ids=MANY.keys())
def test_a_body_that_takes_long_to_decode_is_refused(value: bytes, problem: str) -> None:
    for before in (b"{", FILE):
        began = time.process_time()
        assert problem in refused(BODY, before + b'"unknown": ' + value + b"}").message
        assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "value", [b"1e300", b'"' + b"1e300," * 1_100_000 + b'"', b"[1e-310, 9000000000000000000]"]
)
def test_a_text_that_looks_like_many_values_is_one(value: bytes) -> None:
    for before in (b"{", FILE):
        assert decode(BODY, before + b'"unknown": ' + value + b', "count": 2}') == Body(count=2)


@pytest.mark.parametrize("field", ["free", "unknown"])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_values_that_cannot_be_stored_and_invalid_json_are_refused_in_known_and_unknown_fields(
    bad: bytes, field: str
) -> None:
    for before in (b"{", FILE):
        error = refused(BODY, before + b'"' + field.encode() + b'": ' + bad + b"}")
        assert error.code in ("invalid_json", "nesting_too_deep", "number_out_of_range")
        assert len(error.message) < 400


@pytest.mark.parametrize(
    "body", [b"", b" ", b"{", b'{"a":', b"{}{}", b"\xef\xbb\xbf{}", '{"title":"x"}'.encode("utf-16")]
)
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    assert refused(BODY, body).code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null", b"1", b"true"])
def test_a_body_that_is_not_an_object_is_refused(body: bytes) -> None:
    assert refused(BODY, body).code == "invalid_request"


def test_nesting_up_to_the_limit_is_accepted_and_brackets_in_strings_do_not_count() -> None:
    deep = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
    assert decode(ANYTHING, deep) is not None
    brackets = '[{"\\' * 500
    assert decode(ANYTHING, json.dumps([brackets, brackets]).encode()) == [brackets, brackets]
    assert decode(ANYTHING, json.dumps([[]] * 500).encode()) == [[]] * 500


@given(st.lists(st.text('[{"\\ax'), min_size=60), st.integers(0, 2 * MAX_DEPTH))
def test_only_brackets_outside_strings_count_for_the_depth(strings: list[str], depth: int) -> None:
    value: Any = strings
    for _ in range(depth):
        value = [value, *strings[:2]]
    body = json.dumps(value).encode()
    if depth + 1 < MAX_DEPTH:
        assert decode(ANYTHING, body) == value
    else:
        assert refused(ANYTHING, body).code == "nesting_too_deep"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"' + b"[{" * 60 + b'\\"' * 500_000,
        b'{"a":"' + b"[{" * 60 + b"x" * 1_000_000,
        b'{"a":' + b'"' * 1_000_001,
        b'{"a":"' + b"\\" * 1_000_000 + b'\\u0000"}',
        b"[" * 1_000_000,
        b'{"a":' + b"1" * 1_000_000,
        b'{"a":[' + b"[]," * 300_000,
    ],
    ids=[
        "escaped quotes",
        "an unterminated string",
        "quotes",
        "backslashes",
        "brackets",
        "digits",
        "empty lists",
    ],
)
def test_a_body_crafted_to_be_slow_is_refused_in_one_pass(body: bytes) -> None:
    refused(BODY, body)


def test_an_escaped_backslash_before_u0000_is_just_text() -> None:
    assert decode(ANYTHING, b'"\\\\u0000"') == "\\u0000"


def test_the_last_of_two_equal_keys_counts() -> None:
    assert decode(BODY, b'{"count": 2, "count": 3}').count == 3


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (b'{"title": 5}', "title", "`title`: expected `str | null`, got `int`"),
        (b'{"title": "too long"}', "title", "`title`: expected `str` of length <= 5"),
        (b'{"count": 11}', "count", "`count`: expected `int` <= 10"),
        (b"[]", None, "expected `object`, got `array`"),
        (b'{"free": 1e999}', "free", "`free`: number out of range"),
    ],
)
def test_an_error_names_the_field_and_what_it_accepts(body: bytes, field: str | None, message: str) -> None:
    error = refused(BODY, body)
    assert (error.field, error.message) == (field, message)


class Wire:
    """An ASGI `receive` that returns a body in parts."""

    def __init__(self, *parts: bytes, cut: bool = False) -> None:
        self._parts = list(parts)
        self._cut = cut

    async def __call__(self) -> MutableMapping[str, Any]:
        if not self._parts:
            if self._cut:
                return {"type": "http.disconnect"}
            await asyncio.Event().wait()
        part = self._parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self._parts) or self._cut}


def arriving() -> Arrival:
    return Intake().open(OrgId("org_1"))


async def test_a_body_is_assembled_from_its_parts() -> None:
    assert await read_body({}, Wire(b"one ", b"", b"two"), arriving()) == b"one two"
    assert await read_body({}, Wire(b"all"), arriving()) == b"all"


async def test_a_body_that_has_arrived_is_bounded_like_any_other() -> None:
    assert await read_body({}, Wire(b"all"), None) == b"all"
    with pytest.raises(TooLarge):
        await read_body({}, Wire(b"x" * (MAX_BODY + 1)), None)
    with pytest.raises(ClientLeft):
        await read_body({}, Wire(cut=True), None)


async def test_a_body_over_the_limit_is_refused_by_its_length_or_as_soon_as_it_passes_it() -> None:
    for declared in (str(MAX_BODY + 1), "9" * 19, "9" * 5000):
        with pytest.raises(TooLarge):
            await read_body({b"content-length": declared.encode()}, Wire(), arriving())
    with pytest.raises(TooLarge):
        await read_body({}, Wire(b"x" * MAX_BODY, b"x", b"never read"), arriving())
    assert len(await read_body({}, Wire(b"x" * MAX_BODY), arriving())) == MAX_BODY


@pytest.mark.parametrize("declared", [b"-1", b"1.5", b"ten", b""])
async def test_a_length_that_is_not_a_number_is_refused(declared: bytes) -> None:
    with pytest.raises(InvalidInput):
        await read_body({b"content-length": declared}, Wire(b"{}"), arriving())


@pytest.mark.parametrize("wire", [Wire(cut=True), Wire(b'{"title":"x"}', cut=True)])
async def test_a_body_is_dropped_if_the_client_disconnects(wire: Wire) -> None:
    with pytest.raises(ClientLeft):
        await read_body({}, wire, arriving())


@pytest.mark.parametrize("parts", [(), (b"{", b"")])
async def test_reading_a_body_that_never_completes_times_out(
    parts: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "BODY_TIMEOUT", 0.01)
    wire = Wire(*parts)

    async def endless() -> MutableMapping[str, Any]:
        return {**await wire(), "more_body": True}

    with pytest.raises(InvalidInput) as caught:
        await read_body({}, endless, arriving())
    assert caught.value.code == "body_timeout"


@pytest.mark.parametrize(
    "media",
    [
        b"application/json",
        b"APPLICATION/JSON; Charset=UTF-8",
        b"application/json;charset=utf8",
        b'application/json; charset="utf-8"',
        b"application/merge-patch+json",
        b"application/json; profile=x",
    ],
)
async def test_json_may_have_any_of_several_content_types(media: bytes) -> None:
    assert await read_json({b"content-type": media}, Wire(b"{}"), arriving()) == b"{}"


@pytest.mark.parametrize(
    "media",
    [
        None,
        b"",
        b"json",
        b"text/plain",
        b"text/json",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"application/json; charset=utf-16",
        b"application/json; charset=latin-1",
    ],
)
async def test_other_content_types_are_refused(media: bytes | None) -> None:
    with pytest.raises(UnsupportedMedia):
        await read_json({} if media is None else {b"content-type": media}, Wire(b"{}"), arriving())


async def test_an_empty_body_counts_as_missing() -> None:
    with pytest.raises(InvalidInput) as caught:
        await read_json({b"content-type": b"application/json"}, Wire(b""), arriving())
    assert caught.value.code == "missing_body"


class Query(Struct):
    """A query to decode."""

    text: Annotated[str, Meta(max_length=10)] | None = None
    kind: Literal["a", "b"] | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    place: Annotated[int, Meta(ge=0)] | None = None
    flag: bool | None = None
    tags: Annotated[tuple[Annotated[str, Meta(max_length=5)], ...], Meta(max_length=2)] = ()


QUERY = QueryDecoder(Query)
BUILT_IN_TOOL = {"type": "builtin", "name": "a", "description": "", "parameters": {}}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", Query()),
        (b"text=&unknown=%00&unknown=2", Query(text="")),
        (b"text=null&limit=1", Query(text="null", limit=1)),
        (b"text=%F0%9F%98%80+%2B&place=007", Query(text="😀 +", place=7)),
        (b"flag=true&kind=b", Query(flag=True, kind="b")),
        (b"flag=0&tags=x&tags=y", Query(flag=False, tags=("x", "y"))),
        (b"&&=&text=1", Query(text="1")),
    ],
)
def test_a_query_string_is_decoded_into_its_struct(raw: bytes, expected: Query) -> None:
    assert QUERY.decode(parameters_of(raw)) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"limit=0",
        b"limit=101",
        b"limit=-1",
        b"limit=1e1",
        b"limit=1.0",
        b"limit=1_0",
        b"limit=%201",
        b"limit=",
        b"limit=null",
        b"limit=%D9%A3",
        b"limit=99999999999999999999",
        b"limit=" + b"9" * 5000,
        b"place=-1",
        b"flag=yes",
        b"flag=",
        b"flag=null",
        b"kind=c",
        b"kind=null",
        b"kind=",
        b"text=" + b"x" * 11,
        b"text=%00",
        b"text=%ff",
        b"text=%ed%a0%80",
        b"text=\xc3\xa9",
        b"text=1&text=2",
        b"limit=1&limit=1",
        b"tags=a&tags=b&tags=c",
        b"tags=toolong",
        b"x=" + b"y" * 20_000,
        b"&".join(b"a=1" for _ in range(600)),
    ],
)
def test_a_query_string_that_does_not_fit_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        QUERY.decode(parameters_of(raw))
    assert len(caught.value.message) < 400


def test_the_error_for_a_text_that_does_not_match_a_pattern_has_an_example() -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(msgspec.json.Decoder(CreateAgent), b'{"name": "No Name", "system_prompt": ""}')
    assert caught.value.message.endswith("(-[a-z0-9]+)*$', such as 'support-desk'")


def test_the_error_for_a_wrong_choice_in_a_query_lists_the_choices() -> None:
    with pytest.raises(InvalidInput) as caught:
        QUERY.decode(parameters_of(b"kind=c"))
    assert (caught.value.message, caught.value.field) == ("`kind` must be one of a, b", "kind")


@pytest.mark.parametrize(
    ("kind", "body", "field", "choices"),
    [
        (
            SubmitApprovals,
            {"decisions": [{"tool_call_id": "a", "decision": "maybe"}]},
            "decisions[0].decision",
            "allow, allow_always, reject, reject_always",
        ),
        (CreateSession, {"tools": [{"type": "else"}]}, "tools[0].type", "builtin, client_side"),
        (
            CreateSession,
            {"tools": [BUILT_IN_TOOL | {"policy": "ask"}]},
            "tools[0].policy",
            "auto, requires_approval",
        ),
    ],
)
def test_the_error_for_a_wrong_choice_in_a_body_lists_the_choices(
    kind: Any, body: Any, field: str, choices: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(msgspec.json.Decoder(kind), json.dumps(body).encode())
    assert (caught.value.message, caught.value.field) == (f"`{field}` must be one of {choices}", field)


@given(TEXT.filter(lambda text: len(text) <= 10))
def test_text_in_a_query_is_decoded_unchanged(text: str) -> None:
    assert QUERY.decode(parameters_of(urlencode({"text": text}).encode())) == Query(text=text)


LARGE_TEXT = json.dumps("A line with [ { and 1e999, \\ and 99999999999999999999.\n" * 20_000)
"""A file's content, with the escapes that each line needs."""


def test_a_large_text_with_escapes_is_not_searched_for_numbers_and_brackets() -> None:
    body = f'{{"content": {LARGE_TEXT}, "a": [1]}}'.encode()
    assert without_strings(body) == b"{: , : [1]}"
    assert check_bounds(body) is False


@pytest.mark.parametrize("rest", ["[" * MAX_DEPTH + "]" * MAX_DEPTH, "99999999999999999999"])
def test_what_follows_a_large_text_with_escapes_keeps_its_bounds(rest: str) -> None:
    with pytest.raises(InvalidInput):
        check_bounds(f'{{"content": {LARGE_TEXT}, "a": [{rest}]}}'.encode())
