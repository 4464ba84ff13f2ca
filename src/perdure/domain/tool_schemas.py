"""Which tool schemas can be stored: JSON Schemas that model vendors accept, and that are small.

What is refused here would otherwise fail every turn at the vendor, or cost too much at every call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct, field

from perdure.domain.errors import InvalidInput
from perdure.domain.json_schemas import compile_pattern, declared
from perdure.domain.schema_cost import (
    IN_PLACE,
    MAX_AUTOMATON,
    MAX_HEIGHT,
    REFERENCES,
    SUBSCHEMAS,
    Targets,
    Unbounded,
    cost_of,
    pattern_states,
    step,
    subschemas,
)

MAX_SCHEMA = 128 * 1024
"""Bytes of a tool's schema as JSON."""
MAX_SUBSCHEMAS = 5_000
"""Subschemas of a tool's schema, its properties included."""
MAX_PATTERN = 1_000
"""Characters of a regular expression in a schema."""
MAX_INLINED = 8
"""References that are followed from the top of a schema."""

TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
NOT_AT_TOP = ("allOf", "anyOf", "const", "enum", "not", "oneOf")
"""Keywords that vendors refuse beside the `type` of a tool's whole schema."""


class SchemaBudget(Struct):
    """What the schemas of one request may still contain, together: checking them takes about 0.1 s at most.

    Attributes:
        size: bytes of JSON.
        subschemas: subschemas, properties included.
        states: states of the automata of all patterns.
        patterns: the patterns that were found valid.
    """

    size: int = 1 << 20
    subschemas: int = 10_000
    states: int = 60_000
    patterns: set[str] = field(default_factory=set)


def check_schema(schema: dict[str, Any], where: str, budget: SchemaBudget) -> None:
    """Check the JSON Schema of a tool's arguments.

    Args:
        where: the path of the schema, for errors.
        budget: what is left for this schema and those that follow.

    Raises:
        InvalidInput: names the path of what is wrong, and what to do.
    """
    size = len(msgspec.json.encode(schema))
    if size > MAX_SCHEMA:
        raise refused(where, f"has {size} bytes of JSON, and may have at most {MAX_SCHEMA}")
    budget.size -= size
    if budget.size < 0:
        raise refused(
            where, "makes the schemas of all tools larger than 1 MB: shorten some, or use fewer tools"
        )
    try:
        _check_top(inlined(schema), where)
    except Unbounded as unbounded:
        raise refused(f"{where}.$ref", f"cannot be followed: {unbounded}") from None
    check_any_schema(schema, where, budget)


def check_any_schema(schema: dict[str, Any], where: str, budget: SchemaBudget) -> None:
    """Check a JSON Schema of values of any kind, whose size the caller has checked. As `check_schema`."""
    _check_parts(schema, where, budget)
    try:
        cost_of(schema)
    except Unbounded as unbounded:
        raise refused(where + unbounded.path, f"is too costly to check: {unbounded}") from None
    _check_loops(schema, where)
    _check_keywords(schema, where)


def refused(path: str, problem: str) -> InvalidInput:
    """The error for a tool's schema."""
    return InvalidInput(f"`{path}` {problem}", code="invalid_tool_schema", field=path)


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the reference at its top, if there is one, replaced by what it leads to.

    Raises:
        Unbounded: it leads to no object.
    """
    targets = Targets(schema)
    found = schema
    for _ in range(MAX_INLINED):
        if "$ref" not in found:
            return found
        target = targets.find(found["$ref"])
        if not isinstance(target, dict):
            break
        found = target | {name: value for name, value in found.items() if name != "$ref"}
    raise Unbounded("it leads to no object")


def _check_top(schema: dict[str, Any], where: str) -> None:
    kind = schema.get("type", "object")
    if kind != "object":
        raise refused(
            where, f'must be the JSON Schema of an object, with the type "object", not {_shown(kind)}'
        )
    for keyword in NOT_AT_TOP:
        if keyword in schema:
            raise refused(
                f"{where}.{keyword}",
                "is not allowed at the top: model vendors refuse it there. Describe the arguments in"
                f" `properties`, and use `{keyword}` inside one of them",
            )


def _check_parts(schema: dict[str, Any], where: str, budget: SchemaBudget) -> None:
    """Check the number, nesting and form of all subschemas, whether they are used or not."""
    count = 0
    waiting: list[tuple[str, Any, int]] = [(where, schema, 1)]
    while waiting:
        path, part, depth = waiting.pop()
        count += 1
        budget.subschemas -= 1
        if count > MAX_SUBSCHEMAS or budget.subschemas < 0:
            raise refused(
                where,
                f"has too many subschemas: one tool may have {MAX_SUBSCHEMAS}, and all tools together 10,000",
            )
        if depth > MAX_HEIGHT:
            raise refused(path, f"is nested more than {MAX_HEIGHT} levels deep")
        if not isinstance(part, dict | bool):
            raise refused(path, f"must be a schema: an object or a boolean, not {_shown(part)}")
        if isinstance(part, dict):
            _check_part(part, path, budget)
            waiting.extend((path + place, each, depth + 1) for _, place, each in subschemas(part))


def _check_part(schema: dict[str, Any], path: str, budget: SchemaBudget) -> None:
    for keyword, kind in SUBSCHEMAS.items():
        if keyword not in schema or kind == "one":
            continue
        expected = list if kind == "list" else dict
        if not isinstance(schema[keyword], expected):
            name = "a list of schemas" if kind == "list" else "an object"
            raise refused(f"{path}.{keyword}", f"must be {name}, not {_shown(schema[keyword])}")
    if "type" in schema:
        kinds = schema["type"]
        for each in kinds if isinstance(kinds, list) and kinds else [kinds]:
            if each not in TYPES:
                raise refused(f"{path}.type", f"must be one of {', '.join(TYPES)}, not {_shown(each)}")
    if schema.get("enum") == []:
        raise refused(f"{path}.enum", "must list at least one value")
    names = schema.get("patternProperties")
    for place, pattern in [
        (f"{path}.pattern", schema.get("pattern")),
        *((f"{path}.patternProperties{step(name)}", name) for name in names or ()),
    ]:
        if isinstance(pattern, str):
            _check_pattern(pattern, place, budget)


def _check_pattern(pattern: str, path: str, budget: SchemaBudget) -> None:
    if len(pattern) > MAX_PATTERN:
        raise refused(path, f"is a pattern of {len(pattern)} characters, and may have at most {MAX_PATTERN}")
    if pattern in budget.patterns:
        return
    budget.states -= (states := pattern_states(pattern))
    if states > MAX_AUTOMATON or budget.states < 0:
        raise refused(path, "is too large a pattern: use fewer or smaller repetitions")
    problem = compile_pattern(pattern)
    if problem is not None:
        raise refused(path, f"is not a valid regular expression: {problem}")
    budget.patterns.add(pattern)


def _check_loops(schema: dict[str, Any], where: str) -> None:
    """Refuse a schema that refers to itself without a step into the value: checking it would never end."""
    targets = Targets(schema)
    done: set[int] = set()
    waiting: list[Any] = [schema]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict):
            continue
        waiting.extend(each for _, _, each in subschemas(part))
        if id(part) not in done and _loops(part, targets, done):
            raise refused(where, 'refers to itself without a step into the value, as in {"$ref": "#"}')


def _loops(start: dict[str, Any], targets: Targets, done: set[int]) -> bool:
    """Whether a subschema is reached again through keywords that apply to the same value."""
    trail: list[tuple[int, Iterator[Any]]] = [(id(start), _same_value(start, targets))]
    open_now = {id(start)}
    while trail:
        mark, rest = trail[-1]
        following = next((each for each in rest if isinstance(each, dict)), None)
        if following is None:
            trail.pop()
            open_now.discard(mark)
            done.add(mark)
        elif id(following) in open_now:
            return True
        elif id(following) not in done:
            open_now.add(id(following))
            trail.append((id(following), _same_value(following, targets)))
    return False


def _same_value(schema: dict[str, Any], targets: Targets) -> Iterator[Any]:
    for keyword, _, each in subschemas(schema):
        if keyword in IN_PLACE:
            yield each
    for keyword in REFERENCES:
        if keyword in schema:
            try:
                yield targets.find(schema[keyword])
            except Unbounded:  # of a subschema that is never used
                continue


def _check_keywords(schema: dict[str, Any], where: str) -> None:
    """Check the values of all other keywords by the standard's own schema of schemas."""
    import jsonschema_rs  # heavy: only servers that are told about tools need it

    try:
        jsonschema_rs.meta.validate(declared(schema))
    except jsonschema_rs.ValidationError as error:
        path = "".join(
            f"[{each}]" if isinstance(each, int) else step(str(each)) for each in error.instance_path
        )
        raise refused(where + path, f"is not valid JSON Schema: {error.message[:200]}") from None
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise refused(where, f"is not valid JSON Schema: {str(error)[:200]}") from None


def _shown(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:60]}..."
