"""Questions of agents to people (`ask_user`): asked, answered, declined, and left to their deadline."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.journeys.people import get
from tests.server import post
from tests.talk import Json, Talk, call, kinds_of, new_talk, script

SECRET = "hunter-2-is-not-it"
COLOUR: Json = {
    "id": "colour",
    "type": "choice",
    "question": "Which colour?",
    "options": [{"label": "red"}, {"label": "blue", "recommended": True}],
}
WHY: Json = {"id": "why", "type": "text", "question": "Why?"}
TOKEN: Json = {"id": "token", "type": "secret", "question": "Your token?", "secret_name": "SHOP_TOKEN"}


def asking(*questions: Json, _id: str = "q1") -> Json:
    return {"tool_calls": [call("ask_user", _id, questions=list(questions))]}


async def asked(talk: Talk, *questions: Json) -> Json:
    """Have the agent ask, and wait until the session does nothing else; its item of the inbox."""
    message = await talk.say(script(asking(*questions), {"text": "Thank you."}))
    await talk.logged_until("act.completed", after=message["sequence"])
    (item,) = (await get(talk.http, "/v1/inbox", session_id=talk.id))["data"]
    return dict(item)


async def result_of(talk: Talk, call_id: str = "q1") -> Any:
    """What the model read of the answers."""
    await talk.logged_until("session.idled")
    (done,) = [
        event["data"]
        for event in await talk.events(types="tool.completed")
        if event["data"]["tool_call_id"] == call_id
    ]
    return json.loads(done["result"][0]["text"]) if "result" in done else done["error"]


async def test_a_question_parks_the_session_and_its_answers_end_the_call(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    item = await asked(talk, COLOUR, WHY, TOKEN)
    session = await talk.read()
    assert session["status"] == "waiting_for_tool_results"
    assert [(each["kind"], each["tool_name"]) for each in session["parked_on"]] == [("question", "ask_user")]
    assert (item["kind"], item["summary"]) == ("question", "Which colour? (and 2 more questions)")
    assert [each["id"] for each in item["questions"]] == ["colour", "why", "token"]
    answers = {"colour": "red", "why": f"Because {SECRET}.", "token": SECRET}
    done = await talk.answer({"tool_call_id": "q1", "result": {"answers": answers}})
    assert done == {"accepted": 1, "status": "active"}
    told = await result_of(talk)
    assert told["answers"] == [
        {"id": "colour", "status": "answered", "answer": "red"},
        {"id": "why", "status": "answered", "answer": "Because [secret SHOP_TOKEN]."},
        {"id": "token", "status": "stored", "secret": "SHOP_TOKEN"},
    ]
    assert (await get(api, talk.path("/storage/secrets")))["data"][0]["name"] == "SHOP_TOKEN"
    assert SECRET not in json.dumps(await talk.events())
    assert kinds_of(await talk.events())[-2:] == ["turn.completed", "session.idled"]
    outcome = (await get(api, f"/v1/inbox/{item['id']}"))["outcome"]
    assert (outcome["status"], outcome["answered"]["via"]) == ("decided", "api")


async def test_the_inbox_answers_once(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    item = await asked(talk, COLOUR, WHY)
    done = await post(api, item["links"]["decide"], {"answers": {"colour": "blue", "why": None}}, status=200)
    assert done["outcome"]["status"] == "decided"
    assert (await result_of(talk))["answers"][1] == {"id": "why", "status": "declined"}
    again = await post(api, item["links"]["decide"], {"answers": {"colour": "red", "why": "x"}}, status=409)
    assert again["code"] == "already_decided"
