"""Limits of organizations and users: nothing passes them, nothing is lost, what waits goes on by itself."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx

from perdure.domain.times import from_rfc3339
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, body_of, call, kinds_of, new_talk, script, when

SAME_KEY = {"PERDURE_MASTER_KEY": base64.b64encode(b"k" * 32).decode()}
SLOW: Json = {"text": "Done.", "first_ms": 20}


async def own_org(http: httpx.AsyncClient) -> str:
    return str((await http.get("/v1/auth/me")).json()["organization_id"])


async def set_limits(http: httpx.AsyncClient, **body: Any) -> Json:
    answer = await http.patch(f"/v1/orgs/{await own_org(http)}/limits", json=body)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def limits(http: httpx.AsyncClient) -> Json:
    found: Json = (await http.get(f"/v1/orgs/{await own_org(http)}/limits")).json()
    return found


async def log_of_turn(talk: Talk) -> list[Json]:
    return await talk.logged_until("session.idled")


def active_at_once(logs: list[list[Json]]) -> int:
    """The most turns that were active at the same time, by the times in their logs."""
    edges: list[tuple[int, int]] = []
    for log in logs:
        for event in log:
            if event["type"] == "reason.started":
                edges.append((from_rfc3339(event["ts"]), 1))
            elif event["type"] == "llm.generation":
                edges.append((from_rfc3339(event["ts"]), -1))
    running = most = 0
    for _, change in sorted(edges):
        running += change
        most = max(most, running)
    return most


async def test_turns_over_the_limit_wait_and_go_on_by_themselves(http: httpx.AsyncClient) -> None:
    await set_limits(http, organization={"active_turns": 3})
    talks = [await new_talk(http) for _ in range(64)]
    await asyncio.gather(*(talk.say(script(SLOW)) for talk in talks))
    logs = await asyncio.gather(*(log_of_turn(talk) for talk in talks))
    assert all(kinds_of(log).count("turn.completed") == 1 for log in logs)
    assert active_at_once(list(logs)) <= 3
    waited = [event["data"] for log in logs for event in log if event["type"] == "turn.parked"]
    assert len(waited) >= 32
    assert {(each["kind"], each["scope"], each["error_code"]) for each in waited} == {
        ("active_turns", "organization", "active_turns_limit")
    }
    assert all("limit of 3 active turns (now: " in each["error"] for each in waited)
    # Not of all: those who wait come first, so fewer may be active while one more has to wait.
    assert any("(now: 3)" in each["error"] for each in waited)
    after = await limits(http)
    assert after["organization"]["active_turns"] == {"limit": 3, "used": 0}
    assert after["waiting_turns"] == 0


async def test_a_waiting_turn_says_why_and_takes_further_messages(http: httpx.AsyncClient) -> None:
    await set_limits(http, organization={"active_turns": 1})
    first, second = await new_talk(http), await new_talk(http)
    await first.say(script({"tool_calls": [call("no_such_tool")], "first_ms": 400}, {"text": "Done."}))
    await first.logged_until("reason.started")
    await second.say(script({"text": "Second."}))
    await second.logged_until("turn.parked")
    session = await second.read()
    assert session["status"] == "active"
    (parked,) = session["parked_on"]
    assert (parked["kind"], parked["tool_call_id"]) == ("active_turns", "")
    assert (await limits(http))["waiting_turns"] == 1
    # A message does not push the turn past the limit, and is not lost.
    await second.say("And this.")
    log = await log_of_turn(second)
    assert kinds_of(log).count("turn.parked") == 1
    assert "turn.resumed" in kinds_of(log)
    ended = next(event for event in await first.events() if event["type"] == "turn.completed")
    resumed = next(event for event in log if event["type"] == "turn.resumed")
    assert from_rfc3339(resumed["ts"]) >= from_rfc3339(ended["ts"])
    assert (await second.read()).get("parked_on") in (None, [])


async def test_a_waiting_turn_can_be_cancelled(http: httpx.AsyncClient) -> None:
    await set_limits(http, organization={"active_turns": 1})
    first, second, third = await new_talk(http), await new_talk(http), await new_talk(http)
    await first.say(script({"text": "Slow.", "first_ms": 30_000}))
    await first.logged_until("reason.started")
    await second.say(script(SLOW))
    await second.logged_until("turn.parked")
    await second.cancel()
    assert (await second.read())["status"] == "idle"
    assert (await limits(http))["waiting_turns"] == 0
    await third.say(script(SLOW))
    await third.logged_until("turn.parked")
    # The turn that is active is cancelled: the next one begins.
    await first.cancel()
    assert "turn.completed" in kinds_of(await log_of_turn(third))


async def test_a_turn_that_rests_is_not_active(http: httpx.AsyncClient) -> None:
    await set_limits(http, organization={"active_turns": 1})
    tool = {"name": "ask", "description": "Asks.", "parameters": {"type": "object"}, "type": "client_side"}
    first = await new_talk(http, tools=[tool])
    await first.say(script({"tool_calls": [call("ask", "c1")]}, {"text": "Done."}))
    await first.logged_until("tool.call_requested")
    assert (await limits(http))["organization"]["active_turns"]["used"] == 0
    second = await new_talk(http)
    assert "turn.parked" not in kinds_of(await second.turn(SLOW))
    third = await new_talk(http)
    await third.say(script({"text": "Slow.", "first_ms": 2_500}))
    await third.logged_until("reason.started")
    # The answer arrives while another turn is active: the first one waits for it, and then goes on.
    await first.answer({"tool_call_id": "c1", "result": "yes"})
    log = await log_of_turn(first)
    assert kinds_of(log)[-1] == "session.idled"
    assert kinds_of(log).index("turn.parked") < kinds_of(log).index("turn.resumed")
    assert active_at_once([log, await log_of_turn(third)]) == 1


async def test_the_limit_of_a_user_holds_back_no_other_user(http: httpx.AsyncClient) -> None:
    await set_limits(http, user={"active_turns": 1})
    mine = [await new_talk(http) for _ in range(3)]
    await asyncio.gather(*(talk.say(script({"text": "Mine.", "first_ms": 300})) for talk in mine))
    logs = await asyncio.gather(*(log_of_turn(talk) for talk in mine))
    assert active_at_once(list(logs)) == 1
    parked = [event["data"] for log in logs for event in log if event["type"] == "turn.parked"]
    assert {each["scope"] for each in parked} == {"user"}


async def test_raising_the_limit_lets_waiting_turns_go_on(http: httpx.AsyncClient) -> None:
    await set_limits(http, organization={"active_turns": 1})
    first, second = await new_talk(http), await new_talk(http)
    await first.say(script({"text": "Slow.", "first_ms": 30_000}))
    await first.logged_until("reason.started")
    await second.say(script(SLOW))
    await second.logged_until("turn.parked")
    await set_limits(http, organization={"active_turns": None})
    assert "turn.completed" in kinds_of(await log_of_turn(second))
    await first.cancel()


async def test_turns_that_wait_survive_a_killed_server(any_server: Server, http: httpx.AsyncClient) -> None:
    await set_limits(http, organization={"active_turns": 2})
    talks = [await new_talk(http) for _ in range(8)]
    for talk in talks:
        await talk.say(script({"text": "Done.", "first_ms": 200}))
    await talks[-1].logged_until("turn.parked", "reason.started")
    await any_server.restart()
    logs = await asyncio.gather(*(log_of_turn(talk) for talk in talks))
    assert all(kinds_of(log).count("turn.completed") == 1 for log in logs)

    async def settled() -> bool:
        found = await limits(http)
        return found["waiting_turns"] == 0 and found["organization"]["active_turns"]["used"] == 0

    await when(settled)


async def test_open_sessions_stay_within_the_limit_under_64_creators(http: httpx.AsyncClient) -> None:
    await set_limits(http, organization={"open_sessions": 10}, user={"open_sessions": 9})
    answers = await asyncio.gather(*(http.post("/v1/sessions", json={}) for _ in range(64)))
    made = [answer.json()["id"] for answer in answers if answer.status_code == 201]
    refused = [answer for answer in answers if answer.status_code != 201]
    assert len(made) == 9
    assert {answer.status_code for answer in refused} == {429}
    assert {answer.json()["code"] for answer in refused} == {"open_sessions_limit"}
    assert "limit of 9 open sessions (now: 9)" in refused[0].json()["detail"]
    assert refused[0].headers["retry-after"] == "60"
    assert (await limits(http))["user"]["open_sessions"] == {"limit": 9, "used": 9}
    await set_limits(http, user={"open_sessions": None})
    await post(http, "/v1/sessions", {})
    # An archived session leaves room, and cannot come back without it.
    archive = f"/v1/sessions/{made[0]}/archive"
    assert (await http.put(archive)).status_code == 200
    await post(http, "/v1/sessions", {})
    assert (await http.delete(archive)).json()["code"] == "open_sessions_limit"
    back = await http.post(f"/v1/sessions/{made[0]}/messages", json=body_of("Hello."))
    assert (back.status_code, back.json()["code"]) == (429, "open_sessions_limit")
    fork = await http.post(f"/v1/sessions/{made[1]}/fork", json={})
    assert (fork.status_code, fork.json()["code"]) == (429, "open_sessions_limit")


async def test_requests_over_the_limit_are_refused_with_a_time(http: httpx.AsyncClient) -> None:
    await set_limits(http, user={"requests_per_minute": 40})
    answers = [await http.get("/v1/sessions") for _ in range(60)]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 15 <= len(refused) <= 40
    body = refused[0].json()
    assert (refused[0].status_code, body["code"]) == (429, "requests_per_minute_limit")
    assert "the user has reached its limit of 40 requests per minute (now: 40)" in body["detail"]
    assert 1 <= int(refused[0].headers["retry-after"]) <= 60
    assert f"retry in {refused[0].headers['retry-after']} s" in body["detail"]
    assert (await http.get("/health")).status_code == 200


async def test_a_limit_cannot_be_above_the_servers(http: httpx.AsyncClient) -> None:
    path = f"/v1/orgs/{await own_org(http)}/limits"
    answer = await http.patch(path, json={"organization": {"active_turns": 1_001}})
    assert (answer.status_code, answer.json()["code"]) == (400, "limit_too_high")
    assert answer.json()["field"] == "organization.active_turns"
    assert (await limits(http))["set_organization"]["active_turns"] is None


async def test_two_processes_share_the_limit_of_active_turns(postgres_url: str, tmp_path: Path) -> None:
    one, two = (
        Server(tmp_path / name, database_url=postgres_url, environment=SAME_KEY) for name in ("one", "two")
    )
    async with one, httpx.AsyncClient(base_url=one.url, timeout=30) as first:
        await use_simulated_model(first)
        await set_limits(first, organization={"active_turns": 2})
        async with two, httpx.AsyncClient(base_url=two.url, timeout=30) as second:
            talks = [await new_talk(http) for http in (first, second) * 8]
            await asyncio.gather(*(talk.say(script(SLOW)) for talk in talks))
            logs = await asyncio.gather(*(log_of_turn(talk) for talk in talks))
        assert all(kinds_of(log).count("turn.completed") == 1 for log in logs)
        assert active_at_once(list(logs)) <= 2
        assert any("turn.parked" in kinds_of(log) for log in logs)
