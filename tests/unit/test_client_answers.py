"""Answers to an agent's questions when the connection breaks, or the server refuses them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.client import ApiError, Client, OpenQuestions
from tests.unit.fake_server import FakeServer, Handler, Reply, Request, answers, cuts, script
from tests.unit.test_client_follow import MESSAGE, MESSAGE_ID, SESSION_ID, TURN, event, frame
from tests.unit.test_client_own_calls import ACCEPTED, problem

PARKED = {
    "tool_call_id": "q1",
    "tool_name": "ask_user",
    "kind": "question",
    "timeout_ms": 60_000,
    "questions": [{"id": "why", "type": "text", "question": "Why?"}],
}
DONE = {"tool_call_id": "q1", "tool_name": "ask_user", "success": True, "status": "success"}


class Scene:
    """A server whose session asks a question, and that takes answers as it is told."""

    def __init__(self, *to_answers: Handler, later: tuple[dict[str, Any], ...] = ()) -> None:
        self.asked: list[OpenQuestions] = []
        self._settled = asyncio.Event()
        self._to_answers = script(*to_answers) if to_answers else None
        self._left = len(to_answers)
        self._later = list(later)

    async def handle(self, request: Request, reply: Reply) -> None:
        if request.path.endswith("/messages"):
            await reply.json(201, {**MESSAGE, "sequence": 2})
        elif request.path.endswith("/events"):
            after = "after_sequence" in request.query
            await reply.json(200, {"data": self._later if after else [event(1)]})
            if after and self._later:
                self._settled.set()
        elif request.path.endswith("/sse"):
            await reply.stream(
                frame(2, "input.message", {"message": MESSAGE}),
                frame(3, "turn.started", input_message_id=MESSAGE_ID),
                frame(4, "tool.parked", PARKED),
            )
            await self._settled.wait()
            await reply.frames(
                frame(5, "tool.completed", DONE), frame(6, "turn.completed", {"turn_id": TURN})
            )
            await reply.silence()
        elif self._to_answers is not None:
            self._left -= 1
            await self._to_answers(request, reply)
            if not self._left:
                self._settled.set()

    async def run(self) -> list[Any]:
        """Have a function answer; what was sent."""

        def answer(asked: OpenQuestions) -> dict[str, str | None]:
            self.asked.append(asked)
            return {"why": "So."}

        async with FakeServer(self.handle) as server, Client(server.url, retries=0) as client:
            await client.ask(SESSION_ID, "hi", answers=answer)
        sent = [request for request in server.requests if request.path.endswith("/tool-results")]
        return [request.json()["tool_results"] for request in sent]


@pytest.mark.parametrize(
    "to_answers",
    [
        (answers(200, ACCEPTED),),
        (cuts(), answers(200, ACCEPTED)),
        (cuts(), problem(409, "questions_closed")),
        (problem(503, "unavailable"), answers(200, ACCEPTED)),
        (problem(409, "not_waiting_for_tool_results"),),
    ],
    ids=["accepted", "lost", "answer lost", "busy", "others were faster"],
)
async def test_an_answer_arrives_whatever_happens_to_the_request_and_is_asked_for_once(
    to_answers: tuple[Handler, ...],
) -> None:
    scene = Scene(*to_answers)
    sent = await scene.run()
    assert sent == [[{"tool_call_id": "q1", "result": {"answers": {"why": "So."}}}]] * len(to_answers)
    (asked,) = scene.asked
    assert (asked.session_id, asked.tool_call_id) == (SESSION_ID, "q1")
    assert asked.until == "2026-03-14T09:27:53.589793Z"


async def test_an_answer_that_the_server_refuses_ends_the_turn_of_the_program_with_its_reason() -> None:
    scene = Scene(problem(400, "invalid_answer"), answers(200, ACCEPTED))
    with pytest.raises(ApiError) as caught:
        await scene.run()
    assert (caught.value.code, len(scene.asked)) == ("invalid_answer", 1)


@pytest.mark.parametrize(
    "later", [event(5, "tool.completed", DONE), event(5, "turn.cancelled", {"turn_id": TURN})]
)
async def test_nobody_is_asked_what_has_ended_since(later: dict[str, Any]) -> None:
    scene = Scene(later=(later,))
    assert await scene.run() == []
    assert scene.asked == []
