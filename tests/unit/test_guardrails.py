"""What guardrails find in texts: patterns, words and tools; bounds, windows, and what replaces matches."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.domain.guardrail_checks import GuardrailsConfig, GuardrailStage
from perdure.domain.guardrails import (
    BLOCKED,
    CONTEXT,
    MAX_HITS,
    MAX_MATCHED,
    MAX_REPLACED,
    NOT_CHECKED,
    REPLACED,
    Guardrails,
    Hit,
    arguments_text,
    replaced,
)


def rules(*checks: dict[str, Any]) -> Guardrails:
    return Guardrails(msgspec.convert({"checks": list(checks)}, GuardrailsConfig).checks)


def regex(pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "regex", "pattern": pattern, **more}


def words(*entries: str, **more: Any) -> dict[str, Any]:
    return {"type": "blocklist", "words": list(entries), **more}


def found(
    check: dict[str, Any], text: str, tool: str | None = None, stage: GuardrailStage = "output"
) -> list[str]:
    return [text[hit.start : hit.end] for hit in rules(check).scan(stage, text, tool)]


# --- regular expressions ---


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("ab+", "xabbb abx", ["abbb", "ab"]),
        ("aa", "aaaaa", ["aa", "aa"]),
        ("日本|é.", "xé! 日本", ["é!", "日本"]),
        (r"\bfoo\b", "foo afoo foo_ foo", ["foo", "foo"]),
        ("^a|b$", "ab ab", ["a", "b"]),
        ("(?m)^b", "b\nb", ["b", "b"]),
        (".", "\ud800", ["\ud800"]),
        ("a.c", "a\nc", []),
        ("(?s)a.*c", "xa\n\nc", ["a\n\nc"]),
    ],
)
def test_a_pattern_finds_its_matches(pattern: str, text: str, matches: list[str]) -> None:
    assert found(regex(pattern), text) == matches


def test_case_counts_unless_the_check_says_otherwise() -> None:
    assert found(regex("straße|ÉTÉ"), "STRASSE STRAßE été") == []
    assert found(regex("straße|ÉTÉ", ignore_case=True), "STRASSE STRAßE été") == ["STRAßE", "été"]


def test_catastrophic_patterns_are_harmless() -> None:
    text = "a" * 20_000 + "!"
    began = time.process_time()
    for pattern in (r"(a+)+$", r"(a|aa)+b", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(?:.*a){12}c", r"(a?){40}b{3}"):
        assert found(regex(pattern), text) == [], pattern
    assert time.process_time() - began < 5


def test_a_match_across_the_pieces_of_a_long_text_is_found() -> None:
    # 4,000 instructions: the text is searched in pieces of 10,000 bytes.
    pattern = "x[a-z0-9é]{1,400}y"
    text = ("é" * 350 + " ") * 60
    for at in (0, 4_990, 9_600, 9_999, 10_000, 15_000, len(text)):
        planted = f"{text[:at]}x{'a' * 400}y{text[at:]}"
        assert [hit.start for hit in rules(regex(pattern)).scan("output", planted)] == [at]


@settings(max_examples=60, deadline=None)
@given(st.text("ab é\n", min_size=1, max_size=200), st.data())
def test_a_stream_in_pieces_is_found_as_the_whole_is(text: str, data: st.DataObject) -> None:
    """With the context of one character, a search from any place finds what begins there."""
    check = rules(regex(r"\ba+\b|^b|é{2}"), words("ab", "a b"))
    whole = check.scan("output", text)
    start = data.draw(st.integers(0, len(text)))
    kept = max(start - CONTEXT, 0)
    later = check.scan("output", text[kept:], start=start - kept)
    shifted = {(hit.check_index, hit.start + kept, hit.end + kept) for hit in later}
    before = [hit for hit in whole if hit.start < start < hit.end]
    if not before:  # else another match may begin within the first one
        assert {(hit.check_index, hit.start, hit.end) for hit in whole if hit.start >= start} == shifted


# --- block lists ---


@pytest.mark.parametrize(
    ("entries", "text", "matches"),
    [
        (["foo"], "Foo FOO food xfoo foo_ foo-bar (foo)", ["Foo", "FOO", "foo", "foo"]),
        (["foo bar"], "foo  bar foo\n\tbar foobar foo\u00a0bar", ["foo  bar", "foo\n\tbar", "foo\u00a0bar"]),
        (["foo", "foo bar"], "foo barn foo bar", ["foo", "foo bar"]),
        (["schön"], "SCHO\u0308N schön schon", ["SCHO\u0308N", "schön"]),
        (["cafe"], "café cafe\u0301 cafe", ["cafe"]),
        (["straße"], "STRASSE straße", ["STRASSE", "straße"]),
        (
            ["bad"],
            "b\u200bad b\u00ad\u200bad ba\u200b\u200b\u200bd \uff42\uff41\uff44",
            ["b\u200bad", "b\u00ad\u200bad", "\uff42\uff41\uff44"],
        ),
        (["ﬁle"], "FILE file ﬁle", ["FILE", "file", "ﬁle"]),
        (["黑名单"], "这是黑名单里", ["黑名单"]),
        (["ΌΣΟΣ"], "όσος", ["όσος"]),
        (["c++", ".net", "a.b"], "C++ .NET axb a.b", ["C++", ".NET", "a.b"]),
        (["aa"], "aaaa aa", ["aa"]),
        (["a b a"], "a b a b a", ["a b a"]),
    ],
)
def test_words_are_found_however_they_are_written(entries: list[str], text: str, matches: list[str]) -> None:
    assert found(words(*entries), text) == matches


def test_a_list_can_count_case_and_parts_of_words() -> None:
    assert found(words("Foo", ignore_case=False), "foo Foo") == ["Foo"]
    assert found(words("foo", whole_words=False), "xfoobar") == ["foo"]


def test_the_window_of_a_list_covers_its_longest_writing() -> None:
    check = words("bad word")
    longest = (
        "".join(f"{ch}\u200b\u200b" for ch in "bad") + "  " + "".join(f"{ch}\u200b\u200b" for ch in "word")
    )
    assert found(check, longest) == [longest.rstrip("\u200b")]
    window = rules(check).window("output")
    assert window is not None
    assert len(longest) < window


def test_a_thousand_words_are_searched_at_once() -> None:
    check = rules(words(*(f"word{number}" for number in range(1_000))))
    text = "nothing of it is in here " * 2_000 + "word999"
    check.scan("output", text)
    began = time.process_time()
    assert [hit.matched for hit in check.scan("output", text)] == ["word999"]
    assert time.process_time() - began < 0.5


# --- tools ---


def test_calls_of_a_tool_are_found_by_its_name() -> None:
    check = {"type": "tool_pattern", "stage": "tool_use", "tool": "mcp_git*__push", "action": "ask"}
    (hit,) = rules(check).scan("tool_use", "{}", "mcp_github__push")
    assert hit == Hit(0, "tool_pattern_1", "tool_use", "tool_pattern", "ask", "tool_pattern_match", end=2)
    for tool in ("mcp_github__pull", "MCP_github__push", None):
        assert not rules(check).scan("tool_use", "{}", tool)


def test_calls_of_a_tool_are_found_by_its_arguments() -> None:
    check = {"type": "tool_pattern", "stage": "tool_use", "tool": "bash", "pattern": r"rm -rf /\B"}
    assert found(check, arguments_text({"command": "rm -rf /"}), "bash", "tool_use") == ["rm -rf /"]
    assert found(check, arguments_text({"command": "rm -rf /tmp"}), "bash", "tool_use") == []
    assert arguments_text({"text": "日本 é\n"}) == '{"text":"日本 é\\n"}'


# --- stages, hits and what replaces them ---


def test_checks_apply_at_their_stages_only() -> None:
    checks = rules(regex("a"), regex("a", stage=["tool_use", "tool_output"], id="b"))
    assert [checks.has(stage) for stage in ("output", "tool_use", "tool_output")] == [True, True, True]
    assert [hit.check_id for hit in checks.scan("output", "a")] == ["regex_1"]
    assert [(hit.check_index, hit.check_id) for hit in checks.scan("tool_use", "a")] == [(1, "b")]
    assert not rules(regex("a")).has("tool_use")
    assert not rules()
    assert rules(regex("a"))


def test_a_hit_says_what_its_check_says() -> None:
    (hit,) = rules(regex("b+", id="bs", action="replace", replacement="[b]", reason_code="too_b")).scan(
        "output", "abb"
    )
    assert hit == Hit(0, "bs", "output", "regex", "replace", "too_b", "bb", "[b]", 1, 3)
    texts = [
        rules(regex("b", action=action)).scan("output", "b")[0].replacement
        for action in ("block", "replace", "log")
    ]
    assert texts == [BLOCKED, REPLACED, None]


def test_a_hit_shows_only_the_beginning_of_a_long_match() -> None:
    (hit,) = rules(regex("a+")).scan("output", "a" * 5_000)
    assert (hit.matched, hit.end) == ("a" * MAX_MATCHED, 5_000)


def test_hits_of_a_check_are_limited_and_nothing_is_left_unreplaced() -> None:
    text = "ab" * 3_000
    assert len(rules(regex("a")).scan("output", text)) == MAX_HITS
    hits = rules(regex("a", action="replace", replacement="-")).scan("output", text)
    assert len(hits) == MAX_REPLACED + 1
    assert replaced(text, hits) == "-b" * MAX_REPLACED + "-"


def test_overlapping_matches_are_replaced_as_one() -> None:
    checks = rules(
        regex("abc", action="replace", replacement="[1]"),
        regex("bcde", action="replace", replacement="[2]"),
        regex("c", action="log"),
        regex("gh", action="replace", replacement=""),
    )
    assert replaced("xabcdefgh", checks.scan("output", "xabcdefgh")) == "x[1]f"


def test_what_cannot_be_searched_in_time_counts_as_a_hit() -> None:
    calls = iter([False, True])
    hits = rules(regex("a"), regex("c")).scan("output", "a b", expired=lambda: next(calls, True))
    assert [(hit.reason_code, hit.start, hit.end) for hit in hits] == [
        ("regex_match", 0, 1),
        (NOT_CHECKED, 1, 3),
        (NOT_CHECKED, 0, 3),
    ]
    for check in (words("a"), {"type": "pii"}, {"type": "url_allowlist"}):
        (hit,) = rules(check).scan("output", "1 b", expired=lambda: True)
        assert (hit.reason_code, hit.end) == (NOT_CHECKED, 3)


def test_a_pattern_that_is_not_valid_any_more_counts_as_a_hit() -> None:
    (hit,) = rules(regex("(a")).scan("output", "text")
    assert (hit.reason_code, hit.action, hit.matched) == (NOT_CHECKED, "block", None)


# --- windows ---


@pytest.mark.parametrize(
    ("checks", "window"),
    [
        ([regex("a{3}")], 3 + CONTEXT),
        ([regex("a{3}"), regex("b{1,9}")], 9 + CONTEXT),
        ([regex("a{3}"), regex("b+")], None),
        ([regex("b+", max_length=40)], 40 + CONTEXT),
        ([regex("b{5}", max_length=40)], 5 + CONTEXT),
        ([regex("b+", action="log")], 0),
        ([regex("b+", stage="tool_use")], 0),
        ([{"type": "judge", "policy": "Be kind."}], None),
        ([{"type": "moderation", "url": "https://m.example"}], None),
        ([{"type": "pii", "kinds": ["credit_card"]}], 37 + CONTEXT),
    ],
)
def test_a_stream_is_held_back_by_the_longest_match(checks: list[dict[str, Any]], window: int | None) -> None:
    assert rules(*checks).window("output") == window


def test_checks_by_services_are_told_apart() -> None:
    checks = rules(regex("a"), {"type": "judge", "policy": "Be kind.", "stage": "tool_output", "id": "kind"})
    assert checks.remote("output") == ()
    (remote,) = checks.remote("tool_output")
    assert (remote.index, remote.id, remote.check.timeout, remote.check.on_failure) == (
        1,
        "kind",
        20,
        "block",
    )
    assert remote.hit("tool_output", "text").reason_code == "judge_match"
    assert remote.hit("tool_output", "text", NOT_CHECKED) == Hit(
        1, "kind", "tool_output", "judge", "block", NOT_CHECKED, None, BLOCKED, 0, 4
    )
    assert not checks.scan("tool_output", "a")
