"""The route that runs any other route under the name of a command."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Raw, Struct

from perdure.api.kernel.call import Call, Reply
from perdure.api.kernel.route import route
from perdure.domain.messages import JsonObject, JsonValue


class RunCommand(Struct, frozen=True):
    """The body of `POST /v1/commands/{command}`."""

    params: Annotated[
        dict[str, Raw],
        Meta(description="The values of the route's path, query and body, by name."),
    ] = {}
    metadata: Annotated[
        JsonObject | None, Meta(description="What the client notes about the command. Not stored.")
    ] = None
    reason: Annotated[
        Annotated[str, Meta(max_length=1000)] | None,
        Meta(description="Why the command is run, for the audit log."),
    ] = None


class CommandResult(Struct, frozen=True, omit_defaults=True):
    """What a command returns."""

    output: Annotated[
        JsonValue,
        Meta(
            description=("The route's response: JSON as it is, text as a string, null if it is empty."),
            examples=[{"total": 0}],
        ),
    ]
    warnings: Annotated[
        tuple[str, ...], Meta(description="The parameters and fields that the route ignored.")
    ] = ()


@route(
    "POST",
    "/v1/commands/{command}",
    "system",
    errors=(403, 404, 409, 412),
    body_example={"params": {}},
    command=True,
)
async def run_command(call: Call, command: str, body: RunCommand) -> CommandResult | Reply:
    """Run a command.

    Runs one of this server's routes under a name: its operation id, or the name that command-line clients of
    this API use. `params` has the values of the path's variables; the others go into the query of a GET or
    DELETE, and into the body otherwise. The result, the errors, the limits, the events and the
    Idempotency-Key are those of the route. The status of a success is always 200. Streams and downloads are
    refused.
    """
    call.reason = body.reason
    return await call.run_command(call, command, body.params)


ROUTES = (run_command,)
