"""A repeated request changes nothing (Idempotency-Key), and no client overwrites unseen changes (ETag)."""

from __future__ import annotations

import asyncio
import signal

import httpx
import pytest

from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.people import fresh, get, new_agent, new_harness
from tests.journeys.whole_api import Operation, Place, operations_in
from tests.journeys.world import refusal
from tests.server import Server
from tests.talk import Json, body_of, call, new_talk, script

KEY = "#/components/parameters/IdempotencyKey"

OF_ITS_OWN: dict[str, Json] = {
    "create_session": {"title": "made once"},
    "fork_session": {},
    "create_harness": {"name": "made-once"},
    "create_organization": {"name": "Made once"},
    "create_session_schedule": {"message": "x", "cron": "0 9 * * *"},
    "create_budget": {
        "subject_type": "session",
        "subject_id": "session_id",
        "currency": "tokens",
        "limit": 1000000000,
    },
    "add_session_participant": {"kind": "agent", "agent_id": "guest"},
    "copy_file": {"src_path": "/kept.txt", "dst_path": "/copied-once.txt"},
    "session_copy_file": {"src_path": "/kept.txt", "dst_path": "/copied-twice.txt"},
}
"""Bodies for operations whose example in the document refers to resources that do not exist. A text that
names a value of the place stands for it."""

ELSEWHERE = {"post_mcp_prompt", "create_run", "upload_skill"}
"""Operations that need an MCP server or a file, or whose response changes while the turn runs; tests of their
own repeat the request."""


def key(text: str | None = None) -> dict[str, str]:
    return {"idempotency-key": text or fresh("key")}


async def count(http: httpx.AsyncClient, path: str) -> int:
    found: Json = await get(http, path, limit=1)
    return int(found["total"])


async def test_every_operation_that_takes_a_key_answers_the_same_request_the_same_way(
    any_server: Server,
) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as http:
        document = (await http.get("/api-doc/openapi.json")).json()
        http.headers["x-org-id"] = (await get(http, "/v1/orgs"))["data"][0]["id"]
        place = Place(http)
        await place.fill()
        takers = {
            each["operationId"]
            for item in document["paths"].values()
            for each in item.values()
            if _takes_key(each)
        } - ELSEWHERE
        assert len(takers) > 10
        told = []
        for each in operations_in(document):
            if each.id in takers:
                told += await _twice(http, place, each)
    assert told == []


def _takes_key(operation: Json) -> bool:
    return any(each.get("$ref") == KEY for each in operation.get("parameters", ()))


async def _twice(http: httpx.AsyncClient, place: Place, operation: Operation) -> list[str]:
    """Send two equal requests under one key, and a different one; return what is wrong."""
    own = OF_ITS_OWN.get(operation.id)
    body = operation.body
    if own is not None:
        body = {"json": {name: place.values.get(value, value) for name, value in own.items()}}
    headers = {**body.get("headers", {}), **key()}
    request: Json = {"params": operation.query, **body, "headers": headers}
    url = operation.at(place.of(operation) | {"path": fresh("new")})
    answers = [await http.request(operation.method, url, **request) for _ in range(2)]
    shown = [(each.status_code, each.content) for each in answers]
    if answers[0].status_code not in (200, 201):
        return [f"{operation.id}: {answers[0].status_code} {answers[0].text[:160]}"]
    if shown[0] != shown[1] or answers[1].headers.get("idempotency-replayed") != "true":
        return [f"{operation.id}: {shown}"]
    return []


async def test_another_request_under_a_used_key_is_refused_and_does_nothing(api: httpx.AsyncClient) -> None:
    mine = key()
    before = await count(api, "/v1/sessions")
    assert (await api.post("/v1/sessions", json={"title": "one"}, headers=mine)).status_code == 201
    for path, body in (
        ("/v1/sessions", {"title": "two"}),
        ("/v1/agents", {"name": fresh("a"), "system_prompt": "x"}),
    ):
        assert refusal(await api.post(path, json=body, headers=mine)) == (409, "idempotency_key_reused")
    assert await count(api, "/v1/sessions") == before + 1


async def test_many_at_once_under_one_key_make_one(api: httpx.AsyncClient) -> None:
    mine, title = key(), fresh("once")
    answers = await asyncio.gather(
        *(api.post("/v1/sessions", json={"title": title}, headers=mine) for _ in range(20))
    )
    assert {each.status_code for each in answers} == {201}
    assert len({each.content for each in answers}) == 1
    assert sum(each.headers.get("idempotency-replayed") == "true" for each in answers) == 19
    assert (await get(api, "/v1/sessions", search=title))["total"] == 1


async def test_a_message_that_is_sent_again_is_said_once_and_starts_one_turn(api: httpx.AsyncClient) -> None:
    talk, mine = await new_talk(api), key()
    answers = await asyncio.gather(
        *(api.post(talk.path("/messages"), json=body_of("Hello."), headers=mine) for _ in range(10))
    )
    assert {(each.status_code, each.json()["id"]) for each in answers} == {(201, answers[0].json()["id"])}
    await talk.logged_until("session.idled")
    again = await api.post(talk.path("/messages"), json=body_of("Hello."), headers=mine)
    assert again.content == answers[0].content
    kinds = [each["type"] for each in await talk.events()]
    assert (kinds.count("input.message"), kinds.count("turn.started")) == (1, 1)


async def test_what_was_said_in_a_session_is_not_said_again_once_it_is_deleted(
    http: httpx.AsyncClient,
) -> None:
    talk = await new_talk(http)
    key = {"Idempotency-Key": "said-and-gone"}
    for replayed in (None, "true"):
        answer = await http.post(talk.path("/messages"), json=body_of("A secret."), headers=key)
        assert (answer.status_code, answer.headers.get("idempotency-replayed")) == (201, replayed)
    assert (await http.delete(talk.path())).status_code == 204
    answer = await http.post(talk.path("/messages"), json=body_of("A secret."), headers=key)
    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")


async def test_a_refused_request_does_not_use_its_key_up(api: httpx.AsyncClient) -> None:
    mine = key()
    assert (
        await api.post("/v1/sessions", json={"agent_name": "nobody-here"}, headers=mine)
    ).status_code == 404
    assert (await api.post("/v1/sessions", json={"title": "now"}, headers=mine)).status_code == 201


@pytest.mark.parametrize("bad", ["", "x" * 256, "caf\xe9", "tab\there"])
async def test_a_key_that_is_none_is_refused(api: httpx.AsyncClient, bad: str) -> None:
    answer = await api.post("/v1/sessions", json={}, headers=[(b"idempotency-key", bad.encode("latin-1"))])
    assert refusal(answer) == (400, "invalid_idempotency_key")


async def test_a_key_is_remembered_over_a_restart(any_server: Server, http: httpx.AsyncClient) -> None:
    mine = key()
    first = await http.post("/v1/sessions", json={"title": "kept"}, headers=mine)
    for number in (signal.SIGKILL, signal.SIGTERM):
        await any_server.restart(number)
        again = await http.post("/v1/sessions", json={"title": "kept"}, headers=mine)
        assert (again.status_code, again.content) == (201, first.content)
    assert await count(http, "/v1/sessions") == 1


async def test_a_key_belongs_to_the_one_who_used_it(any_server: Server) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        _, theirs = await add_member(owner, "gil")
        mine = key()
        first = await owner.post("/v1/sessions", json={"title": "x"}, headers=mine)
        async with person(any_server, theirs) as member:
            second = await member.post("/v1/sessions", json={"title": "x"}, headers=mine)
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json()["id"] != second.json()["id"]


KINDS = pytest.mark.parametrize("kind", ["session", "agent", "harness"])


async def kept(http: httpx.AsyncClient, kind: str) -> str:
    """The path of a session, an agent or a harness."""
    if kind == "session":
        return (await new_talk(http, title="kept")).path()
    if kind == "agent":
        return f"/v1/agents/{(await new_agent(http))['id']}"
    return f"/v1/harnesses/{(await new_harness(http))['id']}"


CHANGE = {
    "session": {"title": "changed"},
    "agent": {"description": "changed"},
    "harness": {"description": "changed"},
}


@KINDS
async def test_what_has_not_changed_is_not_sent_again(api: httpx.AsyncClient, kind: str) -> None:
    path = await kept(api, kind)
    first = await api.get(path)
    tag = first.headers["etag"]
    for match in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = await api.get(path, headers={"if-none-match": match})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), match
    assert (await api.get(path, headers={"if-none-match": '"other"'})).content == first.content
    changed = await api.patch(path, json=CHANGE[kind])
    assert changed.headers["etag"] != tag
    assert (await api.get(path, headers={"if-none-match": tag})).status_code == 200
    # The answer to a change counts as a version that the client has seen.
    assert (
        await api.patch(path, json={"tags": ["x"]}, headers={"if-match": changed.headers["etag"]})
    ).status_code == 200
    assert refusal(await api.get(path, headers={"if-none-match": "bare"})) == (400, "invalid_etag")


@KINDS
async def test_who_has_not_seen_the_last_change_does_not_overwrite_it(
    api: httpx.AsyncClient, kind: str
) -> None:
    path = await kept(api, kind)
    tag = (await api.get(path)).headers["etag"]
    assert (await api.patch(path, json=CHANGE[kind], headers={"if-match": tag})).status_code == 200
    seen = (await api.get(path)).json()
    stale = await api.patch(path, json={"tags": ["lost"]}, headers={"if-match": tag})
    assert refusal(stale) == (412, "precondition_failed")
    assert (await api.get(path)).json() == seen
    assert (await api.patch(path, json={"tags": ["any"]}, headers={"if-match": "*"})).status_code == 200
    assert refusal(await api.patch(path, json={}, headers={"if-match": "bare"})) == (400, "invalid_etag")


@KINDS
async def test_of_many_who_change_the_same_version_one_wins(api: httpx.AsyncClient, kind: str) -> None:
    path = await kept(api, kind)
    tag = (await api.get(path)).headers["etag"]
    bodies = [{"tags": [f"tag-{number}"]} for number in range(8)]
    answers = await asyncio.gather(
        *(api.patch(path, json=body, headers={"if-match": tag}) for body in bodies)
    )
    assert sorted(each.status_code for each in answers) == [200] + [412] * 7
    winner = next(each for each in answers if each.status_code == 200)
    assert (await api.get(path)).json()["tags"] == winner.json()["tags"]


@pytest.mark.parametrize("kind", ["agent", "harness"])
async def test_who_changes_an_agent_or_a_harness_is_not_held_up_by_sessions_that_begin(
    api: httpx.AsyncClient, kind: str
) -> None:
    path = await kept(api, kind)
    tag = (await api.get(path)).headers["etag"]
    await new_talk(api, **{f"{kind}_id": path.rsplit("/", 1)[1]})
    counted = await api.get(path, headers={"if-none-match": tag})
    assert (counted.status_code, counted.json()["session_count"]) == (200, 1)
    assert (await api.patch(path, json=CHANGE[kind], headers={"if-match": tag})).status_code == 200
    assert refusal(await api.patch(path, json=CHANGE[kind], headers={"if-match": tag})) == (
        412,
        "precondition_failed",
    )


async def test_who_changes_a_session_is_held_up_by_others_who_do_and_not_by_its_turns(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(
        api,
        title="kept",
        tools=[{"type": "client_side", "name": "ask", "description": "", "parameters": {"type": "object"}}],
    )
    tag = (await api.get(talk.path())).headers["etag"]
    await talk.say(
        script(
            {"tool_calls": [call("ask", "c")]},
            {"tool_calls": [call("write_session_title", title="the model's")]},
            {"text": "."},
        )
    )
    await talk.logged_until("tool.call_requested")
    assert (await api.put(talk.path("/pin"))).status_code == 204
    waiting = await api.get(talk.path(), headers={"if-none-match": tag})
    assert (waiting.status_code, waiting.json()["status"]) == (200, "waiting_for_tool_results")
    assert waiting.headers["etag"] != tag
    changed = await api.patch(talk.path(), json={"tags": ["a"]}, headers={"if-match": tag})
    assert changed.status_code == 200
    await talk.answer({"tool_call_id": "c", "result": "yes"})
    await talk.logged_until("session.idled")
    assert (await talk.read())["title"] == "the model's"
    late = await api.patch(talk.path(), json={"title": "mine"}, headers={"if-match": changed.headers["etag"]})
    assert refusal(late) == (412, "precondition_failed")
