"""Forks, exports and counts: sessions as a whole."""

from __future__ import annotations

import base64
import json

import httpx

from perdure.domain.sessions import title_of_fork
from tests.journeys.people import new_agent, patch
from tests.talk import Talk, call, new_talk


async def test_a_fork_has_the_earlier_conversation_and_continues_independently(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(
        api, title="First", tags=["a"], initial_files=[{"path": "notes.txt", "content": "remember"}]
    )
    await talk.turn({"text": "One."})
    await api.put(talk.path("/storage/secrets"), json={"secrets": {"TOKEN": "a-secret-value"}})
    fork = (await api.post(talk.path("/fork"), json={"title": "Second"})).json()
    other = Talk(api, fork["id"])
    assert (fork["title"], fork["tags"], fork["status"]) == ("Second", ["a"], "idle")
    assert (fork["forked_from_session_id"], fork["forked_from_sequence"]) == (
        talk.id,
        len(await talk.events()),
    )
    assert [m["content"] for m in await other.messages()] == [m["content"] for m in await talk.messages()]
    events = await other.turn({"tool_calls": [call("read_file", path="/notes.txt")]}, {"text": "Two."})
    result = next(event["data"] for event in events if event["type"] == "tool.completed")
    assert json.loads(result["result"][0]["text"])["content"] == "remember"
    assert [each["name"] for each in (await api.get(other.path("/storage/secrets"))).json()["data"]] == [
        "TOKEN"
    ]
    assert len(await talk.messages()) == 2
    ids = [event["id"] for event in await talk.events()] + [event["id"] for event in await other.events()]
    assert len(set(ids)) == len(ids)


async def test_a_fork_of_a_session_with_a_title_is_marked_as_one(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, title="Plan")
    titles = []
    for _ in range(3):
        talk = Talk(api, (await api.post(talk.path("/fork"), json={})).json()["id"])
        titles.append((await talk.read())["title"])
    assert titles == ["Plan (fork)", "Plan (fork 2)", "Plan (fork 3)"]
    assert title_of_fork("x" * 500) == "x" * 493 + " (fork)"
    assert title_of_fork(None) is None


async def test_a_fork_in_the_middle_of_a_turn_is_idle(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    events = await talk.turn({"tool_calls": [call("get_current_time")]}, {"text": "Late."})
    middle = next(event["sequence"] for event in events if event["type"] == "tool.started")
    fork = (await api.post(talk.path("/fork"), json={"from_sequence": middle})).json()
    other = Talk(api, fork["id"])
    assert fork["status"] == "idle"
    kinds = [event["type"] for event in await other.events()]
    assert kinds[middle:] == ["turn.cancelled", "input.message", "output.message.completed", "session.idled"]
    await other.turn({"text": "On."})


async def test_a_fork_from_beyond_the_log_is_rejected(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    assert (await api.post(talk.path("/fork"), json={"from_sequence": 99})).json()["field"] == "from_sequence"


async def test_a_fork_with_another_agent_is_rejected_where_a_new_session_would_be(
    http: httpx.AsyncClient,
) -> None:
    tool = {"type": "client_side", "name": "ask", "description": "Ask.", "parameters": {"type": "object"}}
    talk = await new_talk(http, tools=[tool])
    clashing = await new_agent(http, tools=[tool])
    archived, deleted = await new_agent(http), await new_agent(http)
    await patch(http, archived["self_url"], {"status": "archived"})
    await patch(http, deleted["self_url"], {"status": "deleted"})
    for agent, status, code in (
        (clashing, 400, "duplicate_tool"),
        (archived, 400, "agent_archived"),
        (deleted, 404, "agent_not_found"),
    ):
        for path, body in (("/v1/sessions", {"tools": [tool]}), (talk.path("/fork"), {})):
            answer = await http.post(path, json={**body, "agent_id": agent["id"]})
            assert (answer.status_code, answer.json()["code"]) == (status, code), path
    fork = await http.post(talk.path("/fork"), json={"agent_id": (other := await new_agent(http))["id"]})
    assert (fork.status_code, fork.json()["agent_id"]) == (201, other["id"])


async def test_an_export_has_a_line_for_each_message(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await talk.turn({"text": "Line\nbreak."}, ask="Hello.")
    answer = await api.get(talk.path("/export"))
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["role"] for line in answer.text.splitlines()] == ["user", "agent"]


async def test_a_new_session_has_the_initial_files_of_all_layers(api: httpx.AsyncClient) -> None:
    name = f"files-{(await new_talk(api)).id[-12:]}"
    agent = {
        "name": name,
        "system_prompt": "You help.",
        "initial_files": [{"path": "/a", "content": "agent"}, {"path": "/b", "content": "b"}],
    }
    assert (await api.post("/v1/agents", json=agent)).status_code == 201
    data = base64.b64encode(b"\x00\x01").decode()
    files = [{"path": "/a", "content": "session"}, {"path": "/bin", "content": data, "encoding": "base64"}]
    talk = await new_talk(api, agent_name=name, initial_files=files)
    calls = [call("read_file", path=path) for path in ("/a", "/b", "/bin")]
    events = await talk.turn({"tool_calls": calls}, {"text": "Read."})
    found = [
        json.loads(event["data"]["result"][0]["text"])["content"]
        for event in events
        if event["type"] == "tool.completed"
    ]
    assert found == ["session", "b", data]


async def test_sessions_are_counted_by_status(api: httpx.AsyncClient) -> None:
    before = (await api.get("/v1/sessions/stats")).json()
    await new_talk(api)
    after = (await api.get("/v1/sessions/stats")).json()
    assert after["started"] == before["started"] + 1
    assert after["total"] == before["total"] + 1
