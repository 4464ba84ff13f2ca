"""Checks the arguments of tool calls against the tools' schemas.

Clients, plug-ins and remote servers write the schemas, and models write the arguments, so a check may cost
any amount of time and stack. Only what is known to be cheap is checked here. Everything else is checked in a
process of the sandbox, which is killed after a while. That also holds for schemas of older releases that
would be refused today: a session whose log already has such a call must not hang the server again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from perdure.domain.errors import PerdureError, ToolError
from perdure.domain.json_schemas import compile_schema, problems_of
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.schema_cost import Cost, Unbounded, cost_of
from perdure.domain.tool_arguments import why_not_an_object
from perdure.domain.tool_schemas import MAX_SCHEMA
from perdure.sandbox.arguments import SECONDS, ArgumentsJob, Checked
from perdure.sandbox.pool import Sandbox
from perdure.store.rows import to_json

if TYPE_CHECKING:
    from jsonschema_rs import Validator

log = logging.getLogger("perdure.arguments")

KEPT_BYTES = 32 << 20
"""Approximate memory of the compiled schemas that are kept."""

SHARES = (2, 1)
"""Checks in the sandbox that one organization, and one session, may have at a time: each may use a whole
processor."""

INVALID_SCHEMA = "invalid_tool_schema"
"""The error code of a call of a tool whose schema is none."""


class _Compiled(Struct, frozen=True):
    """A schema that is cheap enough to be compiled here.

    Attributes:
        validator: None if it has patterns that only the sandbox may match, or is not valid.
    """

    validator: Validator | None
    cost: Cost
    size: int


class ArgumentChecks:
    """Checks arguments, and keeps the compiled schemas."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._kept: dict[str, _Compiled] = {}
        self._size = 0

    async def check(
        self, owners: tuple[str, ...], parameters: JsonObject, arguments: JsonValue
    ) -> JsonObject:
        """Check a call's arguments against the tool's JSON Schema, `parameters`.

        Args:
            owners: the organization and the session of the call.

        Raises:
            PerdureError: `invalid_arguments`; the message lists up to five problems, for the model.
                `invalid_tool_schema`: nothing can be checked.
        """
        if isinstance(arguments, str):
            raise PerdureError(why_not_an_object(arguments), code="invalid_arguments")
        schema = to_json(parameters)
        known = self._compiled(schema, parameters)
        if known is not None and known.validator is not None and known.cost.is_small(arguments):
            problems: list[str] | None = problems_of(known.validator, arguments)
        else:
            problems = await self._check_apart(owners, schema, arguments)
        if problems is None:
            raise PerdureError("The tool's schema is not valid.", code=INVALID_SCHEMA)
        if problems:
            raise PerdureError("Invalid arguments. " + "; ".join(problems), code="invalid_arguments")
        if not isinstance(arguments, dict):
            raise PerdureError("The arguments must be a JSON object.", code="invalid_arguments")
        return arguments

    def _compiled(self, schema: str, parameters: JsonObject) -> _Compiled | None:
        known = self._kept.get(schema)
        if known is not None or len(schema) > MAX_SCHEMA:
            return known
        try:
            cost = cost_of(parameters)
            if cost.recursive:
                return None
        except Unbounded:
            return None
        try:
            validator: Validator | None = compile_schema(parameters, linear=True)
        except ValueError:
            validator = None
        known = _Compiled(validator, cost, 2 * len(schema) + 1000 * cost.steps + 200 * cost.states)
        self._keep(schema, known)
        return known

    def _keep(self, schema: str, compiled: _Compiled) -> None:
        self._kept[schema] = compiled
        self._size += compiled.size
        while self._size > KEPT_BYTES and len(self._kept) > 1:
            self._size -= self._kept.pop(next(iter(self._kept))).size

    async def _check_apart(
        self, owners: tuple[str, ...], schema: str, arguments: JsonValue
    ) -> list[str] | None:
        job = ArgumentsJob(schema.encode(), _encoded(arguments))
        names = tuple(f"{owner}/arguments" for owner in owners)
        async with self._sandbox.slot(names, len(job.schema) + len(job.value), SHARES):
            try:
                async with asyncio.timeout(SECONDS):
                    return (await self._sandbox.run(job, Checked, SECONDS)).problems
            except (TimeoutError, ToolError):
                log.warning("arguments of a tool could not be checked: its schema costs too much")
                raise PerdureError(
                    "The arguments could not be checked in time: the tool's schema is too complex. "
                    "Call it with simpler arguments, or do without it.",
                    code="invalid_arguments",
                ) from None


def _encoded(arguments: JsonValue) -> bytes:
    try:
        return msgspec.json.encode(arguments)
    except (OverflowError, ValueError):  # an integer of more than 64 bits, or half a surrogate pair
        return json.dumps(arguments).encode()
