"""Terms of sessions and sets of positions, as stored in the index of sessions."""

from __future__ import annotations

import random

import pytest

from perdure.store.search import (
    MOST_RUNS,
    SEGMENT,
    Unsorted,
    pack,
    searched_terms,
    sort_terms,
    terms_of,
    unpack,
)


def session(title: str | None, tags: str = "[]", agent_id: str | None = None) -> Unsorted:
    return Unsorted("session_x", 0, title, tags, agent_id)


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, SEGMENT])
def test_a_set_of_positions_survives_encoding_and_takes_at_most_one_bit_per_position(
    count: int,
) -> None:
    positions = sorted(random.Random(count).sample(range(SEGMENT), count))
    packed = pack(positions)
    assert len(packed) <= SEGMENT // 8
    assert [position for position in range(SEGMENT) if unpack(packed) >> position & 1] == positions


def test_the_terms_of_any_part_of_a_title_are_terms_of_the_session() -> None:
    title = "\U0001f469\u200d日本 north sea"
    terms = terms_of(session(title, '["a","b"]', "agent_1"))
    for begin in range(len(title)):
        for end in range(begin + 1, len(title) + 1):
            assert terms.issuperset(searched_terms(title[begin:end], ("b",), "agent_1"))


def test_terms_of_tags_and_of_titles_are_distinct() -> None:
    assert not terms_of(session("red")).intersection(searched_terms(None, ("red",), None))
    assert not terms_of(session(None, '["red"]')).intersection(searched_terms("red", (), None))


def test_a_long_text_is_looked_up_by_a_few_terms_spread_over_it() -> None:
    text = "".join(chr(0x4E00 + number) for number in range(500))
    terms = searched_terms(text, (), None)
    assert MOST_RUNS // 2 < len(terms) <= MOST_RUNS
    assert text.index(terms[-1]) > 400


def test_a_segment_has_a_row_for_each_term_in_order() -> None:
    rows = sort_terms([session("ab"), session("b"), session(None)])
    assert [(term, [p for p in range(3) if unpack(members) >> p & 1]) for term, members in rows] == [
        ("a", [0]),
        ("ab", [0]),
        ("b", [0, 1]),
    ]


def test_a_session_with_damaged_tags_keeps_no_other_out_of_the_index() -> None:
    for tags in ("{", "7", '["a"'):
        assert terms_of(session("red", tags)) == terms_of(session("red"))
