"""The port of tools: what each is, and what it gets when it is called."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from msgspec import Struct

from perdure.app.confidential import check_reader
from perdure.app.context import App
from perdure.app.feed import Frame
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import SessionId, check_id
from perdure.domain.messages import JsonObject
from perdure.doors.mcp.schemas import plain_schema, result_schema

A = TypeVar("A", bound=Struct)
R = TypeVar("R", bound=Struct)


class Visit(Struct, frozen=True):
    """What a tool gets with each call.

    Attributes:
        stop: set when the client has left or the server shuts down: a tool then waits no longer.
        see: called with events of the session while a tool waits; None if the client wants no progress.
    """

    app: App
    caller: Caller
    stop: asyncio.Event
    see: Callable[[Frame], None] | None


class Hints(Struct, frozen=True, rename="camel"):
    """What effects a tool has, for the clients that ask people about it."""

    read_only_hint: bool
    destructive_hint: bool
    idempotent_hint: bool
    open_world_hint: bool


READS = Hints(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
WORKS = Hints(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)
"""A model works with tools of its own, which reach what the agent may reach."""
DECIDES = Hints(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True)
STOPS = Hints(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)


class Tool(Struct, frozen=True):
    """One tool.

    Attributes:
        definition: what `tools/list` says about it.
        call: runs it.
    """

    name: str
    definition: JsonObject
    call: Callable[[Visit, JsonObject], Awaitable[Struct]]


def tool(
    name: str,
    title: str,
    hints: Hints,
    arguments: type[A],
    result: type[R],
    run: Callable[[Visit, A], Awaitable[R]],
    description: str | None = None,
    *,
    described: bool = True,
) -> Tool:
    """Build a tool from its arguments, its result and what it does.

    Args:
        description: what models read about it; by default the docstring of its arguments.
        described: whether the schema of the result says what its fields mean.
    """

    async def call(visit: Visit, given: JsonObject) -> Struct:
        return await run(visit, arguments_of(arguments, given))

    definition = {
        "name": name,
        "title": title,
        "description": description or " ".join((arguments.__doc__ or "").split()),
        "inputSchema": plain_schema(arguments),
        "outputSchema": result_schema(result, described=described),
        "annotations": msgspec.to_builtins(hints),
    }
    return Tool(name, definition, call)


async def open_session(visit: Visit, text: str, *, writes: bool = True) -> SessionId:
    """Read a session's id. Raises InvalidInput, and NotFound: the session is closed to the caller."""
    session_id = check_id(text, "session", "session_id")
    await check_reader(visit.app, visit.caller, session_id, writes=writes)
    return session_id


def arguments_of(kind: type[A], given: JsonObject) -> A:
    """Check the arguments of a call. Raises InvalidInput."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        reason = str(error).replace("`$.", "`").replace("`$`", "the arguments")[:300]
        raise InvalidInput(f"the arguments do not fit: {reason}", code="invalid_arguments") from None
