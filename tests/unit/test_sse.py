"""The parser of server-sent events, which the client and the model drivers share."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.client.errors import BadAnswer
from perdure.client.follow import frames_of
from perdure.domain.sse import Frame, SseParser, StreamTooLong

STREAM = (
    b"\xef\xbb\xbf: hello\n\n"
    b"event: connected\ndata: {}\n\n"
    b"id: event_1\nevent: turn.started\ndata: {\ndata: }\nretry: 250\n\n"
    b": heartbeat\n\n"
    b"data:no space\r\n\r\n"
    b"data\n\n"
    b"id: event_2\rdata: old line ends\r\r"
    b"unknown: field\ndata: last\n\n"
)
FRAMES = [
    Frame("connected", b"{}"),
    Frame("turn.started", b"{\n}", "event_1", 250),
    Frame("message", b"no space"),
    Frame("message", b""),
    Frame("message", b"old line ends", "event_2"),
    Frame("message", b"last"),
]
LINE = st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b""))


def parse(*pieces: bytes, parser: SseParser | None = None) -> list[Frame]:
    parser = parser or SseParser()
    return [frame for piece in pieces for frame in parser.feed(piece)]


def payloads(*pieces: bytes, parser: SseParser | None = None) -> list[bytes]:
    return [frame.data for frame in parse(*pieces, parser=parser)]


def test_a_stream_is_parsed_into_frames_and_comments_are_dropped() -> None:
    assert parse(STREAM) == FRAMES


def test_one_byte_at_a_time_gives_the_same_frames() -> None:
    assert parse(*(STREAM[i : i + 1] for i in range(len(STREAM)))) == FRAMES


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_the_frames_do_not_depend_on_how_the_network_splits_the_stream(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert parse(*(STREAM[a:b] for a, b in pairwise(edges))) == FRAMES


@given(
    lines=st.lists(LINE, max_size=8),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    cuts=st.lists(st.integers(1, 9)),
)
def test_any_payload_arrives_with_every_line_end_and_every_split(
    lines: list[bytes], end: bytes, cuts: list[int]
) -> None:
    stream = b"".join(b"data: " + line + end + end for line in lines)
    assert payloads(stream) == lines
    parser, pieces, at = SseParser(), [], 0
    for size in [*cuts, len(stream) + 1]:
        pieces += payloads(stream[at : at + size], parser=parser)
        at += size
    assert pieces == lines


def test_many_events_in_one_piece_keep_their_order() -> None:
    assert payloads(b"data: a\n\nevent: x\ndata:b\n\n: note\n\nid: 7\ndata: c\n\n") == [b"a", b"b", b"c"]


def test_an_event_waits_for_its_blank_line() -> None:
    parser = SseParser()
    assert payloads(b"data: a\n", parser=parser) == []
    assert payloads(b"\n", parser=parser) == [b"a"]


def test_a_carriage_return_ends_a_line_and_a_line_feed_after_it_does_not_end_another() -> None:
    parser = SseParser()
    assert payloads(b"data: a\r\n\r", parser=parser) == [b"a"]
    assert payloads(b"\ndata: b\r", b"\n", parser=parser) == []
    assert payloads(b"\r", parser=parser) == [b"b"]


def test_data_over_several_lines_is_one_payload() -> None:
    assert payloads(b'data: {"a":\ndata:  1}\n\n') == [b'{"a":\n 1}']


def test_lines_other_than_data_are_skipped() -> None:
    assert payloads(b"database: 1\nretry: 5\nevent: data:\n\n\n\n") == []


def test_an_unfinished_event_is_not_a_frame() -> None:
    assert parse(b"event: turn.started\ndata: {}\n") == []


def test_flush_returns_the_last_event_of_a_stream_without_a_final_line_end() -> None:
    parser = SseParser()
    assert payloads(b"data: a\n\ndata: b", parser=parser) == [b"a"]
    assert parser.flush() == [Frame("message", b"b")]
    assert parser.flush() == []


def test_a_frame_without_data_is_dropped_with_its_fields() -> None:
    assert parse(b"event: turn.started\nid: event_1\n\ndata: x\n\n") == [Frame("message", b"x")]


def test_an_id_with_nul_and_a_retry_that_is_not_a_number_are_ignored() -> None:
    assert parse(b"id: a\0b\nretry: soon\ndata: x\n\n") == [Frame("message", b"x")]


ENDLESS = pytest.mark.parametrize(
    "piece",
    [b"x" * 100, b"data: " + b"x" * 90 + b"\n", b"data:" + b"x" * 90 + b"\r"],
    ids=["one line", "many lines", "many old lines"],
)


@ENDLESS
def test_an_endless_event_is_refused_before_it_fills_the_memory(piece: bytes) -> None:
    parser = SseParser(max_event=1000)
    for _ in range(8):
        assert parser.feed(piece) == []
    with pytest.raises(StreamTooLong, match="event is longer than 1000 bytes"):
        parser.feed(piece * 10)


@ENDLESS
def test_the_client_reports_an_endless_event_as_a_bad_answer(piece: bytes) -> None:
    with pytest.raises(BadAnswer, match="longer than 1000 bytes"):
        frames_of(SseParser(max_event=1000), piece * 20)


def test_many_events_over_the_limit_together_are_fine() -> None:
    parser = SseParser(max_event=1000)
    frames = [frame for _ in range(100) for frame in parser.feed(b"data: " + b"x" * 90 + b"\n\n")]
    assert len(frames) == 100


def test_a_stream_over_its_limit_is_refused() -> None:
    parser = SseParser(max_stream=100)
    parser.feed(b"data: a\n\n" * 10)
    with pytest.raises(StreamTooLong, match="stream is longer than 100 bytes"):
        parser.feed(b"data: a\n\n" * 10)
