"""How deeply JSON may be nested, so that every reader of an event with it can decode it."""

from __future__ import annotations

MAX_NESTING = 100
"""Levels of a call's arguments and of a step's result."""


def may_be_deep(text: str) -> bool:
    """Whether JSON has so many brackets that `is_deep` has to look at its value."""
    return text.count("[") + text.count("{") > MAX_NESTING


def is_deep(value: object, levels: int = MAX_NESTING) -> bool:
    """Whether lists and objects are nested more than so many levels deep."""
    return not _shallow(value, levels)


def _shallow(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return not isinstance(value, list) or (levels > 0 and all(_shallow(item, levels - 1) for item in value))
