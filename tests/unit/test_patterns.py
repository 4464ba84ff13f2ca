"""Untrusted patterns: they match correctly, unsupported ones are refused, and none takes long."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import InvalidInput
from perdure.domain.patterns import EXCERPT, LONGEST, SHORTEST, compile_glob, compile_regex, matching_lines


def lines(
    pattern: str, content: str | bytes, limit: int = 1000, *, ignore_case: bool = False
) -> list[tuple[int, str]]:
    data = content.encode() if isinstance(content, str) else content
    compiled = compile_regex(pattern, ignore_case=ignore_case)
    return [(found.number, found.text) for found in matching_lines(compiled, data, limit, lambda: False)]


@pytest.mark.parametrize(
    ("pattern", "content", "found"),
    [
        ("foo", "a\nfoo\nxfoox\n", [(2, "foo"), (3, "xfoox")]),
        ("^foo$", "foo bar\nfoo\nbar foo", [(2, "foo")]),
        ("^$", "a\n\nb\n", [(2, "")]),
        ("x*", "a\nb\n", [(1, "a"), (2, "b")]),
        ("a\\sb", "a\nb\n", []),
        ("[^a]", "aaa\nab\n", [(2, "ab")]),
        ("é.", "é\néx\n", [(2, "éx")]),
        ("(?i)ÉTÉ", "été\n", [(1, "été")]),
        ("last", "first\nlast", [(2, "last")]),
        ("", None, None),
        ("end$", "the end\nof the end\r\n", [(1, "the end")]),
        ("\u2028", "a\u2028b\n", [(1, "a\u2028b")]),
        ("x|", "", []),
    ],
)
def test_lines_are_found(pattern: str, content: str | None, found: list[tuple[int, str]] | None) -> None:
    if content is None:
        with pytest.raises(InvalidInput):
            compile_regex(pattern)
    else:
        assert lines(pattern, content) == found


def test_case_may_be_ignored() -> None:
    assert lines("foo", "FOO\n") == []
    assert lines("foo", "FOO\n", ignore_case=True) == [(1, "FOO")]


def test_no_more_lines_are_found_than_the_limit() -> None:
    assert lines("x", "x\n" * 50, limit=3) == [(1, "x"), (2, "x"), (3, "x")]


@given(
    st.text(alphabet="ab\n", max_size=200).map(lambda text: text * 3),
    st.sampled_from(["a", "ab", "^a", "b$", "^$", "^b*$", "a.b", "[^b]", "(a|b)+b"]),
)
def test_lines_are_those_that_another_engine_finds_one_by_one(content: str, pattern: str) -> None:
    known = content.split("\n")
    if known[-1] == "":
        known.pop()
    assert lines(pattern, content) == [
        (number, line) for number, line in enumerate(known, 1) if re.search(pattern, line)
    ]


def test_pieces_end_between_lines_so_that_nothing_is_missed() -> None:
    content = "".join(
        f"{number:>7} {'needle' if number % 997 == 0 else 'straw'}\n" for number in range(60_000)
    )
    assert len(content) > 2 * LONGEST
    assert [number - 1 for number, _ in lines("needle$", content)] == list(range(0, 60_000, 997))


def test_a_long_line_is_shown_around_the_match() -> None:
    ((number, text),) = lines("needle", "x" * 300_000 + "needle" + "y" * 300_000 + "\n")
    assert number == 1
    assert "needle" in text
    assert len(text) <= EXCERPT + 6
    assert text.startswith("...")
    assert text.endswith("...")


def test_a_long_line_is_cut_between_characters() -> None:
    assert lines("é", "é" * 200_000) == [(1, "é" * (EXCERPT // 2) + "...")]


def test_bytes_that_are_not_text_do_no_harm() -> None:
    assert lines("a", b"\xff\xfea\n\x80" * 1000, limit=1) == [(1, "\ufffd\ufffda")]


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "a{1001}",
        "(?=x)",
        "(?<!x)y",
        "(a)\\1",
        "\ud800",
        "x" * 1001,
        "(x{100}){100}",
        "\\pL{1,500}",
        "[",
        "a**",
    ],
)
def test_an_unsupported_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        compile_regex(pattern)
    assert (refused.value.code, refused.value.field) == ("invalid_pattern", "pattern")
    assert "(?m)" not in refused.value.message


BOMBS = [
    "(a+)+$",
    "(a|a)*b",
    "(a*)*b",
    "(.*a){20}b",
    "(x?){200}y",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
    "(.*)(.*)(.*)(.*)(.*)=b",
]


@pytest.mark.parametrize("pattern", BOMBS)
def test_a_pattern_bomb_does_not_hang(pattern: str) -> None:
    content = b"a" * 50_000 + b"!\n"
    assert lines(pattern, content * 4) == []


def test_a_large_pattern_searches_small_pieces_so_that_it_can_be_stopped() -> None:
    small, large = compile_regex("a"), compile_regex("(x?){1000}(x?){1000}(x?){1000}y")
    assert small.piece == LONGEST
    assert SHORTEST <= large.piece < 8_000
    looks = itertools.count()
    with pytest.raises(TimeoutError):
        list(matching_lines(large, b"x" * 5_000_000, 10, lambda: next(looks) >= 2))


def test_a_search_stops_when_its_time_is_up() -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        list(
            matching_lines(
                compile_regex("(x?){1000}y"), b"x" * 50_000_000, 10, lambda: time.monotonic() - begun > 0.2
            )
        )
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("*.py", ["/a.py", "/x/y/b.py", "/.py"], ["/a.pyc", "/py"]),
        ("a/*.py", ["/a/b.py"], ["/a/c/b.py", "/x/a/b.py"]),
        ("**/*.py", ["/b.py", "/x/y/b.py"], ["/b.txt"]),
        ("/src/**", ["/src/a", "/src/a/b"], ["/srcs/a"]),
        ("/*.md", ["/a.md"], ["/x/a.md"]),
        ("*.{md,txt}", ["/a.md", "/x/b.txt"], ["/a.rst"]),
        ("[!a]*", ["/b", "/x/cd"], ["/abc"]),
        ("[a-c]?", ["/ax", "/c1"], ["/d1", "/a"]),
        ("?.md", ["/é.md"], ["/ab.md"]),
        ("src/**/t?st.[jt]s", ["/src/a/b/test.ts", "/src/tast.js"], ["/src/test.cs", "/test.ts"]),
        ("a[", ["/a["], ["/a"]),
        ("[]]", ["/]"], ["/a"]),
        ("a+b.(c)", ["/a+b.(c)"], ["/aab.c"]),
        ("**", ["/a", "/a/b"], []),
    ],
)
def test_globs_match_paths(glob: str, yes: list[str], no: list[str]) -> None:
    fits = compile_glob(glob)
    assert [path for path in yes if not fits(path)] == []
    assert [path for path in no if fits(path)] == []


@pytest.mark.parametrize("glob", ["", "x" * 1001, "{a", "\ud800", "[z-a]", "é" * 999 + "?"])
def test_a_malformed_glob_is_refused(glob: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        compile_glob(glob)
    assert refused.value.code == "invalid_pattern"


def test_a_glob_of_many_stars_does_not_hang() -> None:
    fits = compile_glob("*a" * 60 + "b")
    assert not any(fits("/" + "a" * 250) for _ in range(200))
