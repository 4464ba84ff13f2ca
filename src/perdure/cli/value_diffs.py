"""Two values of a field, shown so that a person sees what has changed."""

from __future__ import annotations

from typing import Any

import msgspec

from perdure.cli.terminal import Part
from perdure.domain.line_diffs import diff

MISSING: Any = msgspec.UNSET
"""In place of a value: there was none."""


def text_of(value: Any) -> str:
    """Format a value: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def difference(old: Any, new: Any) -> list[Part]:
    """Return lines that show how a value has changed: of long texts, the lines that have.

    Args:
        old, new: the values; `MISSING` for none.
    """
    if isinstance(old, str) and isinstance(new, str) and "\n" in old + new:
        return _lines(old, new)
    lines: list[Part] = []
    if old is not MISSING:
        lines += [(f"  - {line}", "red") for line in text_of(old).split("\n")]
    if new is not MISSING:
        lines += [(f"  + {line}", "green") for line in text_of(new).split("\n")]
    return lines


_STYLES = {"-": "red", "+": "green", " ": ""}


def _lines(old: str, new: str) -> list[Part]:
    shown: list[Part] = []
    for each in diff(f"{old}\n", f"{new}\n"):
        if each.skipped:
            shown.append((f"  ... {each.skipped} unchanged lines ...", "dim"))
            continue
        shown.append((f"  {each.sign} {each.line.removesuffix(chr(10))}", _STYLES[each.sign]))
    return shown
