"""Small tool schemas that cost very much to check, and arguments that make them do so."""

from __future__ import annotations

from typing import Any, NamedTuple

Json = dict[str, Any]


class Costly(NamedTuple):
    """A schema and arguments. `refused`: whether the schema must not be stored."""

    schema: Json
    arguments: Json
    refused: bool = True


def doubling(keyword: str, depth: int = 26, **root: Any) -> Json:
    """Definitions that each refer to the next one twice, through this keyword."""
    defs: Json = {f"d{depth}": {"type": "string", "minLength": 5}}
    for level in range(depth):
        following = {"$ref": f"#/$defs/d{level + 1}"}
        defs[f"d{level}"] = _twice(keyword, following, level)
    return {"type": "object", "properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": defs, **root}


def _twice(keyword: str, following: Json, level: int) -> Json:
    match keyword:
        case "anyOf" | "oneOf" | "allOf":
            return {keyword: [following, following]}
        case "not":
            return {"not": {"anyOf": [following, following]}}
        case "if":
            return {"if": following, "then": following, "else": following}
        case "dependentSchemas" | "dependencies":
            return {keyword: {"a": following, "b": following}}
        case "propertyNames":
            return {"anyOf": [{"propertyNames": following}, following]}
        case "unevaluatedProperties":
            return {"allOf": [following, following], "unevaluatedProperties": following}
    raise AssertionError(keyword)


def renamed(schema: Any, pairs: dict[str, str]) -> Any:
    """The schema with keys and references replaced."""
    if isinstance(schema, dict):
        return {pairs.get(key, key): renamed(value, pairs) for key, value in schema.items()}
    if isinstance(schema, list):
        return [renamed(each, pairs) for each in schema]
    if isinstance(schema, str):
        for before, after in pairs.items():
            schema = schema.replace(before, after)
    return schema


def anchored(kind: str, reference: str) -> Json:
    schema = doubling("anyOf")
    for name, each in schema["$defs"].items():
        each[kind] = name
    return dict(renamed(schema, {"#/$defs/": "#", "$ref": reference}))


def nested(levels: int, make: Any, inside: Any) -> Any:
    for _ in range(levels):
        inside = make(inside)
    return inside


def tree(keyword: str) -> Json:
    """A recursive schema that checks each part of the value twice."""
    match keyword:
        case "items" | "contains":
            again: Json = {keyword: {"$ref": "#/$defs/t"}}
        case "properties" | "patternProperties":
            again = {keyword: {"a": {"$ref": "#/$defs/t"}}}
        case _:
            again = {keyword: {"$ref": "#/$defs/t"}}
    number = {"type": "integer"}
    return {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/t"}},
        "$defs": {"t": {"anyOf": [number, {"allOf": [again, again]}, {"allOf": [again, again]}]}},
    }


def patterned(pattern: str, text: str, refused: bool = False) -> Costly:
    schema = {"type": "object", "properties": {"x": {"type": "string", "pattern": pattern}}}
    return Costly(schema, {"x": text}, refused)


DEEP_LISTS = {"x": nested(40, lambda inside: [inside], "end")}
DEEP_OBJECTS = {"x": nested(40, lambda inside: {"a": inside}, "end")}
SHORT = {"x": "no"}
BOTH = {"x": {"a": 1, "b": 2}}
MANY = 20_000

COSTLY: dict[str, Costly] = {
    **{
        f"doubling through {keyword}": Costly(doubling(keyword), arguments)
        for keyword, arguments in (
            ("anyOf", SHORT), ("oneOf", SHORT), ("allOf", SHORT), ("not", SHORT), ("if", SHORT),
            ("dependentSchemas", BOTH), ("dependencies", BOTH), ("propertyNames", BOTH),
            ("unevaluatedProperties", BOTH),
        )
    },
    "doubling by draft 4": Costly(
        renamed(doubling("anyOf"), {"$defs": "definitions"})
        | {"$schema": "http://json-schema.org/draft-04/schema#"},
        SHORT,
    ),
    "doubling by draft 7": Costly(
        doubling("dependencies") | {"$schema": "http://json-schema.org/draft-07/schema#"}, BOTH
    ),
    "doubling through escaped pointers": Costly(renamed(doubling("anyOf"), {"#/$defs": "#/%24defs"}), SHORT),
    "doubling through anchors": Costly(anchored("$anchor", "$ref"), SHORT),
    "doubling through dynamic references": Costly(anchored("$dynamicAnchor", "$dynamicRef"), SHORT),
    "doubling through an absolute reference": Costly(
        renamed(doubling("anyOf"), {"#/$defs": "https://tools.test/s#/$defs"})
        | {"$id": "https://tools.test/s"},
        SHORT,
    ),
    "doubling inside another resource": Costly(
        {
            "type": "object",
            "properties": {"x": doubling("anyOf")["properties"]["x"] | {"$id": "https://tools.test/s"}},
            "$defs": doubling("anyOf")["$defs"],
        },
        SHORT,
    ),
    "doubling without references": Costly(
        {
            "type": "object",
            "properties": {"x": nested(12, lambda inside: {"anyOf": [inside, inside, {}]}, {"type": "null"})},
        },
        SHORT,
    ),
    **{
        f"a tree through {keyword}": Costly(tree(keyword), arguments, False)
        for keyword, arguments in (
            ("items", DEEP_LISTS), ("contains", DEEP_LISTS), ("properties", DEEP_OBJECTS),
            ("patternProperties", DEEP_OBJECTS), ("additionalProperties", DEEP_OBJECTS),
        )
    },
    "itself": Costly({"type": "object", "properties": {"x": {"$ref": "#/properties/x"}}}, SHORT),
    "itself by a detour": Costly(
        {
            "type": "object",
            "properties": {"x": {"allOf": [{"$ref": "#/$defs/y"}]}},
            "$defs": {"y": {"anyOf": [{"type": "null"}, {"not": {"$ref": "#/properties/x"}}]}},
        },
        SHORT,
    ),
    "a chain of references": Costly(
        {
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/d0"}},
            "$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(4000)} | {"d4000": {}},
        },
        SHORT,
    ),
    "many levels": Costly(
        {
            "type": "object",
            "properties": {"x": nested(44, lambda inside: {"anyOf": [inside]}, {"type": "integer"})},
        },
        SHORT,
        False,
    ),
    "a pattern that backtracks": patterned("^(a+)+$", "a" * 5000 + "!"),
    "a pattern with a back-reference": patterned(r"^(a*)*(b|\1)*c$", "a" * 60 + "!"),
    "a pattern with a look-ahead": patterned("^(?=(a+)+$)(?=(a|a)*$)", "a" * 60 + "!"),
    "a pattern with a look-behind": patterned("(?<=a)(a+)+$(?!b)", "a" * 3000 + "!"),
    "a pattern that is too large": patterned("(a{1000}){1000}", "a" * 5000, True),
    "a pattern that is too long": patterned("[ab]?" * 400, "ab" * 1000, True),
    "heavy patterns": Costly(
        {
            "type": "object",
            "properties": {f"p{n}": {"type": "string", "pattern": "(x?){200}[ab]{200}"} for n in range(200)},
        },
        {f"p{n}": "ab" * 50 for n in range(200)},
    ),
    "patterns of names": Costly(
        {"type": "object", "patternProperties": {f"^([a-z]+.)+{n}$": {} for n in range(100)}},
        {"abcdefgh" * 20 + str(n): 1 for n in range(100)},
        False,
    ),
    "many unlike items": Costly(
        {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}},
        {"x": [{"a": [n]} for n in range(MANY // 4)]},
        False,
    ),
    "many values": Costly(
        {"type": "object", "properties": {"x": {"items": {"enum": [f"v{n}" for n in range(8000)]}}}},
        {"x": [f"w{n}" for n in range(MANY // 4)]},
        False,
    ),
    "a constant list": Costly(
        {"type": "object", "properties": {"x": {"items": {"const": list(range(8000))}}}},
        {"x": [list(range(1000))] * 20},
        False,
    ),
    "many problems": Costly(
        {"type": "object", "properties": {"x": {"items": {"allOf": [{"type": "null"}] * 500}}}},
        {"x": list(range(MANY // 4))},
        False,
    ),
    "many problems of a long text": Costly(
        {"type": "object", "properties": {"x": {"allOf": [{"maxLength": 1}] * 3000}}},
        {"x": "a" * 600_000},
        False,
    ),
    "many divisions of extreme numbers": Costly(
        {"type": "object", "properties": {"x": {"items": {"allOf": [{"multipleOf": 5e-324}] * 30}}}},
        {"x": [1.7e308] * 900},
        False,
    ),
    "huge limits": Costly(
        {
            "type": "object",
            "properties": {
                "x": {"minItems": 10**15, "contains": {}, "minContains": 10**15, "minLength": 10**15,
                      "multipleOf": 1e-308}
            },
        },
        {"x": 1e308},
        False,
    ),
    "another document": Costly(
        {"type": "object", "properties": {"x": {"$ref": "http://127.0.0.1:1/schema.json"}}}, SHORT
    ),
    "a file": Costly({"type": "object", "properties": {"x": {"$ref": "file:///etc/passwd"}}}, SHORT),
    "no schema": Costly({"type": "object", "properties": 5}, SHORT),
    "a schema of schemas elsewhere": Costly(
        {"$schema": "http://127.0.0.1:1/meta.json", "type": "object", "properties": {"x": {"type": "null"}}},
        SHORT,
        False,
    ),
}  # fmt: skip
"""By description."""
