"""The client's parser of server-sent events."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.client.errors import BadAnswer
from perdure.client.sse import Frame, SseParser

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


def parse(*pieces: bytes) -> list[Frame]:
    parser = SseParser()
    return [frame for piece in pieces for frame in parser.feed(piece)]


def test_a_stream_is_read_into_frames_and_comments_are_dropped() -> None:
    assert parse(STREAM) == FRAMES


def test_one_byte_at_a_time_gives_the_same_frames() -> None:
    assert parse(*(STREAM[i : i + 1] for i in range(len(STREAM)))) == FRAMES


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_how_the_network_cuts_the_stream_does_not_matter(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert parse(*(STREAM[a:b] for a, b in pairwise(edges))) == FRAMES


def test_what_has_no_end_yet_is_no_frame() -> None:
    assert parse(b"event: turn.started\ndata: {}\n") == []


def test_a_frame_without_data_is_none_and_leaves_nothing_behind() -> None:
    assert parse(b"event: turn.started\nid: event_1\n\ndata: x\n\n") == [Frame("message", b"x")]


def test_an_id_with_a_nul_and_a_retry_that_is_no_number_are_ignored() -> None:
    assert parse(b"id: a\0b\nretry: soon\ndata: x\n\n") == [Frame("message", b"x")]


@pytest.mark.parametrize("piece", [b"x" * 100, b"data: " + b"x" * 90 + b"\n"], ids=["one line", "many lines"])
def test_a_frame_that_never_ends_is_refused_before_it_fills_the_memory(piece: bytes) -> None:
    parser = SseParser(max_frame=1000)
    for _ in range(8):
        assert list(parser.feed(piece)) == []
    with pytest.raises(BadAnswer, match="over 1000 bytes"):
        list(parser.feed(piece * 10))


def test_many_frames_over_the_limit_together_are_fine() -> None:
    parser = SseParser(max_frame=1000)
    frames = [frame for _ in range(100) for frame in parser.feed(b"data: " + b"x" * 90 + b"\n\n")]
    assert len(frames) == 100
