"""Ranks tools by how well their names and descriptions match a query: Okapi BM25.

The formula is that of S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond"
(2009), with 1 added inside the logarithm, so that a word of most tools counts little instead of less than
nothing. A word of a tool's name counts as often as several words of its description.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

K1, B = 1.2, 0.75
"""How fast repetitions of a word count less, and how much the length of a text matters."""
NAME_WEIGHT = 3
"""How many words of the description one word of the name counts as."""
LEAST_SHARE = 0.2
"""The share of the best score below which a tool does not match: it shares only common words."""

MAX_INDEXED = 1_000
"""Characters of a description that are read: what comes later are details."""
MAX_QUERY, MAX_WORDS = 500, 32
"""Characters and distinct words of a query that are read."""
MAX_COMPLETIONS = 20
"""Known words that the beginning of a word stands for, at most."""
LEAST_BEGINNING = 3
"""Letters that the beginning of a word has at least."""

_WORD = re.compile(r"[^\W_]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NAME = re.compile(r"[\w-]+")
_FIRST_IDEOGRAPH = "\u2e80"
"""From here on are scripts without spaces: each character is a word."""


def words_of(text: str) -> list[str]:
    """The words of a text in lower case and without plural: `getIssues` and `get_issue` have the same.

    An ending is removed by spelling alone, which is wrong at times, but equally in queries and tools.
    """
    return _normal(_WORD.findall(_HUMP.sub(" ", text).lower()))


def _normal(words: list[str]) -> list[str]:
    normal: list[str] = []
    for word in words:
        if word[-1] >= _FIRST_IDEOGRAPH:
            normal += word
        elif word[-1] != "s" or len(word) < 4 or word[-2] == "s":
            normal.append(word)
        elif word.endswith("ies") and len(word) > 4:
            normal.append(f"{word[:-3]}y")
        else:
            normal.append(word[:-1])
    return normal


class ToolRanking:
    """An index of tools.

    Args:
        tools: the name, the description and the source of each tool. The source counts like a part of the
            description.
    """

    def __init__(self, tools: Iterable[tuple[str, str, str]]) -> None:
        self._names: list[str] = []
        counts: list[Counter[str]] = []
        for name, description, source in tools:
            self._names.append(name)
            words = _normal(_WORD.findall(f"{source}\n{description[:MAX_INDEXED]}".lower()))
            counts.append(Counter(words + words_of(name) * NAME_WEIGHT))
        lengths = [counted.total() for counted in counts]
        mean = max(sum(lengths) / max(len(lengths), 1), 1)
        self._scores: dict[str, list[tuple[int, float]]] = defaultdict(list)
        """By word: the tools that have it, by number, with what the word adds to their score."""
        for number, counted in enumerate(counts):
            norm = K1 * (1 - B + B * lengths[number] / mean)
            for word, times in counted.items():
                self._scores[word].append((number, times * (K1 + 1) / (times + norm)))

    def best(self, query: str) -> tuple[str, ...]:
        """The names of the tools that match, best first; equal ones by name.

        A tool whose exact name is in the query comes before all others.
        """
        query = query[:MAX_QUERY]
        totals: dict[int, float] = defaultdict(float)
        for word in list(dict.fromkeys(words_of(query)))[:MAX_WORDS]:
            for known in self._known(word):
                having = self._scores[known]
                rarity = math.log(1 + (len(self._names) - len(having) + 0.5) / (len(having) + 0.5))
                for number, score in having:
                    totals[number] += rarity * score
        least = LEAST_SHARE * max(totals.values(), default=0.0)
        # A name of one word may be meant as a word.
        named = {query.strip(), *(name for name in _NAME.findall(query) if "_" in name or "-" in name)}
        scores = ((self._names[number], total) for number, total in totals.items())
        found = [
            (name not in named, -total, name) for name, total in scores if total >= least or name in named
        ]
        return tuple(name for _, _, name in sorted(found))

    def _known(self, word: str) -> list[str]:
        """The word itself, or else known words that begin with it: `repo` finds a `repository`."""
        if word in self._scores:
            return [word]
        if len(word) < LEAST_BEGINNING:
            return []
        return sorted(known for known in self._scores if known.startswith(word))[:MAX_COMPLETIONS]
