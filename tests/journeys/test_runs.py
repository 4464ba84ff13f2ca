"""Run and wait: a request that sends a message and answers with the result of the message's turn."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.people import LOOK_UP, elsewhere, fresh, get, new_agent
from tests.journeys.world import refusal
from tests.server import Server
from tests.talk import Json, Talk, body_of, call, kinds_of, new_talk, script, text_in, when

SLOW = {"text": "At last.", "first_ms": 60_000}
"""An answer that no test waits for."""
CAREFUL = {"capabilities": [{"ref": "tool_approval", "config": {"mode": "normal"}}]}
DANGER = ({"tool_calls": [call("bash", "call_1", command="true")]}, {"text": "It is done."})


async def ask(talk: Talk, text: str, wait: int = 30, key: str | None = None, **extra: Any) -> httpx.Response:
    """Send a message and wait for its result."""
    headers = {} if key is None else {"idempotency-key": key}
    path = talk.path("/messages")
    return await talk.http.post(path, params={"wait": wait}, json=body_of(text, **extra), headers=headers)


async def until_waits(talk: Talk, count: int = 1) -> None:
    """Wait until so many messages have arrived; the requests that sent them wait from then on."""

    async def arrived() -> bool:
        return kinds_of(await talk.events(types="input.message")) == ["input.message"] * count

    await when(arrived)


async def test_a_message_is_answered_with_the_result_of_its_turn(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    answered = await ask(talk, script({"text": "Paris.", "first_ms": 50}))
    result = answered.json()
    assert (answered.status_code, result["status"], text_in(result["answer"])) == (200, "completed", "Paris.")
    end = (await talk.events(types="turn.completed"))[0]["data"]
    turn = result["turn"]
    assert (turn["id"], turn["status"], turn["iterations"]) == (end["turn_id"], "completed", 1)
    assert (turn["usage"], turn["duration_ms"]) == (end["usage"], end["duration_ms"])
    assert result["message"] == (await talk.messages())[0]
    for link in ("session", "events", "wait"):
        assert (await api.get(result["links"][link])).status_code == 200
    assert (await api.get(result["links"]["wait"])).json() == result
    assert (await get(api, talk.path("/result"))) == result


async def test_a_turn_that_fails_or_is_cancelled_is_a_result_too(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    failed = await ask(talk, script({"fail": {"code": "provider_auth", "message": "no"}}))
    assert (failed.status_code, failed.json()["status"], "answer" in failed.json()) == (200, "failed", False)
    assert failed.json()["turn"]["error"]["code"] == "provider_auth"
    waiting = asyncio.create_task(ask(talk, script(SLOW)))
    await until_waits(talk, 2)
    await talk.cancel()
    cancelled = (await waiting).json()
    assert (cancelled["status"], cancelled["turn"]["error"]["code"]) == ("cancelled", "turn_cancelled")
    assert await get(api, talk.path("/result")) == cancelled
    notice = next(each for each in await talk.messages() if each.get("metadata", {}).get("cancel_notice"))
    answer = await api.get(talk.path("/result"), params={"sequence": notice["sequence"]})
    assert refusal(answer) == (404, "message_not_found")


async def test_the_time_is_up_before_the_turn_ends_and_waiting_goes_on_elsewhere(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    early = await ask(talk, script(SLOW), wait=0)
    assert (early.status_code, early.json()["status"]) == (202, "running")
    await talk.logged_until("reason.started")
    late = await ask(talk, script({"text": "Steered."}), wait=1)
    assert late.status_code == 202
    assert "answer" not in late.json()
    waiting = asyncio.create_task(api.get(late.json()["links"]["wait"]))
    await talk.cancel()
    assert (await waiting).json()["status"] == "cancelled"


@pytest.mark.parametrize("seconds", ["-1", "301", "x", "1.5", ""])
async def test_only_whole_seconds_within_the_limit_are_waited(api: httpx.AsyncClient, seconds: str) -> None:
    talk = await new_talk(api)
    answer = await api.post(talk.path(f"/messages?wait={seconds}"), json=body_of("Hello."))
    assert (answer.status_code, answer.json()["field"]) == (400, "wait")
    assert (await talk.messages()) == []


async def test_without_wait_the_message_itself_is_the_answer(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    sent = await api.post(talk.path("/messages"), json=body_of("Hello."))
    assert (sent.status_code, sent.json()["role"]) == (201, "user")


async def test_a_turn_that_needs_approval_answers_at_once_who_must_act(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, **CAREFUL)
    parked = await ask(talk, script(*DANGER))
    result = parked.json()
    assert (parked.status_code, result["status"], result["turn"]["status"]) == (202, "waiting", "waiting")
    assert [(each["kind"], each["tool_call_id"]) for each in result["waiting_on"]] == [("approval", "call_1")]
    still = await api.get(result["links"]["wait"])
    assert (still.status_code, still.json()) == (202, result)
    decided = {"decisions": [{"tool_call_id": "call_1", "decision": "allow"}]}
    assert (await api.post(talk.path("/tool-approvals"), json=decided)).status_code == 200
    done = await api.get(result["links"]["wait"])
    assert (done.status_code, text_in(done.json()["answer"])) == (200, "It is done.")
    assert "waiting_on" not in done.json()


async def test_a_turn_that_needs_its_client_answers_at_once_and_goes_on_with_its_results(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api, tools=[LOOK_UP])
    parked = await ask(talk, script({"tool_calls": [call("look_up", "call_1")]}, {"text": "Found."}))
    assert (parked.status_code, parked.json()["waiting_on"][0]["kind"]) == (202, "client")
    waiting = asyncio.create_task(api.get(parked.json()["links"]["wait"]))
    await talk.answer({"tool_call_id": "call_1", "result": "yes"})
    assert (await waiting).status_code in (200, 202)  # it may have looked before the result came
    done = await api.get(parked.json()["links"]["wait"])
    assert (done.status_code, text_in(done.json()["answer"])) == (200, "Found.")


async def test_each_message_in_a_busy_session_waits_for_the_turn_that_handles_it(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    first = asyncio.create_task(ask(talk, script(SLOW, ask="First.")))
    await until_waits(talk)
    queued = asyncio.create_task(ask(talk, script({"text": "Queued."}), controls={"when_busy": "queue"}))
    await until_waits(talk, 2)
    refused = await ask(talk, "No.", controls={"when_busy": "reject"})
    assert refusal(refused) == (409, "session_busy")
    instead = await ask(talk, script({"text": "Instead."}), controls={"when_busy": "interrupt"})
    assert (await first).json()["status"] == "cancelled"
    assert text_in(instead.json()["answer"]) == "Instead."
    own = (await queued).json()
    assert (own["status"], text_in(own["answer"])) == ("completed", "Queued.")
    assert own["turn"]["id"] != instead.json()["turn"]["id"]


async def test_behind_a_turn_that_waits_for_somebody_nobody_waits(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, **CAREFUL)
    await ask(talk, script(*DANGER))
    queued = await ask(talk, script({"text": "Next."}), controls={"when_busy": "queue"})
    assert (queued.status_code, queued.json()["status"]) == (202, "waiting")
    assert queued.json()["waiting_on"][0]["tool_call_id"] == "call_1"
    steering = await ask(talk, script({"text": "Never mind."}))
    assert (steering.status_code, text_in(steering.json()["answer"])) == (200, "Never mind.")
    own = await api.get(queued.json()["links"]["wait"])
    assert (own.status_code, text_in(own.json()["answer"])) == (200, "Next.")


async def test_a_message_that_steers_waits_for_the_turn_that_it_steers(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    first = asyncio.create_task(ask(talk, script({"text": "One.", "first_ms": 300})))
    await until_waits(talk)
    second = await ask(talk, script({"text": "Two."}))
    results = [(await first).json(), second.json()]
    assert [text_in(each["answer"]) for each in results] == ["Two.", "Two."]
    assert results[0]["turn"] == results[1]["turn"]


async def test_a_repetition_sends_nothing_and_waits_for_the_same_result(api: httpx.AsyncClient) -> None:
    talk, text = await new_talk(api), script({"text": "Once.", "first_ms": 300})
    key = fresh("key")
    answers = await asyncio.gather(*(ask(talk, text, key=key) for _ in range(5)))
    assert {each.status_code for each in answers} == {200}
    assert len({each.content for each in answers}) == 1
    assert kinds_of(await talk.events(types="input.message")) == ["input.message"]
    plain = await api.post(talk.path("/messages"), json=body_of(text), headers={"idempotency-key": key})
    assert (plain.status_code, plain.json()) == (201, answers[0].json()["message"])
    other = await ask(talk, "Something else.", key=key)
    assert refusal(other) == (409, "idempotency_key_reused")
    own = [await ask(talk, script({"text": "Mine."}), client_message_id="m-1") for _ in range(2)]
    assert own[0].json() == own[1].json()
    assert len(await talk.events(types="input.message")) == 2


async def test_a_client_that_leaves_ends_the_waiting_and_not_the_run(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    waiting = asyncio.create_task(ask(talk, script({"text": "Still here.", "first_ms": 300})))
    await until_waits(talk)
    waiting.cancel()
    await talk.logged_until("turn.completed")
    assert text_in((await get(api, talk.path("/result")))["answer"]) == "Still here."


async def test_a_session_that_is_deleted_has_no_result(api: httpx.AsyncClient) -> None:
    talk, key = await new_talk(api), fresh("key")
    waiting = asyncio.create_task(ask(talk, script(SLOW), key=key))
    await until_waits(talk)
    assert (await api.delete(talk.path())).status_code == 204
    assert refusal(await waiting) == (404, "session_not_found")
    assert refusal(await ask(talk, script(SLOW), key=key)) == (404, "session_not_found")


async def test_only_messages_of_users_have_results(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    assert refusal(await api.get(talk.path("/result"))) == (404, "message_not_found")
    await ask(talk, "Hello.")
    for sequence in (1, 3, 4_000):
        answer = await api.get(talk.path("/result"), params={"sequence": sequence})
        assert refusal(answer) == (404, "message_not_found")


async def test_a_run_is_a_session_with_its_first_message(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api, capabilities=[{"ref": "session_file_system"}])
    body = {
        "agent": agent["name"],
        "message": script({"tool_calls": [call("read_file", path="/a.txt")]}, {"text": "Read."}),
        "files": [{"path": "/a.txt", "content": "Hello."}],
        "metadata": {"customer": "4711"},
        "title": "A run",
        "tags": ["batch"],
    }
    done = await api.post("/v1/runs", params={"wait": 30}, json=body)
    result = done.json()
    assert (done.status_code, text_in(result["answer"])) == (200, "Read.")
    session = await get(api, result["links"]["session"])
    assert (session["agent_id"], session["title"], session["tags"]) == (agent["id"], "A run", ["batch"])
    assert (session["metadata"], session["id"]) == ({"customer": "4711"}, result["session_id"])
    talk = Talk(api, session["id"])
    (read,) = await talk.events(types="tool.completed")
    assert "Hello." in str(read["data"]["result"])
    by_id = await api.post(
        "/v1/runs",
        params={"wait": 30},
        json={"agent": agent["id"], "message": body_of("Parts.")["message"], "harness": "generic"},
    )
    assert by_id.json()["status"] == "completed"


async def test_a_run_that_cannot_start_leaves_nothing(api: httpx.AsyncClient) -> None:
    before = (await get(api, "/v1/sessions", limit=1))["total"]
    file = {"path": "/", "content": ""}
    for body, expected, field in (
        ({"message": "Hi.", "agent": fresh("nobody")}, (404, "agent_not_found"), None),
        ({"message": "Hi.", "harness": fresh("nothing")}, (404, "harness_not_found"), None),
        ({"message": "  "}, (400, "invalid_request"), "message"),
        ({"message": "Hi.", "files": [file]}, (400, "invalid_path"), "files[0].path"),
        (
            {"message": "Hi.", "output_schema": {"type": 1}},
            (400, "invalid_output_schema"),
            "output_schema.type",
        ),
        ({"message": {"content": []}}, (400, "invalid_request"), "message.content"),
        ({}, (400, "invalid_request"), None),
    ):
        answer = await api.post("/v1/runs", json=body)
        assert (refusal(answer), answer.json().get("field")) == (expected, field), body
        assert field is None or field in answer.json()["detail"]
    assert (await get(api, "/v1/sessions", limit=1))["total"] == before


async def test_a_run_is_started_once_under_its_key(api: httpx.AsyncClient) -> None:
    headers, title = {"idempotency-key": fresh("key")}, fresh("once")
    body = {"message": script({"text": "Once.", "first_ms": 200}), "title": title}
    early = await api.post("/v1/runs", json=body, headers=headers)
    assert (early.status_code, early.json()["status"]) == (202, "running")
    answers = await asyncio.gather(
        *(api.post("/v1/runs", params={"wait": 30}, json=body, headers=headers) for _ in range(3))
    )
    assert {each.status_code for each in answers} == {200}
    assert {each.json()["session_id"] for each in answers} == {early.json()["session_id"]}
    assert (await get(api, "/v1/sessions", search=title))["total"] == 1
    assert (await api.delete(early.json()["links"]["session"])).status_code == 204
    assert refusal(await api.post("/v1/runs", json=body, headers=headers)) == (404, "session_not_found")


async def test_commands_run_and_wait_as_well(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    params: Json = {"session_id": talk.id, "wait": 30, **body_of(script({"text": "Yes."}))}
    sent = await api.post("/v1/commands/create_message", json={"params": params})
    assert text_in(sent.json()["output"]["answer"]) == "Yes."
    params = {"message": script({"text": "Ran."}), "wait": 30}
    ran = await api.post("/v1/commands/create_run", json={"params": params})
    assert (ran.status_code, text_in(ran.json()["output"]["answer"])) == (200, "Ran.")


async def test_nobody_else_sees_a_result(api: httpx.AsyncClient) -> None:
    talk, others = await new_talk(api), await elsewhere(api)
    await ask(talk, "Hello.")
    there = await api.get(talk.path("/result"), headers=others)
    assert refusal(there) == (404, "session_not_found")
    sent = await api.post(talk.path("/messages"), params={"wait": 1}, json=body_of("Hi."), headers=others)
    assert refusal(sent) == (404, "session_not_found")


async def test_who_loses_access_while_waiting_gets_nothing(server: Server) -> None:
    token = await with_login(server)
    async with person(server, token) as owner:
        member, its_token = await add_member(owner, "mel")
        async with person(server, its_token) as http:
            talk = await new_talk(http)
            waiting = asyncio.create_task(ask(talk, script({"text": "Secret.", "first_ms": 500})))
            await until_waits(talk)
            assert (await owner.delete(f"/v1/users/{member['id']}")).status_code == 204
            assert refusal(await waiting) == (401, "unauthenticated")
