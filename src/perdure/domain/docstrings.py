"""Reads docstrings in Google's style: the description, and what they say about each parameter."""

from __future__ import annotations

import inspect
import re

from msgspec import Struct

_HEADER = re.compile(r"(?:Args|Arguments|Parameters|Attributes):")
_ENTRY = re.compile(r"\A(\*{0,2}[^\W\d]\w{0,199}) ?(?:\(.{0,500}?\))?:(?: |$)(.*)")


class Entry(Struct, frozen=True):
    """What a docstring says about one parameter.

    Attributes:
        line: the line of the docstring, counted from 0, without blank lines at its beginning.
    """

    name: str
    text: str
    line: int


class Docstring(Struct, frozen=True):
    """A docstring.

    Attributes:
        description: everything but the section about the parameters.
        entries: the parameters, in the order of the docstring.
        misplaced: the lines of that section that belong to no parameter, with their numbers.
    """

    description: str
    entries: tuple[Entry, ...]
    misplaced: tuple[tuple[int, str], ...] = ()

    def texts(self) -> dict[str, str]:
        """What it says, by parameter."""
        return {entry.name: entry.text for entry in self.entries}


def read_docstring(text: str) -> Docstring:
    """Read a docstring as it stands in the source."""
    lines = inspect.cleandoc(text).splitlines()
    kept: list[str] = []
    section: list[tuple[int, str]] = []
    inside = False
    for number, line in enumerate(lines):
        if _HEADER.fullmatch(line.rstrip()):
            inside = True
        elif inside and (not line or line[0].isspace()):
            section.append((number, line))
        else:
            inside = False
            kept.append(line)
    description = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
    return _with_section(description, section)


def _with_section(description: str, section: list[tuple[int, str]]) -> Docstring:
    texts: list[tuple[str, int, list[str]]] = []
    misplaced: list[tuple[int, str]] = []
    margin = next((_indent(line) for _, line in section if line.strip()), 0)
    for number, line in section:
        found = _ENTRY.fullmatch(line.strip()) if line.strip() and _indent(line) <= margin else None
        if found is not None:
            texts.append((found[1].lstrip("*"), number, [found[2]]))
        elif line.strip() and (not texts or _indent(line) <= margin):
            misplaced.append((number, line.strip()))
        elif texts:
            texts[-1][2].append(line)
    entries = tuple(Entry(name, _prose(parts), number) for name, number, parts in texts)
    return Docstring(description, entries, tuple(misplaced))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _prose(lines: list[str]) -> str:
    """The lines as running text; a blank line starts a new paragraph."""
    paragraphs = "\n".join(line.strip() for line in lines).strip().split("\n\n")
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
