"""Routes of runs: send a message and wait for the result of its turn."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Answer, Call
from perdure.api.kernel.patience import while_connected
from perdure.api.kernel.route import route
from perdure.app import runs as use
from perdure.domain.ids import MAX_SEQUENCE, SessionId
from perdure.domain.runs import MAX_WAIT, CreateRun, RunResult, StartedRun

_WAIT = Meta(description="How many seconds to wait for the end of the turn at most.")
Seconds = Annotated[int, Meta(ge=0, le=MAX_WAIT)]


class WaitForResult(Struct, frozen=True):
    """Query parameters of a message that is sent."""

    wait: Annotated[Seconds | None, _WAIT] = None


class WaitForRun(Struct, frozen=True):
    """Query parameters of a run."""

    wait: Annotated[Seconds, _WAIT] = 0


class ReadResult(Struct, frozen=True):
    """Query parameters of a result."""

    sequence: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_SEQUENCE)] | None,
        Meta(description="The sequence number of the message. Default: the newest message of the session."),
    ] = None
    wait: Annotated[Seconds, _WAIT] = 0


async def wait_for(call: Call, run: StartedRun, seconds: int) -> Answer[RunResult]:
    """Wait for a run, and return the response with its result: 202 if its turn has not ended."""
    return await _result(call, run.session_id, run.sequence, seconds)


async def _result(call: Call, session_id: SessionId, sequence: int | None, seconds: int) -> Answer[RunResult]:
    waiting = use.wait_for_result(call.app, call.caller, session_id, sequence, seconds)
    result = await (while_connected(call, waiting) if seconds else waiting)
    return Answer(result, 200 if result.has_ended else 202)


@route(
    "POST",
    "/v1/runs",
    "messages",
    status=202,
    other=(200,),
    replayable=True,
    errors=(404,),
    body_example={"message": "What is the capital of France?", "metadata": {"customer": "4711"}},
)
async def create_run(call: Call, query: WaitForRun, body: CreateRun) -> Answer[RunResult]:
    """Start a session with its first message.

    With `wait`, the response is the result of the message's turn: 200 if the turn has ended, also if it has
    failed; 202 with links if the time is up or somebody must answer first. The session is one like any other,
    and goes on whatever becomes of the request. A repetition with the same Idempotency-Key starts nothing,
    and waits again.
    """
    return await wait_for(call, await use.start(call.app, call.caller, body, call.once), query.wait)


@route("GET", "/v1/sessions/{session_id}/result", "messages", other=(202,), errors=(404,))
async def get_session_result(call: Call, session_id: SessionId, query: ReadResult) -> Answer[RunResult]:
    """Read or await the result of a message's turn.

    200 if the turn has ended, also if it has failed; 202 if it has not when the time is up, or if somebody
    must answer first.
    """
    return await _result(call, session_id, query.sequence, query.wait)


ROUTES = (create_run, get_session_result)
