"""Server-sent events, from bytes to payloads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import ModelError
from perdure.domain.sse import SseParser

LINE = st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b""))


def payloads(parser: SseParser, *chunks: bytes) -> list[bytes]:
    return [payload for chunk in chunks for payload in parser.feed(chunk)]


def test_many_events_in_one_chunk_come_in_order() -> None:
    assert payloads(SseParser(), b"data: a\n\nevent: x\ndata:b\n\n: note\n\nid: 7\ndata: c\n\n") == [
        b" a",
        b"b",
        b" c",
    ]


def test_an_event_waits_for_its_blank_line() -> None:
    parser = SseParser()
    assert payloads(parser, b"data: a\n") == []
    assert payloads(parser, b"\n") == [b" a"]


def test_data_over_several_lines_is_one_payload() -> None:
    assert payloads(SseParser(), b'data: {"a":\ndata:  1}\n\n') == [b' {"a":\n 1}']


def test_what_is_no_data_is_skipped() -> None:
    assert payloads(SseParser(), b"database: 1\nretry: 5\nevent: data:\n\n\n\n") == []


def test_a_stream_that_ends_without_a_line_end_gives_its_last_event() -> None:
    parser = SseParser()
    assert payloads(parser, b"data: a\n\ndata: b") == [b" a"]
    assert parser.flush() == [b" b"]
    assert parser.flush() == []


def test_a_line_over_its_bound_is_refused() -> None:
    parser = SseParser(max_line=100)
    assert payloads(parser, b"x" * 60) == []
    with pytest.raises(ModelError, match="line"):
        parser.feed(b"x" * 60)


def test_a_stream_over_its_bound_is_refused() -> None:
    parser = SseParser(max_total=100)
    parser.feed(b"data: a\n\n" * 10)
    with pytest.raises(ModelError, match="answer"):
        parser.feed(b"data: a\n\n" * 10)


@given(
    lines=st.lists(LINE, max_size=8), ends=st.sampled_from([b"\n", b"\r\n"]), cuts=st.lists(st.integers(1, 9))
)
def test_the_way_in_which_a_stream_is_cut_makes_no_difference(
    lines: list[bytes], ends: bytes, cuts: list[int]
) -> None:
    stream = b"".join(b"data:" + line + ends + ends for line in lines)
    whole = SseParser().feed(stream)
    assert [payload.removesuffix(b"\r") for payload in whole] == lines
    parser, pieces, at = SseParser(), [], 0
    for size in [*cuts, len(stream) + 1]:
        pieces += parser.feed(stream[at : at + size])
        at += size
    assert pieces == whole
