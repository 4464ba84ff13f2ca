"""Regular expressions and globs from untrusted callers, with bounded search time.

Both run on RE2, which never backtracks: its time is linear in the text. The remaining risk is a large pattern
on a long line. It is bounded here: patterns have a maximum size, and each call to RE2 searches one piece of
the text, which is shorter for larger patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.files import MAX_PATTERN

MAX_PROGRAM, MAX_GLOB_PROGRAM = 20_000, 2_000
"""Size of a compiled pattern in RE2 instructions: a word has one per letter, `[^\\pL]{10}` has 12,000."""
CALL = 40_000_000
"""Instructions times bytes in one call of RE2: about 0.5 s when RE2 falls back to its NFA (11 ns each)."""
SHORTEST, LONGEST = 2_048, 256 * 1024
"""Bytes that one call searches. A match across the end of a piece is missed, which can only happen in a line
that is longer than a piece."""
MEMORY = 8 * 1024 * 1024
"""Bytes that RE2 may use for its fast DFA; above them it falls back to the slow NFA."""
EXCERPT = 400
"""Characters of a line that are shown."""


class Pattern(Struct, frozen=True):
    """A compiled regular expression, and the number of bytes that one call may search."""

    regex: Any
    piece: int


class LineMatch(Struct, frozen=True):
    """A matching line: its number, from 1, and its text, truncated around the match if it is long."""

    number: int
    text: str


def compile_regex(pattern: str, *, ignore_case: bool = False) -> Pattern:
    """Compile a regular expression for `matching_lines`.

    Raises:
        InvalidInput: RE2 rejects it (RE2 has no look-around and no backreferences), or it is too large.
    """
    # (?m): `^` and `$` match at the beginning and end of each line.
    regex = _compile("(?m)" + _checked(pattern), ignore_case=ignore_case)
    size = regex.programsize
    if size > MAX_PROGRAM:
        raise _refused("is too large: use fewer or smaller repetitions")
    return Pattern(regex, max(SHORTEST, min(LONGEST, CALL // size)))


def compile_glob(pattern: str) -> Callable[[str], bool]:
    """Compile a glob of `*`, `?`, `**`, `[a-z]` and `{a,b}` to a function that matches clean paths.

    A glob without `/` and `**` matches the last name of a path.

    Raises:
        InvalidInput: the glob is malformed or too large.
    """
    text = _checked(pattern).lstrip("/")
    anywhere = "/" not in pattern.rstrip("/") and "**" not in pattern
    regex = _compile(_glob_regex(text))
    if regex.programsize > MAX_GLOB_PROGRAM:
        raise _refused("is too large: shorten it")

    def matches(path: str) -> bool:
        subject = path.rpartition("/")[2] if anywhere else path[1:]
        return regex.fullmatch(subject.encode()) is not None

    return matches


def matching_lines(
    pattern: Pattern,
    content: bytes,
    limit: int,
    expired: Callable[[], bool],
    clean: Callable[[str], str] = str,
) -> Iterator[LineMatch]:
    """Find the matching lines of a text.

    Args:
        limit: lines to return at most.
        expired: whether the time is up; asked before each call of RE2.
        clean: redacts a line before it is truncated.

    Raises:
        TimeoutError: the time is up.
    """
    number, counted, position, size = 1, 0, 0, len(content)
    while position < size and limit > 0:
        if expired():
            raise TimeoutError
        end = _end_of_piece(content, position, pattern.piece)
        piece = content[position:end]
        match = pattern.regex.search(piece)
        if match is None:
            position = end
            continue
        at = position + match.start()
        if at >= size:
            return  # an empty match after the last newline is not a line
        begin = content.rfind(b"\n", 0, at) + 1
        stop = content.find(b"\n", at)
        stop = size if stop < 0 else stop
        number += content.count(b"\n", counted, begin)
        counted, position, limit = begin, stop + 1, limit - 1
        yield LineMatch(number, _excerpt(content[begin:stop], at - begin, clean))


def _end_of_piece(content: bytes, begin: int, length: int) -> int:
    """Where a piece ends: after a newline, or between two characters if the line is longer than the piece."""
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
        raise _refused(f"must have 1 to {MAX_PATTERN} characters")
    try:
        pattern.encode()
    except UnicodeEncodeError:
        raise _refused("cannot be encoded as UTF-8") from None
    return pattern


def _compile(pattern: str, *, ignore_case: bool = False) -> Any:
    import re2

    options = re2.Options()
    # Matches never span lines, and capture groups are not used.
    options.never_nl, options.never_capture, options.case_sensitive = True, True, not ignore_case
    options.log_errors, options.max_mem = False, MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise _refused(
            f"is not a valid RE2 regular expression: {text.replace('(?m)', '', 1)[:200]}"
        ) from None
    finally:
        # The library caches patterns across organizations. Compiling again takes well under a millisecond.
        re2.purge()


def _refused(problem: str) -> InvalidInput:
    return InvalidInput(f"`pattern` {problem}", code="invalid_pattern", field="pattern")


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
        raise _refused("has a { without a closing }")
    return "".join(parts)


def _class_at(rest: str) -> tuple[str, int]:
    """Translate the `[...]` or `[!...]` at the beginning; also returns its length in characters."""
    end = rest.find("]", 3 if rest[1:2] in ("!", "^") else 2)
    if end < 0:
        return "\\[", 1
    inside = rest[1:end]
    negated = inside[0] in "!^"
    members = "".join(ch if ch == "-" else _escaped(ch) for ch in inside[negated:])
    return f"[{'^/' if negated else ''}{members}]", end + 1


def _escaped(ch: str) -> str:
    return f"\\{ch}" if ch.isascii() and not ch.isalnum() and ch != "_" else ch
