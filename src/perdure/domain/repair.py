"""Mending tool calls that are almost right: arguments that are almost JSON, names in another spelling."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from typing import Any

import msgspec

LONGEST = 100_000
"""Characters of arguments that are looked at; longer ones are left as they are."""

_FENCE = re.compile(r"^\s*```[a-zA-Z]*\s*|\s*```\s*$")
_TRAILING_COMMA = re.compile(r",\s*([}\]])")


def repair_arguments(text: str) -> dict[str, Any] | None:
    """The object that the text means, or None where that cannot be told for sure."""
    if len(text) > LONGEST:
        return None
    trimmed = _FENCE.sub("", text).strip()
    begin, end = trimmed.find("{"), trimmed.rfind("}")
    candidates = [trimmed, _TRAILING_COMMA.sub(r"\1", trimmed)]
    if begin >= 0 and end > begin:
        candidates.append(_TRAILING_COMMA.sub(r"\1", trimmed[begin : end + 1]))
    if begin >= 0:
        candidates.append(_closed(_TRAILING_COMMA.sub(r"\1", trimmed[begin:])))
    for candidate in candidates:
        for read in (msgspec.json.decode, ast.literal_eval):
            try:
                value = read(candidate)
            except (msgspec.DecodeError, ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                continue
            if isinstance(value, str) and value.lstrip().startswith("{"):
                return repair_arguments(value)
            if isinstance(value, dict) and all(isinstance(key, str) for key in value):
                return _plain(value)
    return {} if not trimmed else None


def _plain(value: dict[str, Any]) -> dict[str, Any] | None:
    """The value if JSON can hold it."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value), type=dict[str, Any])
    except (msgspec.EncodeError, msgspec.DecodeError, TypeError, OverflowError, RecursionError, ValueError):
        return None


def _closed(text: str) -> str:
    """The text with the quotes and brackets closed that were left open."""
    stack: list[str] = []
    quoted = escaped = False
    for ch in text:
        if quoted:
            if escaped:
                escaped = False
            elif ch == "\\":
                escaped = True
            elif ch == '"':
                quoted = False
        elif ch == '"':
            quoted = True
        elif ch in "{[":
            stack.append("}" if ch == "{" else "]")
        elif ch in "}]" and stack:
            stack.pop()
    return text + ('"' if quoted else "") + "".join(reversed(stack))


def repair_name(name: str, known: Collection[str]) -> str | None:
    """The one known name that this is another spelling of.

    Case, hyphens, blanks, a prefix such as `functions.`.
    """
    if name in known:
        return None
    wanted = _folded(name)
    found = [each for each in known if _folded(each) == wanted] or [
        each for each in known if _folded(re.split(r"[.:/]", name)[-1]) == _folded(each)
    ]
    return found[0] if len(found) == 1 else None


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def fit_arguments(arguments: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The arguments as a tool's JSON Schema has them, where a value is of another type and can mean one thing
    only.

    Null for what may be left out is left out; numbers and booleans in quotes lose them; one text for a list
    of texts is its one entry. What is nested is left alone.
    """
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return arguments
    fitted: dict[str, Any] = {}
    for name, value in arguments.items():
        wanted = properties.get(name)
        wanted = wanted if isinstance(wanted, dict) else {}
        kind = wanted.get("type")
        if not isinstance(kind, str):
            fitted[name] = value
        elif value is not None:
            fitted[name] = _fitted(value, kind, wanted) if isinstance(value, str) else value
        elif kind == "null" or name in required:
            fitted[name] = value
    return fitted


def _fitted(text: str, kind: str, schema: dict[str, Any]) -> Any:
    """What a text means where something of this kind is wanted, or the text."""
    if kind == "array" and not text.lstrip().startswith("["):
        items = schema.get("items")
        return [text] if isinstance(items, dict) and items.get("type") == "string" else text
    types = {"integer": int, "number": float, "boolean": bool, "array": list, "object": dict}
    if kind not in types or len(text) > LONGEST:
        return text
    try:
        return msgspec.json.decode(text.strip(), type=types[kind])
    except (msgspec.DecodeError, RecursionError):
        return text
