"""The forms in which models are asked for typed results.

Vendors want the schema of an object. Any other schema is wrapped in one with a single property, which is
taken away again from the answer.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import count
from typing import Any

from msgspec import Struct

from perdure.domain.messages import JsonObject
from perdure.domain.outputs import OutputSchema
from perdure.domain.schema_cost import REFERENCES, SUBSCHEMAS, Unbounded
from perdure.domain.tokens import text_tokens
from perdure.domain.tool_schemas import NOT_AT_TOP, inlined
from perdure.llm.driver import OutputFormat, ToolSpec
from perdure.llm.outputs import NAME
from perdure.store.rows import to_json

WRAPPER = "value"
"""The property that holds a value that is no object."""

KEPT_BYTES = 4 << 20
"""Bytes of the schemas, as JSON, whose forms are kept."""

_DESCRIPTION = (
    "Gives the final answer. Call it once, alone, when the work is done; its arguments are the answer."
)


class TypedOutput(Struct, frozen=True):
    """A schema that is set for the final answer.

    Attributes:
        text: the schema as JSON.
        wrapped: whether the form wraps the value.
        tokens: the estimated tokens of the schema.
    """

    schema: OutputSchema
    text: str
    form: OutputFormat
    wrapped: bool
    tokens: int

    def instruction(self) -> str:
        """What tells a model the schema in words."""
        return (
            "The final answer must be JSON, without any other text, that matches this JSON Schema:\n"
            f"{to_json(self.form.schema)}"
        )


class OutputFormats:
    """Makes the forms of schemas, and keeps the most recent ones."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], TypedOutput] = {}
        self._size = 0

    def typed(self, schema: OutputSchema, taken: Collection[str]) -> TypedOutput:
        """Return the form of a schema. `taken`: the names of the agent's tools."""
        names = (NAME if number == 1 else f"{NAME}_{number}" for number in count(1))
        # A call of `finalResult`, if the agent has such a tool, must not pass for the answer.
        spellings = _spelled("/".join(taken))
        tool = next(name for name in names if _spelled(name) not in spellings)
        text = to_json(schema)
        known = self._kept.get((text, tool))
        if known is None:
            known = self._kept[text, tool] = _typed(schema, text, tool)
            self._size += len(text)
            while self._size > KEPT_BYTES and len(self._kept) > 1:
                oldest = next(iter(self._kept))
                self._size -= len(oldest[0])
                del self._kept[oldest]
        return known


def _spelled(names: str) -> str:
    """Names without what misspelt ones differ in, as in `repair_name`. Fast: an agent may have hundreds."""
    return names.lower().replace("_", "").replace("-", "")


def _typed(schema: OutputSchema, text: str, tool: str) -> TypedOutput:
    wrapped = not _is_object(schema)
    whole = _wrapped(schema) if wrapped else schema
    form = OutputFormat(whole, ToolSpec(tool, _DESCRIPTION, whole))
    return TypedOutput(schema, text, form, wrapped, text_tokens(text))


def _is_object(schema: OutputSchema) -> bool:
    """Whether vendors take the schema as it is."""
    try:
        top = inlined(schema)
    except Unbounded:
        return False
    return top.get("type") == "object" and not any(keyword in top for keyword in NOT_AT_TOP)


def _wrapped(schema: OutputSchema) -> JsonObject:
    identity = schema.get("$id", "")
    inner = _moved(schema, identity.partition("#")[0])
    top = {"$schema": schema.get("$schema"), "$defs": inner.pop("$defs", None)}
    wrapper: JsonObject = {
        "type": "object",
        "properties": {WRAPPER: inner},
        "required": [WRAPPER],
        "additionalProperties": False,
    }
    return wrapper | {keyword: value for keyword, value in top.items() if value is not None}


def _moved(schema: Any, base: str) -> Any:
    """The schema with its references as they are inside the wrapper; `$defs` stay at the top.

    Args:
        base: the address of the schema, with which its references may begin.
    """
    if not isinstance(schema, dict):
        return schema
    moved: JsonObject = {}
    for keyword, value in schema.items():
        kind = SUBSCHEMAS.get(keyword)
        if keyword in REFERENCES and isinstance(value, str):
            moved[keyword] = _reference(value.removeprefix(base) or "#")
        elif isinstance(value, list) and (kind == "list" or keyword == "items"):
            moved[keyword] = [_moved(each, base) for each in value]
        elif kind == "map" and isinstance(value, dict):
            moved[keyword] = {name: _moved(each, base) for name, each in value.items()}
        elif kind == "one":
            moved[keyword] = _moved(value, base)
        elif keyword not in ("$schema", "$id"):
            moved[keyword] = value
    return moved


def _reference(reference: str) -> str:
    if reference.startswith("#/$defs/") or not (reference == "#" or reference.startswith("#/")):
        return reference
    return f"#/properties/{WRAPPER}{reference[1:]}"
