"""Read what is almost JSON, as models write it by hand.

Accepted are single and curly quotes, keys without quotes, Python's literals, comments, commas at the end,
line breaks in texts, and backslashes that escape nothing. Everything must be closed, and nothing is guessed.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

_DEPTH = 50
"""Levels of nesting; deeper values are not read."""

# Possessive, so that no text takes more than linear time.
_BLANK = re.compile(r"(?:[\s\ufeff]++|//[^\n]*+|/\*[^*]*+\*++(?:[^/*][^*]*+\*++)*+/)*+")
_WORD = re.compile(r"[A-Za-z_$][\w$-]*+")
_NUMBER = re.compile(r"-?\d{1,300}+(?:\.\d{1,300}+)?+(?:[eE][+-]?\d{1,3}+)?+(?![\w.])")
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019"}
_TEXTS = {end: re.compile(rf"[^\\{end}]*+(?:\\.[^\\{end}]*+)*+", re.DOTALL) for end in _QUOTES.values()}
_ESCAPE = re.compile(
    r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|U000[0-9a-fA-F]{5}|U0010[0-9a-fA-F]{4}|.)", re.DOTALL
)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_ITSELF = frozenset("\"'/\\")
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}


def read_loosely(text: str) -> Any:
    """Return the value that a text means.

    Raises:
        ValueError: that is not certain, or the text's end is missing.
    """
    reader = _Reader(text)
    value = reader.value(0)
    if reader.peek():
        raise ValueError("something follows the value")
    return value


class _Reader:
    """A position in a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def peek(self) -> str:
        """Return the next character that is not blank; an empty text at the end."""
        blank = _BLANK.match(self._text, self._at)
        self._at = blank.end() if blank else self._at
        return self._text[self._at : self._at + 1]

    def value(self, depth: int) -> Any:
        """Read a value."""
        first = self.peek()
        if depth > _DEPTH:
            raise ValueError("nested too deeply")
        if first in {"{", "["}:
            self._at += 1
            return self._object(depth + 1) if first == "{" else self._list(depth + 1)
        if first in _QUOTES:
            return self._quoted()
        number = _NUMBER.match(self._text, self._at)
        if number is not None:
            self._at = number.end()
            return int(number[0]) if number[0].lstrip("-").isdecimal() else float(number[0])
        return _CONSTANTS[word] if (word := self._word()) in _CONSTANTS else self._fail()

    def _object(self, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        while self.peek() != "}":
            key = self._quoted() if self.peek() in _QUOTES else self._word()
            if self.peek() != ":" or key in out:
                self._fail()
            self._at += 1
            out[key] = self.value(depth)
            self._separator("}")
        self._at += 1
        return out

    def _list(self, depth: int) -> list[Any]:
        out: list[Any] = []
        while self.peek() != "]":
            out.append(self.value(depth))
            self._separator("]")
        self._at += 1
        return out

    def _separator(self, end: str) -> None:
        following = self.peek()
        if following == ",":
            self._at += 1
        elif following != end:
            self._fail()

    def _quoted(self) -> str:
        end = _QUOTES[self._text[self._at]]
        inner = _TEXTS[end].match(self._text, self._at + 1)
        if inner is None or self._text[inner.end() : inner.end() + 1] != end:
            self._fail()
        self._at = inner.end() + 1
        return self._unescaped(inner[0])

    def _unescaped(self, text: str) -> str:
        if "\\" not in text:
            return text
        codes = {code for code in _ESCAPE.findall(text) if code not in _ITSELF}
        plain = {code for code in codes if len(code) == 1 and code not in _ESCAPED}
        if plain and codes - plain:
            self._fail()  # in `C:\\app\\new`, nobody knows whether `\\n` begins a name or is a line break
        return _paired(_ESCAPE.sub(_meant, text))

    def _word(self) -> str:
        word = _WORD.match(self._text, self._at)
        if word is None:
            self._fail()
        self._at = word.end()
        return word[0]

    def _fail(self) -> NoReturn:
        raise ValueError(f"not readable at {self._at}")


def _meant(escape: re.Match[str]) -> str:
    code = escape[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    return code if code in _ITSELF else _ESCAPED.get(code, escape[0])


def _paired(text: str) -> str:
    """Join the halves of surrogate pairs, and replace lone ones."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
