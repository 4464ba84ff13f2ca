"""How long a match can be: exact where the pattern is plain, and never too short."""

from __future__ import annotations

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.domain.match_length import longest_match


@pytest.mark.parametrize(
    ("pattern", "longest"),
    [
        ("abc", 3),
        ("é日", 2),
        ("a|bcd|", 3),
        ("(?:ab|c){2,5}d", 11),
        ("a{3}b{0,2}c?", 6),
        ("a{,3}", 5),  # RE2 takes it as it is written
        ("a{2", 3),
        ("[a-z]{2}[^]x]{3}[[:alpha:]\\]]", 6),
        (r"\d{4}-\x{1F600}\x41\pL\p{Greek}\.", 10),
        (r"^\bword\b$\A\z", 4),
        (r"\Qa.b*\E{2}", 5),
        (r"\Qa*", 2),
        ("(?i)ab(?s:.)(?P<name>x)(?<n>y)(?-i:z)", 6),
        ("(?U)a{2,4}?", 4),
        ("(a(b(c|de))){2}", 8),
        ("(?:^|$)*", 0),
        ("a*", None),
        ("a+?b", None),
        ("(ab?){2,}", None),
        ("(?:a{9}){9}(?:b|c+)", None),
        (r"\Qab\E*", None),
        ("", 0),
    ],
)
def test_the_longest_match_is_known(pattern: str, longest: int | None) -> None:
    re2.compile(pattern)  # it is one
    assert longest_match(pattern) == longest


def test_a_deeply_nested_pattern_is_read_without_recursion() -> None:
    assert longest_match("(" * 900 + "ab" + ")" * 900) == 2


PIECES = st.sampled_from(
    [
        *(
            "a",
            "b",
            ".",
            "[ab]",
            "[^a]",
            r"\w",
            r"\x41",
            r"\pL",
            "^",
            "$",
            r"\b",
            "|",
            "(",
            "(?:",
            "(?i)",
            ")",
        ),
        *("?", "*", "+", "{2}", "{1,3}", "{2,}", "{,2}", r"\Qab\E", r"\{", "[]a]", "[[:alpha:]]", "é"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=9), st.text("abA1é|(){},2 ", max_size=14))
def test_no_match_is_longer_than_that(pieces: list[str], text: str) -> None:
    pattern = "".join(pieces)
    options = re2.Options()
    options.log_errors, options.longest_match = False, True
    try:
        regex = re2.compile(pattern, options)
    except re2.error:
        return
    longest = longest_match(pattern)
    for match in regex.finditer(text):
        assert longest is None or len(match[0]) <= longest, (pattern, text)
