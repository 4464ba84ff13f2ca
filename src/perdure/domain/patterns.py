"""Searching with patterns from outside: regular expressions and globs that cannot hang.

Both run on RE2, whose time is linear in the text: no pattern makes it try again. What is left is a large
pattern on a long line,
and that is bounded here: patterns have a size, and every call looks at a piece of text that is shorter for
larger patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.files import MAX_PATTERN

MAX_PROGRAM, MAX_GLOB_PROGRAM = 20_000, 2_000
"""RE2's instructions of a pattern; a word has as many as letters, `[^\\pL]{10}` has 12,000."""
CALL = 40_000_000
"""Instructions times bytes in one call of RE2: about half a second where RE2 has to go the slow way (11 ns
for each)."""
SHORTEST, LONGEST = 2_048, 256 * 1024
"""Bytes that one call looks at. A match is not found across the end of a piece, which matters to longer lines
only."""
MEMORY = 8 * 1024 * 1024
"""Bytes that RE2 may use for its quick way; beyond them it goes the slow one."""
EXCERPT = 400
"""Characters of a line that are shown."""


class Pattern(Struct, frozen=True):
    """A compiled regular expression, and how many bytes a call may look at."""

    regex: Any
    piece: int


class LineMatch(Struct, frozen=True):
    """A line that matches: its number from 1, and its text, cut around the match when it is long."""

    number: int
    text: str


def compile_regex(pattern: str, *, ignore_case: bool = False) -> Pattern:
    """A regular expression for `matching_lines`.

    Raises:
        InvalidInput: RE2 does not take it (it has no look-around and no references back), or it is too large.
    """
    # `^` and `$` are a line's beginning and end.
    regex = _compile("(?m)" + _checked(pattern), ignore_case=ignore_case)
    size = regex.programsize
    if size > MAX_PROGRAM:
        raise _refused("is too large: repeat less")
    return Pattern(regex, max(SHORTEST, min(LONGEST, CALL // size)))


def compile_glob(pattern: str) -> Callable[[str], bool]:
    """Whether a clean path fits a pattern of `*`, `?`, `**`, `[a-z]` and `{a,b}`.

    One without a `/` is for the last name.

    Raises:
        InvalidInput: it cannot be read.
    """
    text = _checked(pattern).lstrip("/")
    anywhere = "/" not in pattern.rstrip("/") and "**" not in pattern
    regex = _compile(_glob_regex(text))
    if regex.programsize > MAX_GLOB_PROGRAM:
        raise _refused("is too large")

    def fits(path: str) -> bool:
        subject = path.rpartition("/")[2] if anywhere else path[1:]
        return regex.fullmatch(subject.encode()) is not None

    return fits


def matching_lines(
    pattern: Pattern,
    content: bytes,
    limit: int,
    expired: Callable[[], bool],
    clean: Callable[[str], str] = str,
) -> Iterator[LineMatch]:
    """The lines that match, up to a limit.

    Args:
        clean: what is done to a line before it is cut.

    Raises:
        TimeoutError: `expired` said so.
    """
    number, counted, position, size = 1, 0, 0, len(content)
    while position < size and limit > 0:
        if expired():
            raise TimeoutError
        end = _end_of_piece(content, position, pattern.piece)
        piece = content[position:end]
        found = pattern.regex.search(piece)
        if found is None:
            position = end
            continue
        at = position + found.start()
        if at >= size:
            return  # after the last line's end there is no line
        begin = content.rfind(b"\n", 0, at) + 1
        stop = content.find(b"\n", at)
        stop = size if stop < 0 else stop
        number += content.count(b"\n", counted, begin)
        counted, position, limit = begin, stop + 1, limit - 1
        yield LineMatch(number, _excerpt(content[begin:stop], at - begin, clean))


def _end_of_piece(content: bytes, begin: int, length: int) -> int:
    """Where a piece ends: after a line's end.

    Inside a line that is longer than a piece, between two characters.
    """
    end = begin + length
    if end >= len(content):
        return len(content)
    line = content.rfind(b"\n", begin, end)
    if line >= 0:
        return line + 1
    while end > begin + 1 and content[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _excerpt(line: bytes, at: int, clean: Callable[[str], str]) -> str:
    if len(line) <= EXCERPT:
        return line.decode("utf-8", "replace")
    at = len(clean(line[:at].decode("utf-8", "replace")).encode())
    line = clean(line.decode("utf-8", "replace")).encode()
    begin = max(0, min(at - EXCERPT // 4, len(line) - EXCERPT))
    cut = line[begin : begin + EXCERPT].decode("utf-8", "ignore")
    return f"{'...' if begin else ''}{cut}{'...' if begin + EXCERPT < len(line) else ''}"


def _checked(pattern: str) -> str:
    if not 1 <= len(pattern) <= MAX_PATTERN:
        raise _refused(f"has 1 to {MAX_PATTERN} characters")
    try:
        pattern.encode()
    except UnicodeEncodeError:
        raise _refused("is not text") from None
    return pattern


def _compile(pattern: str, *, ignore_case: bool = False) -> Any:
    import re2

    options = re2.Options()
    # Lines are searched, and nobody asks for groups.
    options.never_nl, options.never_capture, options.case_sensitive = True, True, not ignore_case
    options.log_errors, options.max_mem = False, MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        words = error.args[0]
        said = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
        raise _refused(f"is not a regular expression of RE2: {said.replace('(?m)', '', 1)[:200]}") from None
    finally:
        # The library keeps what it compiled, of whoever it was; the next one compiles in well under a
        # millisecond.
        re2.purge()


def _refused(words: str) -> InvalidInput:
    return InvalidInput(f"`pattern` {words}", code="invalid_pattern", field="pattern")


def _glob_regex(glob: str) -> str:
    parts: list[str] = []
    index, depth = 0, 0
    while index < len(glob):
        rest = glob[index:]
        step = 1
        if rest.startswith("**/"):
            parts.append("(?:.*/)?")
            step = 3
        elif rest.startswith("**"):
            parts.append(".*")
            step = 2
        elif rest[0] == "*":
            parts.append("[^/]*")
        elif rest[0] == "?":
            parts.append("[^/]")
        elif rest[0] == "[":
            inside, step = _class_at(rest)
            parts.append(inside)
        elif rest[0] == "{":
            parts.append("(?:")
            depth += 1
        elif rest[0] == "}" and depth:
            parts.append(")")
            depth -= 1
        elif rest[0] == "," and depth:
            parts.append("|")
        else:
            parts.append(_escaped(rest[0]))
        index += step
    if depth:
        raise _refused("has a { without its }")
    return "".join(parts)


def _class_at(rest: str) -> tuple[str, int]:
    """The regular expression of `[...]` or `[!...]` at the beginning, and how many characters it took."""
    end = rest.find("]", 3 if rest[1:2] in ("!", "^") else 2)
    if end < 0:
        return "\\[", 1
    inside = rest[1:end]
    negated = inside[0] in "!^"
    members = "".join(ch if ch == "-" else _escaped(ch) for ch in inside[negated:])
    return f"[{'^/' if negated else ''}{members}]", end + 1


def _escaped(ch: str) -> str:
    return f"\\{ch}" if ch.isascii() and not ch.isalnum() and ch != "_" else ch
