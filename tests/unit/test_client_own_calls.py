"""Results of the program's own tools when the connection breaks, or the server refuses them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.client import ApiError, Client, tool
from tests.unit.fake_server import FakeServer, Handler, Reply, Request, answers, cuts, script
from tests.unit.test_client_follow import MESSAGE, MESSAGE_ID, SESSION_ID, TURN, event, frame

CALL = {"id": "call_1", "name": "count", "arguments": {}}
REQUESTED = {"tool_calls": [CALL], "timeout_ms": 300_000}
ACCEPTED = {"accepted": 1, "status": "active"}


def problem(status: int, code: str) -> Handler:
    return answers(status, {"code": code, "detail": code, "status": status})


class Scene:
    """A server whose session asks for a call of `count`, and that answers results as it is told."""

    def __init__(self, *to_results: Handler) -> None:
        self.ran = 0
        self.submitted = asyncio.Event()
        self.settled = asyncio.Event()
        self._to_results = script(*to_results)
        self._left = len(to_results)

    async def handle(self, request: Request, reply: Reply) -> None:
        if request.path.endswith("/messages"):
            await reply.json(201, {**MESSAGE, "sequence": 2})
        elif request.path.endswith("/events"):
            older = [] if "after_sequence" in request.query else [event(1)]
            await reply.json(200, {"data": older})
        elif request.path.endswith("/sse"):
            await self._stream(reply)
        elif request.path == "/health":
            self.settled.set()
            await reply.json(200, {})
        else:
            self._left -= 1
            await self._to_results(request, reply)
            if not self._left:
                self.submitted.set()

    async def _stream(self, reply: Reply) -> None:
        await reply.stream(
            frame(2, "input.message", {"message": MESSAGE}),
            frame(3, "turn.started", input_message_id=MESSAGE_ID),
            frame(4, "tool.call_requested", REQUESTED),
            # A second connection, or a faulty server, sends it again.
            frame(4, "tool.call_requested", REQUESTED),
        )
        await self.submitted.wait()
        await reply.frames(frame(5, "session.updated", {}))
        await self.settled.wait()
        await reply.frames(frame(6, "turn.completed", {"turn_id": TURN}))
        await reply.silence()

    async def run(self) -> list[Any]:
        @tool
        async def count() -> int:
            """Count."""
            self.ran += 1
            return self.ran

        async with FakeServer(self.handle) as server, Client(server.url, retries=0) as client:
            async for one in client.run(SESSION_ID, "hi", tools=[count]):
                if one.type == "session.updated":  # a round trip later, an error would have been raised
                    await client.health()
        sent = [request for request in server.requests if request.path.endswith("/tool-results")]
        return [request.json()["tool_results"] for request in sent]


@pytest.mark.parametrize(
    "to_results",
    [
        (answers(200, ACCEPTED),),
        (cuts(), answers(200, ACCEPTED)),
        (cuts(), problem(409, "not_waiting_for_tool_results")),
        (problem(503, "unavailable"), cuts(), problem(400, "unknown_tool_call")),
        (problem(409, "not_waiting_for_tool_results"),),
    ],
    ids=["accepted", "lost", "answer lost", "busy", "others were faster"],
)
async def test_a_result_arrives_whatever_happens_to_the_request_and_its_call_runs_once(
    to_results: tuple[Handler, ...],
) -> None:
    scene = Scene(*to_results)
    sent = await scene.run()
    assert sent == [[{"tool_call_id": "call_1", "result": 1}]] * len(to_results)
    assert scene.ran == 1


async def test_results_that_cannot_be_submitted_end_the_run_with_the_servers_reason() -> None:
    scene = Scene(problem(403, "forbidden"), answers(200, ACCEPTED))
    with pytest.raises(ApiError) as caught:
        await scene.run()
    assert (caught.value.code, scene.ran) == ("forbidden", 1)
