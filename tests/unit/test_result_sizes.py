"""The sizes of tool results in prompts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.messages import Message, ToolResultPart
from perdure.domain.result_sizes import (
    LEAST_SHARE,
    SLACK,
    TOGETHER,
    cut_result,
    cut_text,
    limits_of,
    share_of,
)
from perdure.domain.tokens import text_tokens


def message(result: object, error: str | None = None) -> Message:
    content = (ToolResultPart("call_1", result, error),)
    return Message("message_1", "tool_result", content, "2026-01-01T00:00:00.000000Z")


@given(st.integers(0, 10_000_000))
def test_a_share_is_a_power_of_two_and_at_most_a_third_of_the_budget(budget: int) -> None:
    share = share_of(budget)
    assert share & (share - 1) == 0
    assert share == LEAST_SHARE or budget / 6 <= share <= budget / 3


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=20), st.sampled_from([256, 4_096, 32_768]))
def test_results_of_one_answer_share_twice_what_one_gets(sizes: list[int], share: int) -> None:
    limits = limits_of(sizes, share)
    assert all(limit <= size for limit, size in zip(limits, sizes, strict=True))
    assert max(limits) <= share
    assert sum(limits) <= max(share * TOGETHER, LEAST_SHARE * len(sizes))
    if max(sizes) <= share and sum(sizes) <= share * TOGETHER:
        assert limits == sizes


@pytest.mark.parametrize("text", ["word " * 20_000, "汉字" * 20_000, "a" * 90_000], ids=["en", "zh", "a"])
def test_a_long_result_loses_its_middle_and_says_how_much(text: str) -> None:
    cut = cut_text(text, 1_000)
    assert text_tokens(cut) <= 1_000 + SLACK
    assert cut.startswith(text[:400])
    assert cut.endswith(text[-400:])
    assert "characters left out ...]" in cut
    assert cut_text(cut, 1_000) == cut


def test_a_second_cut_still_names_the_file_with_the_whole_output() -> None:
    where = "; all of it is in /.outputs/bash-1.txt, for read_file with `offset` and `limit`, or grep_files"
    text = "a " * 9_000 + f"\n[... 5 characters left out{where} ...]\n" + "b " * 9_000
    assert f"characters left out{where} ...]" in cut_text(text, 500)


def test_errors_and_texts_beside_images_are_cut_too() -> None:
    long = "word " * 20_000
    (part,) = cut_result(message(None, long), 500).content
    assert isinstance(part, ToolResultPart)
    assert part.error is not None
    assert len(part.error) < 3_000
    image = {"type": "image", "base64": "iVBORw0KGgo="}
    (part,) = cut_result(message([{"type": "text", "text": long}, image]), 500).content
    assert isinstance(part, ToolResultPart)
    assert len(part.result[0]["text"]) < 3_000
    assert part.result[1] == image
