"""What servers say when a prompt is too long, and what only looks like it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from perdure.llm.failures import refusal
from perdure.llm.overflow import Overflow, output_limit, overflow

Refusal = tuple[int | None, str, bool, int | None, int | None]


def _refusals() -> Iterator[Refusal]:
    """The refusals in the file: of each the status, the limit and the size that are named, and the words."""
    for paragraph in Path(__file__).with_name("refusals.txt").read_text("utf-8").strip().split("\n\n"):
        head, *lines = paragraph.splitlines()
        status, kind, *numbers = head.split()
        limit, requested = (None if number == "-" else int(number) for number in numbers or ("-", "-"))
        yield (None if status == "-" else int(status), " ".join(lines), kind == "too-long", limit, requested)


REFUSALS = list(_refusals())
TOO_LONG = [each for each in REFUSALS if each[2]]
OTHERS = [each for each in REFUSALS if not each[2]]


@pytest.mark.parametrize("refused", TOO_LONG, ids=count())
def test_a_too_long_prompt_is_recognized_with_the_limit_that_is_named(refused: Refusal) -> None:
    status, message, _, limit, requested = refused
    assert overflow(status, frozenset(), message) == Overflow(limit, requested)


@pytest.mark.parametrize("refused", OTHERS, ids=count())
def test_other_errors_are_not_taken_for_a_too_long_prompt(refused: Refusal) -> None:
    status, message, *_ = refused
    assert overflow(status, frozenset(), message) is None


@pytest.mark.parametrize(
    "code",
    ["context_length_exceeded", "exceed_context_size_error", "request_too_large", "tokens_limit_reached"],
)
def test_a_code_says_enough(code: str) -> None:
    assert overflow(400, frozenset({code}), "no") == Overflow()
    assert overflow(401, frozenset({code}), "no") is None


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        (OTHERS[9][1], 16384),
        (OTHERS[10][1], 64000),
        (OTHERS[11][1], 8192),
        (OTHERS[14][1], 8192),
        (TOO_LONG[0][1], None),
        (OTHERS[0][1], None),
        ("just words", None),
    ],
)
def test_the_longest_answer_that_a_vendor_permits_is_read_from_its_error(
    message: str, limit: int | None
) -> None:
    assert output_limit(message) == limit


def test_a_very_long_message_is_read_in_little_time() -> None:
    for piece in ("prompt ", "exceeds ", "9 > ", "12345 ", "limit: ", "a" * 50, "max_" * 3, "输入", " "):
        overflow(400, frozenset(), piece * 100_000)


def test_a_body_of_any_shape_is_read() -> None:
    shapes = (
        '{"detail":"%s"}', '{"message":"%s"}', '{"error":"%s"}', '{"error":{"message":"%s","code":400}}',
        '[{"error":{"message":"%s"}}]', '{"errors":[{"message":"%s"}]}', "%s", "<html>%s</html>",
        '{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"%s"}}}',
    )  # fmt: skip
    for shape in shapes:
        body = shape.replace("%s", "prompt is too long: 9000 tokens &gt; 8000 maximum").encode()
        assert refusal(400, {}, body, ()).code == "context_length_exceeded", shape
