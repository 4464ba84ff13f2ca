"""Decode the JSON that models write: arguments of calls, and answers in a form."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from perdure.domain.nesting import MAX_NESTING, is_deep, may_be_deep
from perdure.domain.tool_arguments import ArgumentsBudget
from perdure.llm.answer_values import sound

# The escapes of a JSON text: a whole surrogate pair, half of one, or any other escape.
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)


def parsed_arguments(text: str) -> Any:
    """Parse the arguments; return invalid JSON as text.

    An empty text, null and an empty list (PHP does not tell it from an empty object) are no arguments.
    """
    if not text or text.isspace():
        return {}
    text = sound(text).removeprefix("\ufeff")
    try:
        value = msgspec.json.decode(_whole_escapes(text) if "\\u" in text else text)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = msgspec.json.decode(value)  # some servers encode the arguments twice
    except (ValueError, RecursionError):
        return text
    if value is None or value == []:
        return {}
    if may_be_deep(text) and is_deep(value):  # kept as text, like invalid JSON
        return text
    return deeply(sound, value) if "\\u0000" in text else value


def json_value(text: str) -> Any:
    """Decode JSON as the log can store it.

    Raises:
        ValueError: the text is not JSON, costs too much to decode, or is nested too deeply.
    """
    if ArgumentsBudget().refusal(text) is not None:
        raise ValueError("has too many values, or too many numbers with large exponents")
    text = sound(text).removeprefix("\ufeff")
    try:
        value = msgspec.json.decode(_whole_escapes(text) if "\\u" in text else text)
    except msgspec.DecodeError as error:
        raise ValueError(f"is not valid JSON: {str(error).removeprefix('JSON is malformed: ')}") from None
    except (ValueError, RecursionError):
        raise ValueError("is not valid JSON") from None
    if may_be_deep(text) and is_deep(value):
        raise ValueError(f"is nested more than {MAX_NESTING} levels deep")
    return deeply(sound, value) if "\\u0000" in text else value


def _whole_escapes(text: str) -> str:
    """Replace escapes that are half of a surrogate pair by U+FFFD."""
    return _ESCAPE.sub(lambda match: "\\ufffd" if match[1] else match[0], text)


def deeply(clean: Callable[[str], str], value: Any) -> Any:
    """Return a value with each of its texts cleaned."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [deeply(clean, item) for item in value]
    if isinstance(value, dict):
        return {clean(key): deeply(clean, item) for key, item in value.items()}
    return value
