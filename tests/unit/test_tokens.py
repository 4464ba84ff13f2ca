"""Estimates of tokens, by script."""

from __future__ import annotations

import base64
import random

import pytest

from perdure.domain.tokens import characters_for, text_tokens

ENGLISH = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 50
NUMBERS = " ".join(str(number) for number in range(1_000))
BLOB = base64.b64encode(random.Random(1).randbytes(6_000)).decode()


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        (ENGLISH, len(ENGLISH) * 0.2, len(ENGLISH) * 0.3),
        ("x" * 4_000, 500, 1_000),
        ("汉" * 3_000, 2_700, 3_600),
        ("今日はとても良い天気ですね。" * 100, 1_000, 1_800),
        ("안녕하세요 세계 " * 100, 600, 1_200),
        ("Привет, как твои дела сегодня? " * 100, 900, 1_600),
        ("مرحبا بالعالم " * 100, 450, 900),
        ("สวัสดีชาวโลก" * 100, 900, 1_500),
        ("😀" * 1_000, 1_000, 3_000),
        ("é" * 1_000, 300, 600),
        (NUMBERS, len(NUMBERS) * 0.33, len(NUMBERS) * 0.6),
        (BLOB, len(BLOB) * 0.45, len(BLOB) * 0.8),
        ("half a pair: \udcff", 3, 10),
    ],
)
def test_the_estimate_is_near_what_tokenizers_count(text: str, least: float, most: float) -> None:
    assert least <= text_tokens(text) <= most


def test_as_many_characters_are_kept_as_have_these_tokens() -> None:
    for text in (ENGLISH, "汉" * 3_000, BLOB):
        assert 450 <= text_tokens(text[: characters_for(text, 500)]) <= 520
