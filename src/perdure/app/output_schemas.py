"""The schemas that are set for final answers: checked when they are saved."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import UNSET, UnsetType

from perdure.app.tool_definitions import LARGE
from perdure.domain.errors import InvalidInput
from perdure.domain.messages import Controls
from perdure.domain.outputs import MAX_OUTPUT_SCHEMA, OutputSchema, ResponseFormat
from perdure.domain.tool_schemas import SchemaBudget, check_any_schema

CODE = "invalid_output_schema"


async def checked_output(
    schema: OutputSchema | None, form: ResponseFormat | None, where: str = ""
) -> OutputSchema | None:
    """Return the schema that `output_schema` or `response_format` sets.

    Args:
        where: the path of the two fields, with a dot at its end.

    Raises:
        InvalidInput: both are set, or the schema is not valid, too large or too costly to check.
    """
    if schema is not None and form is not None:
        raise InvalidInput(
            f"set either `{where}output_schema` or `{where}response_format`, not both",
            field=f"{where}response_format",
        )
    path = f"{where}output_schema"
    if form is not None:
        schema, path = form.json_schema.schema, f"{where}response_format.json_schema.schema"
    if schema is None:
        return None
    size = len(msgspec.json.encode(schema))
    if size > MAX_OUTPUT_SCHEMA:
        raise InvalidInput(
            f"`{path}` has {size} bytes of JSON, and may have at most {MAX_OUTPUT_SCHEMA}",
            code=CODE,
            field=path,
        )
    if size > LARGE:
        await asyncio.to_thread(_check, schema, path)
    else:
        _check(schema, path)
    return schema


def _check(schema: OutputSchema, path: str) -> None:
    try:
        check_any_schema(schema, path, SchemaBudget())
    except InvalidInput as error:
        raise InvalidInput(error.message, code=CODE, field=error.field) from None


async def changed_output(
    schema: OutputSchema | None | UnsetType, form: ResponseFormat | None | UnsetType
) -> OutputSchema | None | UnsetType:
    """Return what a change sets; UNSET if it has neither field. Raises as `checked_output`."""
    if schema is UNSET and form is UNSET:
        return UNSET
    return await checked_output(None if schema is UNSET else schema, None if form is UNSET else form)


async def checked_controls(controls: Controls | None) -> Controls | None:
    """Return a message's options with the schema in `output_schema`. Raises as `checked_output`."""
    if controls is None or (controls.output_schema is None and controls.response_format is None):
        return controls
    schema = await checked_output(controls.output_schema, controls.response_format, "controls.")
    return msgspec.structs.replace(controls, output_schema=schema, response_format=None)
