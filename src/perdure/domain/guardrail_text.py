"""The text that guardrails search: as bytes for RE2, and folded so that looks do not matter."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from perdure.domain.messages import JsonValue

_INVISIBLE = frozenset(
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200c\u200d\u2060\u2061\u2062\u2063\u2064\ufeff"
)
"""Characters that can stand in a word without being seen."""
_RUN_SEEN = 2
"""Invisible characters in a row that are skipped; and so many times a space that repeats."""
STRETCH = 4
"""The most characters of a text that one folded character stands for."""
_SPACES = str.maketrans("\t\n\v\f\r", "     ")


class Bytes:
    """A text in UTF-8, and the places of its characters."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.ascii = text.isascii()
        self.data = text.encode("utf-8", "replace")
        self._byte = self._char = 0

    def byte(self, char: int) -> int:
        """The place of a character in the bytes."""
        return char if self.ascii else len(self.text[:char].encode("utf-8", "replace"))

    def char(self, byte: int) -> int:
        """The place of a byte in the characters. It is fast if the places are asked for in order."""
        if self.ascii:
            return byte
        if byte < self._byte:
            self._byte = self._char = 0
        self._char += len(self.data[self._byte : byte].decode("utf-8", "replace"))
        self._byte = byte
        return self._char


class Folded:
    """A text without differences that are hard to see.

    These are width, ligatures, the encoding of accents, invisible characters, runs of spaces, and, if wanted,
    case.

    Attributes:
        text: the folded text.
    """

    def __init__(self, text: str, *, ignore_case: bool) -> None:
        self._places: list[int] | None = None
        self._length = len(text)
        if text.isascii():
            text = text.translate(_SPACES)
            if "  " not in text:
                self.text = text.lower() if ignore_case else text
                return
        self.text, self._places = _fold(text, ignore_case)

    def place(self, at: int) -> int:
        """The place in the original text of a character of the folded text, or of its end."""
        if self._places is None:
            return at
        return self._places[at] if at < len(self._places) else self._length

    def end(self, at: int) -> int:
        """The place in the original text where what ends here in the folded text ends."""
        return self.place(at - 1) + 1

    def at(self, place: int) -> int:
        """The first place in the folded text that is not before this one in the original text."""
        if self._places is None:
            return place
        return bisect_left(self._places, place)


def folded_word(word: str, *, ignore_case: bool) -> str:
    """A word as it is in a folded text; empty if nothing of it can be seen."""
    text, _ = _fold(word, ignore_case)
    return text.strip()


def _fold(text: str, ignore_case: bool) -> tuple[str, list[int]]:
    parts: list[str] = []
    places: list[int] = []
    hidden = spaces = 0
    for place, ch in enumerate(text):
        if ch in _INVISIBLE and hidden < _RUN_SEEN:
            hidden += 1
            continue
        folded = _folded(ch, ignore_case)
        if folded == " " and parts and parts[-1] == " " and spaces <= _RUN_SEEN:
            spaces += 1
            continue
        hidden = spaces = 0
        parts.append(folded)
        places += [place] * len(folded)
    return "".join(parts), places


@lru_cache(maxsize=4096)
def _folded(ch: str, ignore_case: bool) -> str:
    if ch.isspace():
        return " "
    plain = unicodedata.normalize("NFKD", ch)
    return unicodedata.normalize("NFKD", plain.casefold()) if ignore_case else plain


def _plain(text: str) -> str:
    return text if text.isascii() else "".join(map(_plain_one, text))


@lru_cache(maxsize=4096)
def _plain_one(ch: str) -> str:
    if ch.isascii():
        return ch
    if ch in _INVISIBLE:
        return "\0"
    if ch.isspace():
        return " "
    if unicodedata.category(ch) == "Pd" or ch == "\u2212":
        return "-"
    digit = unicodedata.decimal(ch, None)
    if digit is not None:
        return str(digit)
    simple = unicodedata.normalize("NFKC", ch)
    return simple if len(simple) == 1 else ch


class Subject:
    """A text that is scanned, in the forms that rules ask for. Each form is made once."""

    def __init__(self, text: str, tool_name: str | None = None) -> None:
        self.text = text
        self.tool_name = tool_name
        self._bytes: Bytes | None = None
        self._folded: dict[bool, Folded] = {}
        self._plain: Bytes | None = None

    @property
    def bytes(self) -> Bytes:
        """The text in UTF-8."""
        if self._bytes is None:
            self._bytes = Bytes(self.text)
        return self._bytes

    @property
    def plain(self) -> Bytes:
        """The text with plain digits, hyphens, spaces and letters, each in its place.

        Invisible characters are U+0000.
        """
        if self._plain is None:
            self._plain = Bytes(_plain(self.text))
        return self._plain

    def folded(self, *, ignore_case: bool) -> Folded:
        """The folded text."""
        if ignore_case not in self._folded:
            self._folded[ignore_case] = Folded(self.text, ignore_case=ignore_case)
        return self._folded[ignore_case]


def texts_in(value: JsonValue) -> Iterator[str]:
    """Yield the texts in a value in order, its keys included. Works without recursion, at any depth."""
    waiting: list[Any] = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            yield from each
            waiting += reversed(each.values())
        elif isinstance(each, list | tuple):
            waiting += reversed(each)
