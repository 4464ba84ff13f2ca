"""Patterns that most processes never need, such as the words of refusals. They are compiled at first use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property


class Words:
    """A regular expression with the arguments of `re.compile`.

    All of these together would take a fiftieth of a server's start.
    """

    def __init__(self, pattern: str, flags: int = 0) -> None:
        self._pattern = pattern
        self._flags = flags

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The compiled expression."""
        return re.compile(self._pattern, self._flags)

    def search(self, text: str) -> re.Match[str] | None:
        """Return the first match in a text."""
        return self.compiled.search(text)

    def match(self, text: str) -> re.Match[str] | None:
        """Return the match at the beginning of a text."""
        return self.compiled.match(text)

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        """Return all matches in a text."""
        return self.compiled.finditer(text)

    def sub(self, replacement: str | Callable[[re.Match[str]], str], text: str) -> str:
        """Replace all matches in a text."""
        return self.compiled.sub(replacement, text)
