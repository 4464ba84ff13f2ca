"""What it costs at most to check a value against a JSON Schema.

A small schema can ask for very many checks: thirty definitions that each refer to the next one twice are
2^30. The cost is computed here without checking anything, in time that is linear in the schema, so that only
schemas and values that are cheap together are checked in the server's process.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any, Literal
from urllib.parse import unquote

from msgspec import Struct

MAX_STEPS = 20_000
"""Checks of one value, with every reference followed, above which a schema's cost counts as unbounded."""
MAX_HEIGHT = 64
"""Levels of subschemas and references inside each other; the validator needs stack for each."""
MAX_AUTOMATON = 25_000
"""States of one pattern above which its cost counts as unbounded."""

MAX_STATES = 200_000
"""States of all patterns together, each as often as it is used, above which the cost counts as unbounded."""
UNICODE = 200
"""States of a class of Unicode characters, such as `\\p{L}`."""

CHECKS = 40_000
"""Checks that the event loop makes for one call: about 50 ms if each of them fails."""
MATCHES = 3_000_000
"""States times characters that the event loop matches for one call: about 30 ms in the worst case."""
COPIED = 16_000_000
"""Checks times characters for one call. Each check that fails copies what it checked, and all copies are held
at the same time: up to 64 MB and about 20 ms."""
DIVISION = 50
"""Checks that one `multipleOf` counts as: extreme numbers take up to 0.1 ms to divide exactly."""

Kind = Literal["one", "list", "map"]

SUBSCHEMAS: dict[str, Kind] = {
    "additionalItems": "one", "additionalProperties": "one", "contains": "one", "contentSchema": "one",
    "else": "one", "if": "one", "items": "one", "not": "one", "propertyNames": "one", "then": "one",
    "unevaluatedItems": "one", "unevaluatedProperties": "one",
    "allOf": "list", "anyOf": "list", "oneOf": "list", "prefixItems": "list",
    "$defs": "map", "definitions": "map", "dependencies": "map", "dependentSchemas": "map",
    "patternProperties": "map", "properties": "map",
}  # fmt: skip
"""The keywords that hold subschemas: one, a list of them, or a map to them."""

DEFINITIONS = frozenset({"$defs", "definitions"})
"""Keywords whose subschemas apply only where a reference leads to them."""

IN_PLACE = frozenset(
    {"allOf", "anyOf", "dependencies", "dependentSchemas", "else", "if", "not", "oneOf", "then"}
)
"""Keywords whose subschemas apply to the value itself, not to a part of it. So do references."""

REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")

_TRIED = frozenset({"anyOf", "contains", "if", "not", "oneOf"})
"""Keywords whose subschemas are first tried without collecting errors, and then checked again."""

_UNKNOWN = frozenset({"unevaluatedItems", "unevaluatedProperties"})
"""Keywords that check other subschemas again for each part of the value."""


class Unbounded(Exception):
    """No useful bound of the cost is known. The text says why; `path` leads to the place, if there is one."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.path = path


class Cost(Struct, frozen=True):
    """The cost of checking one value.

    Attributes:
        steps: the most checks, when no part of the value is visited twice by the same subschema.
        states: the states of all patterns, each counted as often as it is used.
        recursive: a subschema contains itself, so the cost also grows with the depth of the value.
    """

    steps: int
    states: int
    recursive: bool

    def is_small(self, value: Any) -> bool:
        """Whether checking this value is cheap enough for the event loop."""
        return self.share_of(value) <= 1

    def share_of(self, value: Any) -> float:
        """How much of what the event loop may spend at once this check takes; above 1 is too much."""
        if self.recursive:
            return inf
        limit = CHECKS // self.steps
        parts, characters = size_of(value, limit)
        return max(parts / limit, self.steps * characters / COPIED, self.states * characters / MATCHES)


def size_of(value: Any, limit: int) -> tuple[int, int]:
    """The number of values in a JSON value, itself included, and the characters of its texts and keys.

    An integer of more than 64 bits counts once more for each further 64. Stops counting after more than
    `limit` values.
    """
    parts, characters = 0, 0
    waiting = [value]
    while waiting and parts <= limit:
        item = waiting.pop()
        parts += 1
        if isinstance(item, str):
            characters += len(item)
        elif isinstance(item, dict):
            parts += len(item)
            characters += sum(map(len, item))
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, int):
            parts += item.bit_length() >> 6
    return parts, characters


def cost_of(schema: Any) -> Cost:
    """Compute the cost of a schema, which must not be larger than the caller accepts.

    Raises:
        Unbounded: no bound is known, or it is above MAX_STEPS.
    """
    return _Counter(schema).total()


def subschemas(schema: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the direct subschemas of a schema: the keyword, the path below the schema, and the subschema.

    What is in the place of a subschema need not be one. Skips keywords whose value has another form.
    """
    for keyword, value in schema.items():
        kind = SUBSCHEMAS.get(keyword)
        if kind is None:
            continue
        if kind == "list" or (keyword == "items" and isinstance(value, list)):
            if isinstance(value, list):
                for index, each in enumerate(value):
                    yield keyword, f".{keyword}[{index}]", each
        elif kind == "one":
            yield keyword, f".{keyword}", value
        elif isinstance(value, dict):
            for name, each in value.items():
                if keyword != "dependencies" or not isinstance(each, list):
                    yield keyword, f".{keyword}{step(name)}", each


def step(name: str) -> str:
    """A property's name as a step of a path."""
    return f".{name}" if name.isidentifier() and len(name) <= 60 else f"[{name[:60]!r}]"


class Targets:
    """Finds what the references in a schema lead to."""

    def __init__(self, root: Any) -> None:
        self._root = root
        identity = root.get("$id") if isinstance(root, dict) else None
        self._base = identity.partition("#")[0] if isinstance(identity, str) else ""
        self._anchors: dict[str, Any] | None = None

    def find(self, reference: Any) -> Any:
        """The subschema that a reference leads to. Raises Unbounded if that is not in this schema."""
        if not isinstance(reference, str):
            raise Unbounded("a reference must be a text")
        local = reference.removeprefix(self._base) if self._base else reference
        if local in ("", "#"):
            return self._root
        if local.startswith("#/"):
            return self._at(unquote(local[2:]), reference)
        if not local.startswith("#"):
            raise Unbounded(f"{reference[:100]!r} is not in this schema: a reference must begin with #")
        if self._anchors is None:
            self._anchors = _anchors(self._root)
        return self._checked(self._anchors.get(unquote(local[1:])), reference)

    def _at(self, pointer: str, reference: str) -> Any:
        value = self._root
        for token in pointer.split("/"):
            name = token.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict):
                value = value.get(name)
            elif isinstance(value, list) and name.isdecimal() and len(name) < 7 and int(name) < len(value):
                value = value[int(name)]
            else:
                value = None
            if isinstance(value, dict) and isinstance(value.get("$id"), str):
                raise Unbounded("`$id` is only allowed at the top of the schema")
        return self._checked(value, reference)

    def _checked(self, value: Any, reference: str) -> Any:
        if not isinstance(value, dict | bool):
            raise Unbounded(f"{reference[:100]!r} leads to no schema")
        return value


def _anchors(root: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    waiting = [root]
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, dict):
            continue
        for keyword in ("$anchor", "$dynamicAnchor"):
            name = schema.get(keyword)
            if isinstance(name, str):
                if name in found and found[name] is not schema:
                    raise Unbounded(f"the anchor {name[:60]!r} occurs twice")
                found[name] = schema
        waiting.extend(each for _, _, each in subschemas(schema))
    return found


class _Sum(Struct, frozen=True):
    """What a subschema adds up to.

    Attributes:
        tried: checks when only the result counts; checked: when errors are collected.
        height: its levels of subschemas and references.
    """

    tried: int
    checked: int
    states: int
    height: int


_CONSTANT = _Sum(1, 1, 0, 1)


class _Counter:
    """Adds up the cost of a schema; visits each subschema once."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._targets = Targets(root)
        self._known: dict[int, _Sum] = {}
        self._open: set[int] = set()
        self._recursive = False

    def total(self) -> Cost:
        found = self._sum(self._root, "", 1)
        return Cost(found.checked, found.states, self._recursive)

    def _sum(self, schema: Any, path: str, depth: int) -> _Sum:
        if not isinstance(schema, dict):
            return _CONSTANT
        if id(schema) in self._open:
            self._recursive = True
            return _CONSTANT
        found = self._known.get(id(schema))
        if depth + (0 if found is None else found.height) > MAX_HEIGHT:
            raise Unbounded(f"subschemas are more than {MAX_HEIGHT} levels deep", path)
        if found is None:
            self._open.add(id(schema))
            found = self._known[id(schema)] = self._added(schema, path, depth)
            self._open.discard(id(schema))
        return found

    def _added(self, schema: dict[str, Any], path: str, depth: int) -> _Sum:
        if schema is not self._root and isinstance(schema.get("$id"), str):
            raise Unbounded("`$id` is only allowed at the top of the schema", path)
        tried = checked = own_checks(schema)
        states, height = own_states(schema, path), 0
        for keyword, place, each in self._applied(schema, path):
            if keyword in _UNKNOWN:
                raise Unbounded(f"`{keyword}` checks parts of a value any number of times", path)
            part = self._sum(each, place, depth + 1)
            tried += part.tried
            checked += part.checked + (part.tried if keyword in _TRIED else 0)
            states += 2 * part.states if keyword in _TRIED else part.states
            height = max(height, part.height)
            if states > MAX_STATES:
                raise Unbounded("the patterns are too large together", path)
            if checked > MAX_STEPS:
                raise Unbounded(
                    f"with its references followed, the schema has more than {MAX_STEPS} subschemas", path
                )
        return _Sum(tried, checked, states, height + 1)

    def _applied(self, schema: dict[str, Any], path: str) -> Iterator[tuple[str, str, Any]]:
        for keyword, place, each in subschemas(schema):
            if keyword not in DEFINITIONS:
                yield keyword, path + place, each
        for keyword in REFERENCES:
            if keyword in schema:
                place = f"{path}.{keyword}"
                try:
                    yield keyword, place, self._targets.find(schema[keyword])
                except Unbounded as unbounded:
                    raise Unbounded(str(unbounded), place) from None


def own_checks(schema: dict[str, Any]) -> int:
    """The checks that a schema makes itself, without its subschemas."""
    checks = 1 + len(schema) + (DIVISION if "multipleOf" in schema else 0)
    for keyword in ("enum", "const", "required", "dependentRequired", "dependencies", "type"):
        value = schema.get(keyword)
        if isinstance(value, list | dict):
            checks += size_of(value, MAX_STEPS)[0]
    return checks


def own_states(schema: dict[str, Any], path: str) -> int:
    """The states of a schema's own patterns. Raises Unbounded if one is too large."""
    patterns = [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
    names = schema.get("patternProperties")
    if isinstance(names, dict):
        patterns += [*names, *names]  # `additionalProperties` matches them once more
    total = 0
    for pattern in patterns:
        total += (states := pattern_states(pattern))
        if states > MAX_AUTOMATON:
            raise Unbounded("the pattern is too large: use fewer or smaller repetitions", path)
    return total


def pattern_states(pattern: str) -> int:
    """Estimate the states of the automaton of a regular expression, which need not be valid.

    A repetition counts as often as it may repeat: `(a{9}){9}` has 81 states. Stops above MAX_AUTOMATON.
    """
    groups: list[list[int]] = [[0, 0]]  # of each open group: the states so far, and those of its last atom
    at, size = 0, len(pattern)
    while at < size:
        ch, states = pattern[at], 1
        if ch == "{" and (times := _repeated(pattern, at)) is not None:
            at, count = times
            total, last = groups[-1]
            groups[-1] = [total + last * (count - 1), last * count]
            if groups[-1][0] > MAX_AUTOMATON:
                return MAX_AUTOMATON + 1
            continue
        if ch == "(":
            groups.append([0, 0])
            at += 1
            continue
        if ch == ")" and len(groups) > 1:
            states = groups.pop()[0] + 1
        elif ch == "\\":
            states = UNICODE if pattern[at + 1 : at + 2] in ("p", "P") else 2
            at += 1
            if pattern[at + 1 : at + 2] == "{" and pattern[at] in "pPux":
                at = max(pattern.find("}", at, at + 60), at)
        elif ch == "[":
            begin, at = at, _class_end(pattern, at)
            inside = pattern[begin:at]
            states = UNICODE if "\\p" in inside or "\\P" in inside else 8 if inside[1:2] == "^" else 2
        elif ch in "*+?|^$":
            states = 0
            groups[-1][0] += 1
        at += 1
        if states:
            groups[-1] = [groups[-1][0] + states, states]
    return min(sum(total for total, _ in groups) + 1, MAX_AUTOMATON + 1)


def _repeated(pattern: str, at: int) -> tuple[int, int] | None:
    """Where the repetition `{n}`, `{n,}` or `{n,m}` at this place ends, and how often it repeats at most."""
    end = pattern.find("}", at, at + 24)
    low, _, high = pattern[at + 1 : max(end, at + 1)].partition(",")
    if end < 0 or not low.isdecimal() or (high and not high.isdecimal()):
        return None
    return end + 1, max(int(low), int(high or 0), 1)


def _class_end(pattern: str, at: int) -> int:
    """The place of the bracket that ends the class at this place, or the pattern's end."""
    at += 2 if pattern[at + 1 : at + 2] == "^" else 1
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return min(at, len(pattern))
