"""What people note about sessions: the archive, metadata, sources, and ids of messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.journeys.people import fresh
from tests.journeys.world import complaint
from tests.server import Server, post
from tests.talk import Json, Talk, body_of, new_talk, script


@pytest.fixture
async def api(shared_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=shared_server.url, timeout=30) as client:
        yield client


async def listed(http: httpx.AsyncClient, **query: Any) -> list[str]:
    answer = await http.get("/v1/sessions", params={"limit": 100, **query})
    assert answer.status_code == 200, answer.text
    assert answer.json()["total"] == len(answer.json()["data"]) or "search" not in query
    return [each["title"] for each in answer.json()["data"]]


async def test_an_archived_session_is_hidden_until_it_comes_back(api: httpx.AsyncClient) -> None:
    mark = fresh("archive")
    talk = await new_talk(api, title=mark)
    base = f"/v1/sessions/{talk.id}"
    total = (await api.get("/v1/sessions", params={"limit": 1})).json()["total"]
    stats = (await api.get("/v1/sessions/stats")).json()
    first = (await api.put(f"{base}/archive")).json()
    assert first["id"] == talk.id
    again = (await api.put(f"{base}/archive")).json()
    assert again["archived_at"] == first["archived_at"]
    assert again["updated_at"] == first["updated_at"]
    assert (await api.get(base)).json()["archived_at"] == first["archived_at"]
    for query, found in (
        ({}, []),
        ({"include_archived": "true"}, [mark]),
        ({"archived_only": "true"}, [mark]),
        ({"archived_only": "true", "order": "last_activity"}, [mark]),
    ):
        assert await listed(api, search=mark, **query) == found, query
    assert (await api.get("/v1/sessions", params={"limit": 1})).json()["total"] == total - 1
    after = (await api.get("/v1/sessions/stats")).json()
    assert (after["total"], after["archived"]) == (stats["total"] - 1, stats["archived"] + 1)
    fork = await post(api, f"{base}/fork", {})
    assert "archived_at" not in fork
    for _ in range(2):
        assert "archived_at" not in (await api.delete(f"{base}/archive")).json()
    assert (await api.get("/v1/sessions", params={"limit": 1})).json()["total"] == total + 1
    await api.put(f"{base}/archive")
    assert (await api.delete(base)).status_code == 204
    assert (await api.put(f"{base}/archive")).status_code == 404
    assert (await api.get("/v1/sessions", params={"limit": 1})).json()["total"] == total


async def test_a_message_brings_an_archived_session_back(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, title=fresh("back"))
    await api.put(f"/v1/sessions/{talk.id}/archive")
    await talk.say(script({"text": "Hello."}))
    await talk.logged_until("session.idled")
    assert "archived_at" not in await talk.read()


async def test_archiving_does_not_disturb_a_turn_and_counts_once(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, title=fresh("busy"))
    total = (await api.get("/v1/sessions", params={"limit": 1})).json()["total"]
    await talk.say(script({"text": "one two three four five", "delay_ms": 40}))
    answers = await asyncio.gather(*(api.put(f"/v1/sessions/{talk.id}/archive") for _ in range(8)))
    assert len({each.json()["archived_at"] for each in answers}) == 1
    assert (await api.get("/v1/sessions", params={"limit": 1})).json()["total"] == total - 1
    await talk.logged_until("turn.completed")
    assert "archived_at" in await talk.read()
    await api.delete(f"/v1/sessions/{talk.id}")


async def test_sessions_are_found_by_their_metadata_source_status_and_owner(api: httpx.AsyncClient) -> None:
    mark = fresh("found")
    for title, more in (
        ("a", {"source": "chat", "metadata": {"case": "4711", "team": 'x","case":"4712'}}),
        ("b", {"metadata": {"case": "4712", "Team": "y"}}),
        ("c", {}),
    ):
        await post(api, "/v1/sessions", {"title": f"{title}-{mark}", **more})
    for query, titles in (
        ({"metadata[case]": "4711"}, "a"),
        ({"metadata[case]": "4712"}, "b"),
        ({"metadata[case]": "471"}, ""),
        ({"metadata[CASE]": "4711"}, ""),
        ({"metadata[team]": "Y"}, ""),
        ({"metadata[case]": "4711", "metadata[team]": 'x","case":"4712'}, "a"),
        ({"source": "chat"}, "a"),
        ({"source": "chat,api"}, "cba"),
        ({"source": ["chat", "trigger"]}, "a"),
        ({"status": "started,idle"}, "cba"),
        ({"status": ["active", "paused"]}, ""),
        ({"status": "active", "mine": "true"}, ""),
        ({"mine": "true"}, "cba"),
        ({"order": "last_activity", "mine": "true"}, "cba"),
    ):
        assert await listed(api, search=mark, **query) == [f"{each}-{mark}" for each in titles], query
    facets = (await api.get("/v1/sessions/facets", params={"search": mark})).json()
    assert facets == {
        "total": 3,
        "statuses": {"started": 3},
        "sources": {"api": 2, "chat": 1},
        "agents": [],
        "mine": 3,
        "archived": 0,
    }
    # The last activity comes first.
    (oldest,) = (await api.get("/v1/sessions", params={"search": f"a-{mark}"})).json()["data"]
    await api.patch(f"/v1/sessions/{oldest['id']}", json={"metadata": {"case": None}})
    assert (await listed(api, search=mark, order="last_activity"))[0] == f"a-{mark}"
    for wrong in (
        {"status": "started,strted"},
        {"order": "sideways"},
        {"metadata": "x"},
        {"mine": "perhaps"},
        {"include_archived": "2"},
    ):
        answer = await api.get("/v1/sessions", params=wrong)
        assert answer.status_code == 400, wrong
        assert complaint(answer) is None


async def test_metadata_are_merged_and_bounded(api: httpx.AsyncClient) -> None:
    session = await post(api, "/v1/sessions", {"metadata": {"a": "1", "b": "2"}})
    base = f"/v1/sessions/{session['id']}"
    for change, after in (
        ({"b": None, "c": "3"}, {"a": "1", "c": "3"}),
        ({}, {"a": "1", "c": "3"}),
        ({"a": ""}, {"a": "", "c": "3"}),
        (None, None),
        ({f"n{number}": "x" for number in range(50)}, {f"n{number}": "x" for number in range(50)}),
    ):
        answer = await api.patch(base, json={"metadata": change})
        assert answer.json().get("metadata") == after, change
        assert (await api.get(base)).json().get("metadata") == after
    wrong: list[Any] = [{"one-more": "x"}, {"": "x"}, {"a b": "x"}, {'a"b': "x"}, {"a" * 65: "x"}]
    wrong += [{"a": "x" * 501}, {"a": 1}, {"a": {"b": "c"}}, ["a"], "a"]
    for metadata in wrong:
        answer = await api.patch(base, json={"metadata": metadata})
        assert answer.status_code == 400, metadata
        assert complaint(answer) is None
    # Changes at the same time are all kept, and a change of something else keeps them.
    await api.patch(base, json={"metadata": None})
    await asyncio.gather(
        *(api.patch(base, json={"metadata": {f"n{number}": "x"}}) for number in range(8)),
        api.patch(base, json={"title": "t"}),
    )
    assert len((await api.get(base)).json()["metadata"]) == 8
    assert (await post(api, f"{base}/fork", {}))["metadata"] == (await api.get(base)).json()["metadata"]
    tag = (await api.get(base)).headers["etag"]
    await api.patch(base, json={"metadata": {"n0": "y"}})
    answer = await api.patch(base, json={"title": "u"}, headers={"If-Match": tag})
    assert answer.status_code == 412


async def test_clients_may_say_chat_or_api_only(api: httpx.AsyncClient) -> None:
    assert (await post(api, "/v1/sessions", {}))["source"] == "api"
    assert (await post(api, "/v1/sessions", {"source": "chat"}))["source"] == "chat"
    for source in ("subagent", "trigger", "", "CHAT", 1):
        answer = await api.post("/v1/sessions", json={"source": source})
        assert answer.status_code == 400, source


async def test_a_message_with_the_clients_id_is_sent_once(api: httpx.AsyncClient) -> None:
    talk, other = await new_talk(api), await new_talk(api)
    body = body_of("Hello.", client_message_id="mine-1")

    async def send(talk: Talk, body: Json) -> httpx.Response:
        return await api.post(f"/v1/sessions/{talk.id}/messages", json=body)

    answers = await asyncio.gather(*(send(talk, body) for _ in range(6)))
    assert {each.status_code for each in answers} == {201}
    assert len({each.text for each in answers}) == 1
    assert answers[0].json()["client_message_id"] == "mine-1"
    await talk.logged_until("session.idled")
    answer = await send(talk, body)
    assert answer.text == answers[0].text
    answer = await send(talk, body_of("Goodbye.", client_message_id="mine-1"))
    assert (answer.status_code, answer.json()["code"]) == (409, "client_message_id_reused")
    # Another session, and another id, are other messages.
    assert (await send(other, body)).json()["id"] != answers[0].json()["id"]
    assert (await send(talk, body_of("Hello.", client_message_id="mine-2"))).status_code == 201
    told = (await api.get(f"/v1/sessions/{talk.id}/messages")).json()["data"]
    assert [each.get("client_message_id") for each in told if each["role"] == "user"] == ["mine-1", "mine-2"]
    for wrong in ("", "x" * 201, 7):
        assert (await send(talk, body_of("x", client_message_id=wrong))).status_code == 400


async def test_capabilities_have_the_names_of_newer_clients(api: httpx.AsyncClient) -> None:
    for name in ("compaction", "infinity_context", "context_compaction"):
        assert (await api.get(f"/v1/capabilities/{name}")).json()["id"] == "context_compaction"
        session = await post(api, "/v1/sessions", {"capabilities": [{"ref": name}]})
        assert session["capabilities"] == [{"ref": name}]
        report = (await api.get(f"/v1/sessions/{session['id']}/context-report")).text
        assert "context_compaction" in report or "search" in report
    for mode, status in (("prefer", 201), ("never", 201), ("auto", 201), ("sometimes", 400)):
        capability = {"ref": "parallel_tool_calls", "config": {"mode": mode}}
        answer = await api.post("/v1/sessions", json={"capabilities": [capability]})
        assert answer.status_code == status, mode
