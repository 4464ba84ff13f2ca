"""Questions of agents to people (`ask_user`): asked, answered, declined, and left to their deadline."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest

from tests.journeys.families import CAPABILITIES, spawns, task_in
from tests.journeys.linked import link_to
from tests.journeys.people import elsewhere, get
from tests.mcp_client import use_tool
from tests.server import post
from tests.talk import Json, Talk, call, kinds_of, new_talk, script, text_in

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


def results_of(answers: Json) -> Json:
    """The body that answers over `tool-results`."""
    return {"tool_results": [{"tool_call_id": "q1", "result": {"answers": answers}}]}


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


WRONG: tuple[tuple[Json, str], ...] = (
    ({}, "colour`: it is missing"),
    ({"colour": "red", "token": None}, "why`: it is missing"),
    ({"colour": SECRET, "why": "x", "token": None}, "colour`: it must be one of: 'red', 'blue'"),
    ({"colour": None, "why": " ", "token": None}, "why`: it is empty"),
    ({"colour": None, "why": "x" * 10_001, "token": None}, "it may have at most 10000 characters"),
    ({"colour": None, "why": None, "token": "abc"}, "a secret must have 4 to 32768 characters"),
    ({"colour": None, "why": None, "token": None, SECRET: "x"}, "a question that is not asked"),
)


async def test_wrong_answers_are_refused_without_being_shown_and_the_question_stays_open(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    item = await asked(talk, COLOUR, WHY, TOKEN)
    head = (await talk.events())[-1]["sequence"]
    link = await link_to(api, item["id"])
    shown = (await api.get(link)).json()["shown"]
    for answers, says in WRONG:
        for path, body in (
            (item["links"]["decide"], {"answers": answers}),
            (talk.path("/tool-results"), results_of(answers)),
            (link, {"shown": shown, "answers": answers}),
        ):
            refused = await api.post(path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (400, "invalid_answer")
            assert says in refused.json()["detail"]
            assert SECRET not in refused.text
    assert (await talk.events())[-1]["sequence"] == head
    await post(
        api, talk.path("/tool-results"), results_of({"colour": "red", "why": None, "token": None}), 200
    )
    assert (await result_of(talk))["answers"][0]["answer"] == "red"


async def test_other_bodies_are_refused(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    item = await asked(talk, COLOUR)
    for result in ("red", {"colour": SECRET}, {"answers": [SECRET]}, {"answers": {"colour": [SECRET]}}, None):
        refused = await talk.answer({"tool_call_id": "q1", "result": result}, status=400)
        assert refused["code"] == "invalid_answer"
        assert SECRET not in json.dumps(refused)
    right = {"tool_call_id": "q1", "result": {"answers": {"colour": "red"}}}
    for results in ([right, right], [right, {"tool_call_id": "other", "result": 1}]):
        assert (await talk.answer(*results, status=400))["code"] == "unknown_tool_call"
    for body, code in (
        ({}, "invalid_request"),
        ({"decision": "allow"}, "not_an_approval"),
        ({"decision": "allow", "answers": {"colour": "red"}}, "invalid_request"),
        ({"answers": {"colour": 1}}, "invalid_request"),
    ):
        refused = (await api.post(item["links"]["decide"], json=body)).json()
        assert refused["code"] == code
    assert (await talk.read())["status"] == "waiting_for_tool_results"


async def test_after_the_deadline_choices_are_the_recommended_ones_and_others_are_declined(
    api: httpx.AsyncClient,
) -> None:
    soon = [{"ref": "ask_user", "config": {"timeout_seconds": 1}}]
    talk = await new_talk(api, harness_name="base", capabilities=soon)
    item = await asked(talk, COLOUR, WHY, TOKEN)
    told = await result_of(talk)
    assert told["timed_out"] is True
    assert [(each["status"], each.get("answer")) for each in told["answers"]] == [
        ("default", "blue"),
        ("declined", None),
        ("declined", None),
    ]
    assert (await get(api, item["links"]["self"]))["outcome"]["status"] == "expired"
    late = await post(api, item["links"]["decide"], {"answers": {"colour": "red"}}, status=410)
    assert late["code"] == "item_expired"


@pytest.mark.parametrize("how", ["message", "cancel"])
async def test_a_message_or_a_cancel_withdraws_the_question(api: httpx.AsyncClient, how: str) -> None:
    talk = await new_talk(api)
    item = await asked(talk, COLOUR)
    if how == "message":
        await talk.say(script({"text": "So be it."}))
    else:
        await talk.cancel()
    await talk.logged_until("session.idled")
    assert (await get(api, item["links"]["self"]))["outcome"]["status"] == "withdrawn"
    late = await post(api, item["links"]["decide"], {"answers": {"colour": "red"}}, status=410)
    assert late["code"] == "item_withdrawn"
    await talk.answer({"tool_call_id": "q1", "result": {"answers": {"colour": "red"}}}, status=409)


async def test_a_link_shows_a_page_that_answers_once_and_takes_a_secret(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    item = await asked(talk, {**COLOUR, "question": "Which <b>colour</b>?"}, WHY, TOKEN)
    link = await link_to(api, item["id"])
    browser = {"accept": "text/html"}
    async with httpx.AsyncClient(base_url=api.base_url, timeout=30, headers=browser) as stranger:
        page = (await stranger.get(link)).text
        assert "Which &lt;b&gt;colour&lt;/b&gt;?" in page
        assert 'type=password name="answer.token"' in page
        assert "<b>SHOP_TOKEN</b>" in page
        found = re.search(r'name=shown value="([0-9a-f]{64})"', page)
        assert found is not None
        names = {f"asked.{each}": "1" for each in ("colour", "why", "token")}
        form = {"shown": found[1], **names, "answer.colour": "red", "answer.why": "", "answer.token": SECRET}
        wrong = await stranger.post(link, data={**form, "answer.colour": "green"})
        assert (wrong.status_code, SECRET in wrong.text) == (400, False)
        assert "Answered" in (await stranger.post(link, data=form)).text
        assert (await stranger.post(link, data=form)).status_code == 410
    told = (await result_of(talk))["answers"]
    assert [each["status"] for each in told] == ["answered", "declined", "stored"]
    done = (await talk.events(types="tool.completed"))[-1]["data"]
    assert (done["answered"]["via"], done["answered"]["shown"]) == ("link", found[1])
    assert SECRET not in json.dumps(await talk.events())


async def test_of_many_answers_at_once_one_counts(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    item = await asked(talk, COLOUR)
    link = await link_to(api, item["id"])
    shown = (await api.get(link)).json()["shown"]
    given = {"answers": {"colour": "red"}}
    answers = await asyncio.gather(
        *(api.post(item["links"]["decide"], json=given) for _ in range(3)),
        *(
            api.post(
                talk.path("/tool-results"), json={"tool_results": [{"tool_call_id": "q1", "result": given}]}
            )
            for _ in range(3)
        ),
        *(api.post(link, json={"shown": shown, **given}) for _ in range(3)),
    )
    assert sorted(each.status_code for each in answers)[1] in (400, 409, 410)
    assert [each.status_code for each in answers].count(200) == 1
    assert (await result_of(talk))["answers"][0]["answer"] == "red"


async def test_an_answer_and_a_cancel_at_once_end_the_call_once(api: httpx.AsyncClient) -> None:
    for _ in range(4):
        talk = await new_talk(api)
        item = await asked(talk, TOKEN)
        answered, _ = await asyncio.gather(
            api.post(item["links"]["decide"], json={"answers": {"token": SECRET}}), talk.cancel()
        )
        await talk.logged_until("session.idled")
        ends = await talk.events(types="tool.completed")
        stored = (await get(api, talk.path("/storage/secrets")))["data"]
        assert (answered.status_code == 200) == (len(ends) == len(stored) == 1)
        assert SECRET not in json.dumps(await talk.events())


async def test_a_fork_has_no_question_and_an_archived_session_still_takes_the_answer(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    item = await asked(talk, COLOUR)
    fork = Talk(api, (await post(api, talk.path("/fork"), {}))["id"])
    assert ((await fork.read())["status"], await get(api, "/v1/inbox", session_id=fork.id)) == (
        "idle",
        {**await get(api, "/v1/inbox", session_id=fork.id), "data": []},
    )
    assert (await api.put(talk.path("/archive"))).status_code == 200
    await post(api, item["links"]["decide"], {"answers": {"colour": "red"}}, status=200)
    assert (await result_of(talk))["answers"][0]["answer"] == "red"


async def test_a_sub_agents_question_appears_at_its_parent_and_in_the_inbox(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, capabilities=CAPABILITIES)
    await talk.say(
        script({"tool_calls": [spawns("survey", asking(COLOUR), {"text": "It is red."})]}, {"text": "Begun."})
    )

    def waits(data: Json) -> bool:
        return bool(data["data"]["task"]["state"] == "awaiting_input")

    async with talk.follow(after_sequence=0) as stream:
        task = (await stream.until("task.updated", where=waits))[-1].data["data"]["task"]
    assert task["input_request"]["prompt"].startswith("The sub-agent asks: Which colour?")
    (item,) = (await get(api, "/v1/inbox", session_id=task["links"]["child_session_id"]))["data"]
    await post(api, item["links"]["decide"], {"answers": {"colour": "red"}}, status=200)
    assert (await task_in(talk, task["id"], "succeeded", "failed"))["state"] == "succeeded"


async def test_questions_that_cannot_be_asked_are_the_models_error(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    events = await talk.turn(asking(TOKEN, {**TOKEN, "id": "other"}), {"text": "Sorry."})
    (done,) = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert (done["status"], "one secret only" in done["error"]) == ("error", True)
    assert "tool.parked" not in kinds_of(events)


async def test_other_calls_of_the_same_answer_run_meanwhile_and_two_questions_are_answered_apart(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    calls = [
        call("ask_user", "q1", questions=[COLOUR]),
        call("write_todos", "t1", todos=[]),
        call("ask_user", "q2", questions=[WHY]),
    ]
    await talk.say(script({"tool_calls": calls}, {"text": "Thank you."}))
    await talk.logged_until("act.completed")
    assert len((await get(api, "/v1/inbox", session_id=talk.id))["data"]) == 2
    first = await talk.answer({"tool_call_id": "q2", "result": {"answers": {"why": "So."}}})
    assert first["status"] == "waiting_for_tool_results"
    await talk.answer({"tool_call_id": "q1", "error": "Nobody is here."})
    assert await result_of(talk, "q1") == "Nobody is here."
    assert (await result_of(talk, "q2"))["answers"][0]["answer"] == "So."


async def test_a_clients_own_tool_of_that_name_takes_its_place(api: httpx.AsyncClient) -> None:
    own = {"type": "client_side", "name": "ask_user", "description": "Ask.", "parameters": {"type": "object"}}
    talk = await new_talk(api, tools=[own])
    await talk.say(script({"tool_calls": [call("ask_user", "c1", anything=1)]}, {"text": "Thank you."}))
    await talk.logged_until("tool.call_requested")
    await talk.answer({"tool_call_id": "c1", "result": "Yes."})
    await talk.logged_until("session.idled")


async def test_nothing_of_a_secret_is_readable_anywhere(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    item = await asked(talk, WHY, TOKEN)
    body = {"answers": {"why": f"I use {SECRET} there.", "token": SECRET}}
    done = await api.post(item["links"]["decide"], json=body, headers={"Idempotency-Key": "once-" + talk.id})
    assert done.status_code == 200
    await talk.logged_until("session.idled")
    await talk.turn({"tool_calls": [call("bash", command=f"echo {SECRET}")]}, {"text": f"It is {SECRET}."})
    shown = done.text
    fork = Talk(api, (await post(api, talk.path("/fork"), {}))["id"])
    for each in (talk, fork):
        for rest in ("", "/events?limit=1000", "/export", "/storage/secrets", "/context-report", "/result"):
            shown += (await api.get(each.path(rest))).text
        shown += json.dumps(
            [text_in(message) for message in await each.messages() if message["role"] != "user"]
        )
    shown += (await api.get(item["links"]["self"])).text + (await api.get("/v1/inbox")).text
    # What the test itself has written as the user is the script of the simulated model.
    assert SECRET not in shown.replace(f"echo {SECRET}", "").replace(f"It is {SECRET}.", "")


async def test_a_client_of_the_mcp_endpoint_answers_but_gives_no_secret(api: httpx.AsyncClient) -> None:
    waits = await use_tool(
        api, "start_session", harness="generic", message=script(asking(COLOUR, TOKEN), {"text": "Thank you."})
    )
    (open_now,) = waits["questions"]
    assert [each["id"] for each in open_now["questions"]] == ["colour", "token"]
    call_of = {"session_id": waits["session_id"], "tool_call_id": open_now["tool_call_id"]}
    given = {"colour": "red", "token": SECRET}
    refused = await use_tool(api, "answer_questions", **call_of, answers=given)
    assert "a secret must not pass through a model" in refused["failed"]
    assert SECRET not in refused["failed"]
    await use_tool(api, "answer_questions", **call_of, answers={"colour": "red", "token": None})
    told = await use_tool(api, "read_answer", session_id=waits["session_id"], wait_seconds=30)
    assert (told["answer"], told.get("questions")) == ("Thank you.", None)


async def test_another_organization_cannot_answer(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    item = await asked(talk, COLOUR)
    headers, given = await elsewhere(api), {"colour": "red"}
    for path, body in (
        (item["links"]["decide"], {"answers": given}),
        (talk.path("/tool-results"), results_of(given)),
    ):
        assert (await api.post(path, json=body, headers=headers)).status_code == 404
    assert (await talk.read())["status"] == "waiting_for_tool_results"


async def test_an_answer_that_comes_while_another_call_still_runs_keeps_its_secret_out_of_the_rest(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    both = [call("ask_user", "q1", questions=[TOKEN]), call("bash", "b1", command="sleep 1; echo b")]
    half = len(SECRET) // 2
    echoes = {"tool_calls": [call("bash", "b2", command=f"printf {SECRET[:half]}; echo {SECRET[half:]}")]}
    async with talk.follow(after_sequence=0) as stream:
        await talk.say(script({"tool_calls": both}, echoes, {"text": "Thank you."}))
        await stream.until("tool.parked")
        done = await talk.answer({"tool_call_id": "q1", "result": {"answers": {"token": SECRET}}})
        assert (done["accepted"], done["status"]) == (1, "active")
    assert (await result_of(talk))["answers"][0]["status"] == "stored"
    assert (await result_of(talk, "b2"))["stdout"].strip() == "[secret SHOP_TOKEN]"
    assert SECRET not in json.dumps(await talk.events())


@pytest.mark.parametrize("secret", ["colour", "answered", "blue"])
async def test_a_secret_that_is_a_word_of_the_result_is_not_told_by_what_is_missing(
    api: httpx.AsyncClient, secret: str
) -> None:
    """A mark in place of a known word would say what the secret is. What a person writes is redacted."""
    talk = await new_talk(api)
    await asked(talk, COLOUR, WHY, TOKEN)
    answers = {"colour": "blue", "why": f"It is {secret}, or {secret}.", "token": secret}
    await talk.answer({"tool_call_id": "q1", "result": {"answers": answers}})
    told = await result_of(talk)
    assert told["answers"] == [
        {"id": "colour", "status": "answered", "answer": "blue"},
        {"id": "why", "status": "answered", "answer": "It is [secret SHOP_TOKEN], or [secret SHOP_TOKEN]."},
        {"id": "token", "status": "stored", "secret": "SHOP_TOKEN"},
    ]
    assert "[secret" not in told["note"]
    # Later, it is a secret like all others.
    await talk.turn({"text": f"Once more: {secret}."})
    assert (await talk.messages())[-1]["content"][0]["text"] == "Once more: [secret SHOP_TOKEN]."


async def test_a_secret_of_before_is_redacted_in_what_a_person_writes(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await api.put(talk.path("/storage/secrets"), json={"secrets": {"OLD": SECRET}})
    await asked(talk, COLOUR, WHY)
    await talk.answer({"tool_call_id": "q1", "result": {"answers": {"colour": "red", "why": SECRET}}})
    assert (await result_of(talk))["answers"][1]["answer"] == "[secret OLD]"
    assert SECRET not in json.dumps(await talk.events())
