"""The rules that the local checks of guardrails compile to."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from perdure.domain.errors import InvalidInput
from perdure.domain.guardrail_checks import (
    MAX_WINDOW,
    AnyCheck,
    BlocklistCheck,
    LocalCheck,
    PiiCheck,
    RegexCheck,
    ToolPatternCheck,
    UrlAllowlistCheck,
)
from perdure.domain.guardrail_text import STRETCH, Bytes, Subject, folded_word
from perdure.domain.linear_regex import compile_re2
from perdure.domain.match_length import longest_match
from perdure.domain.pii import PiiRule, kinds_of
from perdure.domain.url_allowlist import UrlRule, url_width

MAX_LIST_PROGRAM = 20_000
"""Size of a compiled block list, in RE2 instructions: one for each letter."""
CALL = 40_000_000
"""Instructions times bytes in one call of RE2: about 0.5 s at its slowest (11 ns each)."""
SHORTEST = 4_096
"""Bytes that one call searches at least."""
MAX_RULES = 128
"""Compiled checks that are kept."""
Found = tuple[int, int, str | None]
"""Where a match begins and ends, in characters, and the reason if the rule has its own."""


class Rule(Protocol):
    """What finds the matches of a check.

    Attributes:
        shows: whether the text that matched is shown.
        size: of the compiled pattern, in RE2 instructions.
        effort: what a search takes for each character at its worst, in steps of RE2 (about 11 ns).
    """

    shows: bool
    size: int
    effort: int

    def find(self, subject: Subject, start: int, expired: Callable[[], bool]) -> Iterator[Found]:
        """Find the matches from a place on, in order. Raises TimeoutError: the time is up."""
        ...


def width_of(check: AnyCheck) -> int | None:
    """The most characters of a match of a check; None if it has no limit or a service makes it."""
    match check:
        case RegexCheck():
            return _limit(check.pattern, check.max_length)
        case BlocklistCheck():
            return STRETCH * max(len(word) for word in _folded_words(check))
        case PiiCheck():
            return max(kind.width for kind in kinds_of(check))
        case UrlAllowlistCheck():
            return url_width(check)
    return None


@lru_cache(maxsize=MAX_RULES)
def compiled_rule(check: bytes) -> Rule:
    """Compile a check that is given as JSON, or return what it was compiled to. Raises InvalidInput."""
    return compile_rule(msgspec.json.decode(check, type=LocalCheck))


def compile_rule(check: LocalCheck) -> Rule:
    """Compile a check. Raises InvalidInput, with the `field` of the check."""
    match check:
        case RegexCheck():
            return RegexRule(check.pattern, ignore_case=check.ignore_case)
        case BlocklistCheck():
            return BlocklistRule(check)
        case ToolPatternCheck():
            return ToolRule(check)
        case PiiCheck():
            return PiiRule(check)
        case UrlAllowlistCheck():
            return UrlRule(check)


def _limit(pattern: str, declared: int | None) -> int | None:
    longest = longest_match(pattern)
    return longest if longest is not None and longest <= MAX_WINDOW else declared


class RegexRule:
    """The matches of a regular expression."""

    shows = True

    def __init__(self, pattern: str, *, ignore_case: bool = False) -> None:
        self._regex = compile_re2(pattern, ignore_case=ignore_case)
        longest = longest_match(pattern)
        if longest == 0 or any(_is_empty(self._regex.search(probe)) for probe in (b"", b"a", b" a1 \n")):
            raise InvalidInput(
                "matches an empty text, so it would match everywhere: use `+` instead of `*`", field="pattern"
            )
        self.size = self.effort = int(self._regex.programsize)
        self._bound = _limit(pattern, None)
        self._piece = max(SHORTEST, 16 * (self._bound or 0), CALL // self.size)

    def find(self, subject: Subject, start: int, expired: Callable[[], bool]) -> Iterator[Found]:
        """Find the matches. A long text is searched in pieces if the pattern has a limit."""
        text = subject.bytes
        for begin, end in self._spans(text, text.byte(start), expired):
            yield text.char(begin), text.char(end), None

    def _spans(self, text: Bytes, at: int, expired: Callable[[], bool]) -> Iterator[tuple[int, int]]:
        data, size = text.data, len(text.data)
        margin = None if self._bound is None else 4 * (self._bound + 2)
        while at <= size:
            if expired():
                raise TimeoutError
            end = size if margin is None else min(at + self._piece, size)
            match = self._regex.search(data, at, end)
            if match is None:
                if end == size or margin is None:
                    return
                at = end - margin
            elif margin is not None and end < size and match.start() > max(at, end - margin):
                at = match.start()  # it may go on after the piece
            else:
                if match.end() > match.start():
                    yield match.start(), match.end()
                at = max(match.end(), match.start() + 1)


def _is_empty(match: Any) -> bool:
    return match is not None and match.end() == match.start()


class BlocklistRule:
    """The words of a list."""

    shows = True
    effort = 400

    def __init__(self, check: BlocklistCheck) -> None:
        self._ignore_case, self._whole = check.ignore_case, check.whole_words
        words = _folded_words(check)
        if "" in words:
            raise InvalidInput("has an entry without a visible character: remove it", field="words")
        self._words = words
        self._lengths = sorted({len(word) for word in words}, reverse=True)
        alternatives = "|".join(map(_quoted, sorted(words, key=len, reverse=True)))
        self._regex = compile_re2(alternatives, limit=MAX_LIST_PROGRAM, field="words")
        self.size = int(self._regex.programsize)

    def find(self, subject: Subject, start: int, expired: Callable[[], bool]) -> Iterator[Found]:
        """Find the words; where several begin, the longest."""
        folded = subject.folded(ignore_case=self._ignore_case)
        view = Subject(folded.text).bytes
        at = view.byte(folded.at(start))
        while not expired():
            match = self._regex.search(view.data, at)
            if match is None:
                return
            begin = view.char(match.start())
            end = self._end(folded.text, begin)
            if end is None:
                at = match.start() + 1
                while at < len(view.data) and view.data[at] & 0xC0 == 0x80:
                    at += 1
                continue
            yield folded.place(begin), folded.end(end), None
            at = view.byte(end)
        raise TimeoutError

    def _end(self, text: str, begin: int) -> int | None:
        """Where the longest word ends that begins here and is a word of its own."""
        if self._whole and begin and _joined(text[begin - 1], text[begin]):
            return None
        for length in self._lengths:
            end = begin + length
            if text[begin:end] in self._words and not (
                self._whole and end < len(text) and _joined(text[end - 1], text[end])
            ):
                return end
        return None


def _folded_words(check: BlocklistCheck) -> frozenset[str]:
    return frozenset(folded_word(word, ignore_case=check.ignore_case) for word in check.words)


def _joined(before: str, after: str) -> bool:
    """Whether two characters are of one word. Scripts without spaces between words have no such limits."""
    return _in_word(before) and (_in_word(after) or unicodedata.category(after)[0] == "M")


def _in_word(ch: str) -> bool:
    if ch.isascii():
        return ch.isalnum() or ch == "_"
    if unicodedata.category(ch)[0] not in "LNM":
        return False
    name = unicodedata.name(ch, "")
    return not name.startswith(_UNSPACED)


_UNSPACED = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "BOPOMOFO",
    "TIBETAN",
    "HANGUL",
)


class ToolRule:
    """The calls or the results of tools."""

    def __init__(self, check: ToolPatternCheck) -> None:
        self._tool = check.tool
        self.shows = check.pattern is not None
        self._rule = (
            None if check.pattern is None else RegexRule(check.pattern, ignore_case=check.ignore_case)
        )
        self.size = self.effort = 0 if self._rule is None else self._rule.size

    def find(self, subject: Subject, start: int, expired: Callable[[], bool]) -> Iterator[Found]:
        """Find the pattern, or, without one, all of the text."""
        if subject.tool_name is None or not fnmatchcase(subject.tool_name, self._tool):
            return
        if self._rule is None:
            yield 0, len(subject.text), None
        else:
            yield from self._rule.find(subject, start, expired)


def _quoted(word: str) -> str:
    return "".join(f"\\{ch}" if ch.isascii() and not ch.isalnum() and ch not in "_ " else ch for ch in word)
