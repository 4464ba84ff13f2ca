"""Escape texts for HTML and XML.

The standard library's functions do the same, but their modules load tables of half a megabyte that nothing
here uses.
"""

from __future__ import annotations

_IN_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
_IN_ATTRIBUTE = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}
)


def escape(text: str) -> str:
    """Escape a text for HTML, also inside of an attribute in quotes."""
    return text.translate(_IN_HTML)


def quoted(text: str) -> str:
    """Return a text as the value of an XML attribute, with its quotes."""
    text = text.translate(_IN_ATTRIBUTE)
    if '"' not in text:
        return f'"{text}"'
    if "'" not in text:
        return f"'{text}'"
    return '"{}"'.format(text.replace('"', "&quot;"))
