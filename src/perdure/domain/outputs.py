"""Typed results: the JSON Schema that a turn's final answer must match."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

MAX_CORRECTIONS = 2
"""How often the model may correct an answer that does not match the schema."""

MAX_OUTPUT_SCHEMA = 64 * 1024
"""Bytes of a schema of final answers, as JSON."""

OutputSchema = dict[str, Any]


class NamedSchema(Struct, frozen=True, omit_defaults=True):
    """The schema in a `response_format`."""

    schema: Annotated[OutputSchema, Meta(description="The JSON Schema of the answer.")]
    name: Annotated[str | None, Meta(description="A name for it.")] = None
    description: Annotated[str | None, Meta(description="What the answer is. Accepted and ignored.")] = None
    strict: Annotated[bool | None, Meta(description="Accepted and ignored: answers always match.")] = None


class ResponseFormat(Struct, frozen=True):
    """An `output_schema` in the form that clients of model vendors know."""

    type: Annotated[Literal["json_schema"], Meta(description="Always `json_schema`.")]
    json_schema: Annotated[NamedSchema, Meta(description="The schema.")]
