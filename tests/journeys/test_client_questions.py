"""The Python client answers the questions of agents: by a function, by a call, and by a link."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from perdure.client import ApiError, Client, Conflict, OpenQuestions, TurnFailed, TurnWaits, data_of
from perdure.domain.tools import CapabilityRef
from tests.command import script, use_simulated_model
from tests.journeys.linked import CAREFUL, deletion
from tests.journeys.test_questions import COLOUR, WHY, asking
from tests.server import Server


@pytest.fixture
async def client(sqlite_server: Server) -> AsyncIterator[Client]:
    async with Client(sqlite_server.url) as made:
        await use_simulated_model(made)
        yield made


async def answers_in(client: Client, session_id: str) -> list[list[str | None]]:
    """What the model read of the answers to each call."""
    events = await client.list_events(session_id, types=("tool.completed",))
    told = [json.loads(data_of(event).result[0].text)["answers"] for event in events]
    return [[each.get("answer") for each in answers] for answers in told]


def asks(*questions: dict[str, object]) -> str:
    return script(asking(*questions), {"text": "Thank you."})


async def waiting(client: Client, *questions: dict[str, object]) -> TurnWaits:
    """A session whose turn waits for answers."""
    session = await client.create_session()
    with pytest.raises(TurnWaits) as waits:
        await client.ask(session.id, asks(*questions))
    return waits.value


async def test_the_clients_function_answers_each_call(client: Client) -> None:
    asked: list[OpenQuestions] = []

    async def answer(questions: OpenQuestions) -> dict[str, str | None]:
        asked.append(questions)
        return {"colour": "red", "why": None}

    session = await client.create_session()
    steps = script(asking(COLOUR, WHY), asking(COLOUR, WHY, _id="q2"), {"text": "Thank you."})
    assert await client.ask(session.id, steps, answers=answer) == "Thank you."
    assert [(each.session_id, each.tool_call_id) for each in asked] == [
        (session.id, "q1"),
        (session.id, "q2"),
    ]
    assert [each.id for each in asked[0].questions] == ["colour", "why"]
    assert await answers_in(client, session.id) == [["red", None], ["red", None]]


async def test_a_function_that_is_not_async_answers_too(client: Client) -> None:
    session = await client.create_session()
    said = await client.ask(session.id, asks(COLOUR), answers=lambda _: {"colour": "blue"})
    assert said == "Thank you."
    assert await answers_in(client, session.id) == [["blue"]]


async def test_without_a_function_the_clients_turn_waits_and_is_resumed(client: Client) -> None:
    waits = await waiting(client, COLOUR)
    assert "Which colour" in str(waits)
    (asked,) = waits.questions
    again = await client.pending(waits.session_id)
    assert again is not None
    assert again.questions == (asked,)
    await client.answer_questions(waits.session_id, asked.tool_call_id, {"colour": "blue"})
    assert await client.resume(waits) == "Thank you."
    assert await client.pending(waits.session_id) is None


async def test_a_function_answers_what_a_turn_has_asked_before(client: Client) -> None:
    waits = await waiting(client, COLOUR)
    assert await client.resume(waits, answers=lambda _: {"colour": "red"}) == "Thank you."
    assert await answers_in(client, waits.session_id) == [["red"]]


async def test_a_function_is_not_asked_again_what_was_answered(client: Client) -> None:
    waits = await waiting(client, COLOUR)
    await client.answer_questions(waits.session_id, waits.questions[0].tool_call_id, {"colour": "blue"})
    assert await client.resume(waits) == "Thank you."
    asked: list[OpenQuestions] = []
    assert await client.resume(waits, answers=asked.append) == "Thank you."
    assert asked == []


async def test_a_function_that_leaves_a_question_to_others_lets_them_answer(client: Client) -> None:
    asked = asyncio.Event()

    def leave(_: OpenQuestions) -> None:
        asked.set()

    session = await client.create_session()
    async with asyncio.TaskGroup() as group:
        turn = group.create_task(client.ask(session.id, asks(COLOUR), answers=leave))
        await asked.wait()
        await client.answer_questions(session.id, "q1", {"colour": "blue"})
    assert turn.result() == "Thank you."


@pytest.mark.parametrize("how", ["answered", "cancelled"])
async def test_a_function_stops_once_its_question_is_closed(client: Client, how: str) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def think(_: OpenQuestions) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    session = await client.create_session()
    turn = asyncio.create_task(client.ask(session.id, asks(COLOUR), answers=think))
    await begun.wait()
    if how == "answered":
        (item,) = (await client.list_inbox(session_id=session.id)).data
        done = await client.answer_inbox_item(item.id, {"colour": "red"})
        assert done.outcome is not None
        assert done.outcome.status == "decided"
        assert await turn == "Thank you."
    else:
        await client.cancel(session.id)
        with pytest.raises(TurnFailed, match="cancelled"):
            await turn
    assert stopped.is_set()


async def test_an_answer_of_the_function_that_does_not_fit_ends_the_run(client: Client) -> None:
    session = await client.create_session()
    with pytest.raises(ApiError, match="must be one of") as refused:
        await client.ask(session.id, asks(COLOUR), answers=lambda _: {"colour": "green"})
    assert refused.value.code == "invalid_answer"
    assert await client.pending(session.id) is not None


async def test_an_answer_that_comes_second_is_no_error_of_the_run(client: Client) -> None:
    session = await client.create_session()

    async def late(asked: OpenQuestions) -> dict[str, str | None]:
        await client.answer_questions(session.id, asked.tool_call_id, {"colour": "blue"})
        return {"colour": "red"}

    assert await client.ask(session.id, asks(COLOUR), answers=late) == "Thank you."
    assert await answers_in(client, session.id) == [["blue"]]


async def test_a_link_is_read_and_answered_once(client: Client) -> None:
    waits = await waiting(client, COLOUR, WHY)
    (item,) = (await client.list_inbox(session_id=waits.session_id)).data
    made = await client.create_inbox_link(item.id)
    seen = await client.read_link(made.url)
    assert (seen.kind, seen.tool_name) == ("question", "ask_user")
    with pytest.raises(ApiError, match="must be one of"):
        await client.answer_by_link(made.url, {"colour": "green", "why": None}, seen.shown)
    with pytest.raises(ApiError, match="asks questions"):
        await client.decide_by_link(made.url, "allow", seen.shown)
    with pytest.raises(Conflict) as other:
        await client.answer_by_link(made.url, {"colour": "red", "why": None}, "0" * 64)
    assert other.value.code == "shown_differs"
    answers = {"colour": "red", "why": "Be\u200bcause."}
    assert (await client.answer_by_link(made.url, answers, seen.shown)).decision == "answer"
    assert await client.resume(waits) == "Thank you."
    assert await answers_in(client, waits.session_id) == [["red", "Because."]]
    with pytest.raises(ApiError) as gone:
        await client.answer_by_link(made.url, answers, seen.shown)
    assert gone.value.code == "link_gone"


async def test_a_link_that_asks_for_a_decision_takes_no_answers(client: Client) -> None:
    (given,) = CAREFUL["capabilities"]
    careful = CapabilityRef(given["ref"], given["config"])
    session = await client.create_session(capabilities=(careful,))
    with pytest.raises(TurnWaits):
        await client.ask(session.id, script({"tool_calls": [deletion()]}))
    (item,) = (await client.list_inbox(session_id=session.id)).data
    made = await client.create_inbox_link(item.id)
    seen = await client.read_link(made.url)
    with pytest.raises(ApiError, match="asks for a `decision`") as refused:
        await client.answer_by_link(made.url, {"colour": "red"}, seen.shown)
    assert refused.value.status == 400
    assert (await client.decide_by_link(made.url, "reject", seen.shown)).decision == "reject"
