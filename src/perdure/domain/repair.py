"""Repairs tool calls that are almost right: arguments that are almost JSON, and misspelled tool names."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import msgspec

from perdure.domain.json_costs import extremes_in
from perdure.domain.loose_json import read_loosely

LONGEST = 100_000
"""Characters of the arguments of an answer that are repaired. Reading takes up to 3 µs for each."""
MAX_EXTREMES = 20
"""Numbers with an exponent of three digits in arguments that are repaired."""

_FENCE = re.compile(r"```[a-zA-Z]*\s*")
# Around the object, they belong to something larger, of which only a part arrived.
_BRACKETS = frozenset('[]{}"')


def repair_arguments(text: str) -> dict[str, Any] | None:
    """Repair arguments to the object that they mean; None if that is not certain.

    Arguments whose end is missing are not repaired: what is missing cannot be known, and the tool would run
    with half of it.
    """
    if len(text) > LONGEST or extremes_in(text, MAX_EXTREMES) > MAX_EXTREMES:
        return None
    trimmed = without_fences(text)
    begin, end = trimmed.find("{"), trimmed.rfind("}")
    candidates = [trimmed]
    if begin >= 0 and end > begin and not _BRACKETS & {*trimmed[:begin], *trimmed[end + 1 :]}:
        candidates.append(trimmed[begin : end + 1])
    for candidate in candidates:
        try:
            value = read_loosely(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, str) and value.lstrip().startswith("{"):
            return repair_arguments(value)
        if isinstance(value, dict):
            return _plain(value)
    return {} if not trimmed else None


def without_fences(text: str) -> str:
    """The text without white space and the lines ``` around it."""
    # No regular expression for the end: it would look for it after each space of a long run.
    text = text.strip()
    opening = _FENCE.match(text)
    return text[opening.end() if opening else 0 :].removesuffix("```").strip()


def _plain(value: dict[str, Any]) -> dict[str, Any] | None:
    """The value as plain JSON; None if JSON cannot represent it."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value), type=dict[str, Any])
    except (msgspec.EncodeError, msgspec.DecodeError, TypeError, OverflowError, RecursionError, ValueError):
        return None


def repair_name(name: str, known: Collection[str]) -> str | None:
    """Find the one known name that this is another spelling of; None if there is none, or it is known itself.

    Ignores case, hyphens, spaces, and a prefix such as `functions.`.
    """
    if name in known:
        return None
    folded, unprefixed = _folded(name), _folded(re.split(r"[.:/]", name)[-1])
    matches = [each for each in known if _folded(each) == folded] or [
        each for each in known if _folded(each) == unprefixed
    ]
    return matches[0] if len(matches) == 1 else None


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def fit_arguments(arguments: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Convert arguments of a wrong type to the types of a tool's JSON Schema, if the meaning is clear.

    Drops nulls for optional arguments, unquotes numbers, booleans, lists and objects, and wraps a single text
    in a list if a list of texts is expected. Nested values are not changed.
    """
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return arguments
    needed = {name for name in required if isinstance(name, str)}
    fitted: dict[str, Any] = {}
    for name, value in arguments.items():
        subschema = properties.get(name)
        subschema = subschema if isinstance(subschema, dict) else {}
        kind = subschema.get("type")
        if not isinstance(kind, str):
            fitted[name] = value
        elif value is not None:
            fitted[name] = _fit_text(value, kind, subschema) if isinstance(value, str) else value
        elif kind == "null" or name in needed:
            fitted[name] = value
    return fitted


def _fit_text(text: str, kind: str, schema: dict[str, Any]) -> Any:
    """Convert a text to the expected JSON type; returns the text itself if that is not possible."""
    if kind == "array" and not text.lstrip().startswith("["):
        items = schema.get("items")
        return [text] if isinstance(items, dict) and items.get("type") == "string" else text
    types = {"integer": int, "number": float, "boolean": bool, "array": list, "object": dict}
    if kind not in types or len(text) > LONGEST or extremes_in(text, MAX_EXTREMES) > MAX_EXTREMES:
        return text
    try:
        return msgspec.json.decode(text.strip(), type=types[kind])
    except (msgspec.DecodeError, RecursionError):
        return text
