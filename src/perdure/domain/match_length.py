"""How many characters a match of a regular expression in RE2's syntax can have at most."""

from __future__ import annotations

import re

_COUNT = re.compile(r"\{(\d+)(,(\d*))?\}")
_GROUP = re.compile(r"\(\?(?:P?<\w+>|[imsU]*(?:-[imsU]+)?([:)]))")
_ESCAPE = re.compile(r"\\(?:[pP]\{[^}]*\}|[pP].|x\{[^}]*\}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ZERO_WIDTH = frozenset(["\\b", "\\B", "\\A", "\\z"])

_MANY = 1 << 40
"""More than any text has: the width of what repeats without a limit."""


def longest_match(pattern: str) -> int | None:
    """The most characters of a match; None if there is no limit.

    The pattern must be one that RE2 accepts. What the function does not know counts as more, never as less.
    """
    width = _Reader(pattern).read()
    return width if width < _MANY else None


class _Level:
    """A group that is being read: its widest alternative, and the current one, whose last part may repeat."""

    def __init__(self) -> None:
        self.widest = self.sum = self.last = 0

    def add(self, width: int) -> None:
        self.sum += self.last
        self.last = width

    def close(self) -> int:
        self.widest = max(self.widest, self.sum + self.last)
        self.sum = self.last = 0
        return self.widest


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._levels = [_Level()]

    def read(self) -> int:
        """Read all of it; the groups are kept on a list, because they may be nested deeply."""
        while self._at < len(self._pattern):
            self._step(self._pattern[self._at])
        while len(self._levels) > 1:  # not valid, so RE2 refuses it
            self._close()
        return min(self._levels[0].close(), _MANY)

    def _step(self, ch: str) -> None:
        level = self._levels[-1]
        if ch == "(":
            self._open()
        elif ch == ")":
            self._close()
            self._at += 1
        elif ch == "|":
            level.close()
            self._at += 1
        elif ch in "*+":
            level.last = _MANY if level.last else 0
            self._at += 1
        elif ch == "[":
            level.add(1)
            self._at = _end_of_class(self._pattern, self._at)
        elif ch == "\\":
            self._escape(level)
        elif ch == "{" and (count := _COUNT.match(self._pattern, self._at)):
            most = count[1] if count[2] is None else count[3]
            level.last = min(level.last * int(most), _MANY) if most else (_MANY if level.last else 0)
            self._at = count.end()
        else:
            level.add(0 if ch in "^$" else 1) if ch != "?" else None
            self._at += 1

    def _open(self) -> None:
        flags = _GROUP.match(self._pattern, self._at)
        self._at = flags.end() if flags else self._at + 1
        if flags is None or flags[1] != ")":
            self._levels.append(_Level())

    def _close(self) -> None:
        if len(self._levels) > 1:
            self._levels[-2].add(self._levels.pop().close())

    def _escape(self, level: _Level) -> None:
        if self._pattern.startswith("\\Q", self._at):
            end = self._pattern.find("\\E", self._at)
            text = self._pattern[self._at + 2 : end if end >= 0 else len(self._pattern)]
            for _ in text:
                level.add(1)
            self._at = end + 2 if end >= 0 else len(self._pattern)
            return
        found = _ESCAPE.match(self._pattern, self._at)
        length = len(found[0]) if found else 1
        level.add(0 if found and found[0] in _ZERO_WIDTH else 1)
        self._at += length


def _end_of_class(pattern: str, begin: int) -> int:
    at = begin + 1
    if pattern.startswith("^", at):
        at += 1
    if pattern.startswith("]", at):
        at += 1
    while at < len(pattern) and pattern[at] != "]":
        if pattern[at] == "\\" and (escape := _ESCAPE.match(pattern, at)):
            at = escape.end()
        elif pattern.startswith("[:", at) and (end := pattern.find(":]", at)) >= 0:
            at = end + 2
        else:
            at += 1
    return at + 1
