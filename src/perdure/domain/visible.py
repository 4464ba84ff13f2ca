r"""Make characters visible that control a terminal, reorder text, or cannot be seen.

A text of a model, a tool, a vendor or a client can contain them. Who shows it to a person escapes them, as
JSON does: `\u202e`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from perdure.domain.errors import InvalidInput

_CONTROLS = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # bidirectional marks, embeddings, isolates
    "\u2028\u2029"  # line and paragraph separator
    "\ufff0-\ufffb"  # annotations, and reserved for characters that are not shown
    "\ud800-\udfff"  # halves of surrogate pairs
)
_INVISIBLE = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2060-\u2065\u3164\ufeff\uffa0"
    "\U00013430-\U0001343f\U00016fe4\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"  # tags and supplementary variation selectors, which can carry hidden text
)
_VISIBLE = r"[^\x00-\x7f\u200c\u200d]"
# Joiners belong to emoji and to many scripts: between two letters that are not ASCII they stay.
_LOOSE_JOINERS = rf"(?<!{_VISIBLE})[\u200c\u200d]|[\u200c\u200d](?!{_VISIBLE})"
_ODD = re.compile(f"[{_CONTROLS}{_INVISIBLE}]|{_LOOSE_JOINERS}")
# What else looks like a plain space or like nothing: odd where a text must be shown exactly.
_INEXACT = re.compile(
    f"[{_CONTROLS}{_INVISIBLE}\t\n\u200c\u200d\u00a0\u1680\u2000-\u200a\u202f\u205f\u2800\u3000"
    "\u2420\ufe00-\ufe0f]"
)
_ASCII_ODD = dict.fromkeys((*range(0x09), *range(0x0B, 0x20), 0x7F))
_JOINERS = "\u200c\u200d"
_SLICE = 64 << 10
_BREAK = re.compile("[\n\t]")
_BLANKS = re.compile(" {5,}")
_INDENT = re.compile(" {0,40}")

LABEL_PATTERN = (
    r"^[^\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb]*$(?!\n)"
)
"""Names without control, bidirectional and invisible characters, as a JSON Schema says it."""
_LABEL = re.compile(LABEL_PATTERN)
# The dialects of patterns in JSON Schema differ about characters beyond U+FFFF.
_INVISIBLE_IN_LABEL = re.compile(f"[{_INVISIBLE}]")


def visible(text: str) -> str:
    """Escape the characters that control a terminal, reorder text or are invisible. Newline and tab stay."""
    if text.isascii() and text.isprintable():
        return text
    return _ODD.sub(_escaped, text.replace("\r\n", "\n"))


def without_hidden(text: str) -> str:
    """Remove the same characters: for texts of strangers that a model reads."""
    if text.isascii():
        return text if text.isprintable() else text.replace("\r\n", "\n").translate(_ASCII_ODD)
    text = text.replace("\r\n", "\n")
    return "".join(_ODD.sub("", part) for part in _slices(text))


def _slices(text: str) -> Iterator[str]:
    """The text in parts: a search in one lets no other thread run. Joiners stay with their neighbours."""
    start = 0
    while start < len(text):
        end = start + _SLICE
        while end < len(text) and (text[end - 1] in _JOINERS or text[end] in _JOINERS):
            end += 1
        yield text[start:end]
        start = end


def visible_json(text: str) -> str:
    """Escape the same characters in encoded JSON, which keeps its value."""
    if text.isascii():
        return text.replace("\x7f", "\\u007f")
    return _ODD.sub(_json_escaped, text)


def visible_line(text: str) -> str:
    """Escape the same characters, and newlines and tabs too: the text stays in one line."""
    return _BREAK.sub(_escaped, visible(text))


def exact(text: str) -> str:
    """Show a text exactly, in one line: odd spaces are escaped too, and runs of spaces are counted."""
    return _BLANKS.sub(lambda run: f"␠\N{MULTIPLICATION SIGN}{len(run[0])}", _INEXACT.sub(_escaped, text))


def exact_line(text: str) -> str:
    """Show one line of code exactly: as `exact` does, but its indentation stays, and its end can be seen."""
    indent = _INDENT.match(text)
    start = 0 if indent is None or indent.end() == len(text) else indent.end()
    rest = text[start:].rstrip(" ")
    blanks = len(text) - start - len(rest)
    end = f"␠\N{MULTIPLICATION SIGN}{blanks}" if blanks else ""
    return text[:start] + exact(rest) + end


def is_label(text: str) -> bool:
    """Whether a name contains no control, bidirectional or invisible character."""
    return _LABEL.match(text) is not None and (text.isascii() or not _INVISIBLE_IN_LABEL.search(text))


def check_labels(body: object, *fields: str) -> None:
    """Check the names in a request's body; a field that is not a text is not checked.

    Raises:
        InvalidInput: a name contains control, bidirectional or invisible characters.
    """
    for field in fields:
        text = getattr(body, field)
        if isinstance(text, str) and not is_label(text):
            raise InvalidInput(
                f"`{field}` must not contain control, bidirectional or invisible characters: {exact(text)}",
                field=field,
            )


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if found[0] in "\n\t":
        return "\\n" if code == 0x0A else "\\t"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
