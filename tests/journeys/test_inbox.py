"""The inbox: what waits for people in all sessions, and the decisions on it."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from perdure.client import Client, Conflict
from tests.journeys.people import elsewhere, get, new_agent
from tests.journeys.test_tool_approval import asked, gated, text_of
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Stream, Talk, call, new_talk, script

WRITES = {"tool_calls": [call("bash", "call_1", command="echo model > /workspace/a")]}
DONE = {"text": "Done."}
SAME_KEY = {"PERDURE_MASTER_KEY": base64.b64encode(b"k" * 32).decode()}


async def waiting(http: httpx.AsyncClient, *steps: Json, **fields: Any) -> tuple[Talk, Json]:
    """A session that waits for an approval, and its item."""
    talk = await new_talk(http, **(gated("normal") | fields))
    await asked(talk, *(steps or (WRITES, DONE)))
    (item,) = await inbox(http, session_id=talk.id)
    return talk, item


async def inbox(http: httpx.AsyncClient, **filters: Any) -> list[Json]:
    found: list[Json] = (await get(http, "/v1/inbox", **filters))["data"]
    return found


async def decide(http: httpx.AsyncClient, item: Json, decision: str, status: int = 200, **more: Any) -> Json:
    return await post(http, item["links"]["decide"], {"decision": decision, **more}, status)


async def told(talk: Talk) -> str:
    """What the model got as the result of its first call, as JSON."""
    generations = await talk.events(types="llm.generation")
    messages = generations[-1]["data"]["messages"]
    results = [each["content"][0] for each in messages if each["role"] == "tool_result"]
    return json.dumps(results[0])


async def test_an_item_says_what_is_asked_and_leaves_the_inbox_with_the_decision(
    api: httpx.AsyncClient,
) -> None:
    agent = await new_agent(api, **gated("normal"))
    talk, item = await waiting(api, agent_id=agent["id"], title="Tidy up")
    assert (item["kind"], item["tool_name"], item["tool_call_id"]) == ("approval", "bash", "call_1")
    assert (item["session_id"], item["session_title"]) == (talk.id, "Tidy up")
    assert (item["agent_id"], item["agent"]) == (agent["id"], agent["name"])
    assert (item["arguments"], item["summary"]) == (WRITES["tool_calls"][0]["arguments"], "May bash run?")
    assert (item["may_decide"], item["you_may_decide"]) == ({}, True)
    assert item["created_at"] < item["expires_at"]
    whole = await get(api, item["links"]["self"])
    assert whole.pop("schema")["required"] == ["command"]
    assert whole == item
    decided = await decide(api, item, "allow")
    assert decided["outcome"]["status"] == "decided"
    assert decided["outcome"]["decided"]["decision"] == "allow"
    await talk.logged_until("session.idled")
    assert await inbox(api, session_id=talk.id) == []
    assert await get(api, item["links"]["self"]) == decided
    assert await text_of(talk, "/a") == "model\n"


@pytest.mark.parametrize("through", ["inbox", "tool-approvals"])
async def test_edited_arguments_run_and_the_model_is_told_so(api: httpx.AsyncClient, through: str) -> None:
    talk, item = await waiting(api)
    edited = {"command": "echo person > /workspace/a"}
    more = {"decision": "allow", "arguments": edited, "reason": "Be precise."}
    if through == "inbox":
        decided = (await decide(api, item, **more))["outcome"]["decided"]
        assert (decided["arguments"], decided["reason"], decided["via"]) == (edited, "Be precise.", "api")
        assert decided["by"].startswith("user_")
        assert decided["address"] == "127.0.0.1"
    else:
        body = {"decisions": [{"tool_call_id": "call_1", **more}]}
        await post(api, talk.path("/tool-approvals"), body, 200)
    events = await talk.logged_until("session.idled")
    assert await text_of(talk, "/a") == "person\n"
    started = next(each["data"]["tool_call"] for each in events if each["type"] == "tool.started")
    assert started["arguments"] == edited
    written = next(each for each in events if each["type"] == "output.message.completed")
    (part,) = [each for each in written["data"]["message"]["content"] if each["type"] == "tool_call"]
    assert part["arguments"] == WRITES["tool_calls"][0]["arguments"]
    assert "echo person" in await told(talk)
    assert "Be precise." in await told(talk)


async def test_the_reason_of_a_rejection_reaches_the_model(api: httpx.AsyncClient) -> None:
    talk, item = await waiting(api)
    await decide(api, item, "reject", reason="Use the other folder.")
    await talk.logged_until("session.idled")
    assert "The user rejected this call. The reason: Use the other folder." in await told(talk)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"decision": "allow", "arguments": {"command": 7}}, "invalid_edited_arguments"),
        ({"decision": "allow", "arguments": {}}, "invalid_edited_arguments"),
        ({"decision": "allow", "arguments": ["x"]}, "invalid_request"),
        ({"decision": "reject", "arguments": {"command": "true"}}, "invalid_request"),
        ({"decision": "perhaps"}, "invalid_request"),
        ({"decision": "allow", "reason": "x" * 2_001}, "invalid_request"),
    ],
)
async def test_decisions_that_do_not_fit_are_refused_and_decide_nothing(
    sqlite_server: Server, body: Json, code: str
) -> None:
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=30) as api:
        talk, item = await waiting(api)
        problem = await post(api, item["links"]["decide"], body, 400)
        assert problem["code"] == code
        assert await inbox(api, session_id=talk.id) == [item]
        if isinstance(body.get("arguments"), dict):
            whole = {"decisions": [{"tool_call_id": "call_1", **body}]}
            problem = await post(api, talk.path("/tool-approvals"), whole, 400)
            assert problem["code"] == code
            assert problem["field"] == "decisions[0].arguments"
        await talk.cancel()


async def test_a_secret_of_the_session_cannot_be_an_argument_that_somebody_writes(
    api: httpx.AsyncClient,
) -> None:
    talk, item = await waiting(api)
    stored = await api.put(
        talk.path("/storage/secrets"), json={"secrets": {"KEY": "s3cr3t-value-of-the-key"}}
    )
    assert stored.is_success, stored.text
    edited = {"command": "echo s3cr3t-value-of-the-key"}
    assert (await decide(api, item, "allow", 400, arguments=edited))["code"] == "secret_in_arguments"
    await decide(api, item, "reject", reason="Not with s3cr3t-value-of-the-key!")
    await talk.logged_until("session.idled")
    assert "s3cr3t-value" not in json.dumps(await talk.events())


async def test_of_two_deciders_one_wins_and_the_other_learns_what_was_decided(
    api: httpx.AsyncClient,
) -> None:
    talk, item = await waiting(api)
    answers = await asyncio.gather(
        *(
            api.post(item["links"]["decide"], json={"decision": decision})
            for decision in ("allow", "reject", "allow", "reject")
        )
    )
    (winner,) = [each.json() for each in answers if each.status_code == 200]
    won = winner["outcome"]["decided"]["decision"]
    for loser in (each for each in answers if each.status_code != 200):
        assert (loser.status_code, loser.json()["code"]) == (409, "already_decided")
        assert f"decided already: {won}" in loser.json()["detail"]
    await talk.logged_until("session.idled")
    decisions = [
        each
        for each in await talk.events(types="tool.completed")
        if each["data"]["tool_name"] == "approve_tool_call"
    ]
    assert len(decisions) == 1


async def test_what_a_message_or_a_cancel_withdrew_cannot_be_decided(api: httpx.AsyncClient) -> None:
    for stop in ("say", "cancel"):
        talk, item = await waiting(api)
        await (talk.cancel() if stop == "cancel" else talk.say("Never mind."))
        await talk.logged_until("session.idled")
        problem = await decide(api, item, "allow", 410)
        assert problem["code"] == "item_withdrawn"
        assert (await get(api, item["links"]["self"]))["outcome"]["status"] == "withdrawn"
        assert await inbox(api, session_id=talk.id) == []


async def test_an_id_never_stands_for_a_later_call_with_the_same_id(api: httpx.AsyncClient) -> None:
    talk, first = await waiting(api, WRITES, WRITES, DONE)
    await decide(api, first, "reject")
    await asked_again(talk, first)
    (second,) = await inbox(api, session_id=talk.id)
    assert second["tool_call_id"] == first["tool_call_id"]
    assert second["id"] != first["id"]
    assert (await decide(api, first, "allow", 409))["code"] == "already_decided"
    assert await inbox(api, session_id=talk.id) == [second]


async def asked_again(talk: Talk, item: Json) -> None:
    await talk.logged_until("tool.call_requested", after=int(item["id"][-12:-4], 16))


async def test_one_of_several_calls_is_decided_and_the_turn_waits_for_the_others(
    api: httpx.AsyncClient,
) -> None:
    both = [call("bash", "call_1", command="true"), call("bash", "call_2", command="echo hi")]
    talk = await new_talk(api, **gated("normal"))
    await asked(talk, {"tool_calls": both}, DONE)
    first, second = sorted(await inbox(api, session_id=talk.id), key=lambda each: each["tool_call_id"])
    await decide(api, second, "allow", arguments={"command": "echo changed"})
    assert await inbox(api, session_id=talk.id) == [first]
    await decide(api, first, "allow_always")
    await talk.logged_until("session.idled")
    results = [each for each in await talk.events(types="tool.completed") if each["data"]["result"]]
    assert "changed" in json.dumps(results)


async def test_filters_pages_and_counts(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api, **gated("normal"))
    talks = [(await waiting(api, agent_id=agent["id"]))[0] for _ in range(3)]
    deletes = {"tool_calls": [call("delete_file", "call_1", path="/none")]}
    talks.append((await waiting(api, deletes, DONE, agent_id=agent["id"]))[0])
    for name in (agent["id"], agent["name"]):
        assert (await get(api, "/v1/inbox/count", agent=name)) == {
            "total": 4,
            "mine": 4,
            "by_kind": {"approval": 4},
        }
    mine = {"agent": agent["id"], "mine": True, "kind": "approval"}
    assert len(await inbox(api, **mine, tool_name="delete_file")) == 1
    assert await inbox(api, agent="nobody") == await inbox(api, agent=agent["id"], kind="input") == []
    first = await get(api, "/v1/inbox", **mine, limit=3)
    assert (first["total"], len(first["data"])) == (4, 3)
    second = (await api.get(first["next_url"])).json()
    found = [*first["data"], *second["data"]]
    assert [each["session_id"] for each in found] == [talk.id for talk in talks]
    await asyncio.gather(*(talk.cancel() for talk in talks))
    assert (await get(api, "/v1/inbox/count", agent=agent["id"]))["total"] == 0


async def test_big_arguments_are_cut_in_lists(api: httpx.AsyncClient) -> None:
    big = {"tool_calls": [call("bash", "call_1", command="true " * 20_000)]}
    talk, item = await waiting(api, big, DONE)
    assert (len(item["arguments"]), item["truncated"]) == (4_000, True)
    whole = await get(api, item["links"]["self"])
    assert whole["arguments"] == big["tool_calls"][0]["arguments"]
    await talk.cancel()


async def test_another_organization_sees_and_decides_nothing(api: httpx.AsyncClient) -> None:
    talk, item = await waiting(api)
    headers = await elsewhere(api)
    for path in (item["links"]["self"], item["links"]["self"] + "/decision"):
        body = {"decision": "allow"} if path.endswith("decision") else None
        answer = await api.request("POST" if body else "GET", path, json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "inbox_item_not_found")
    found = (await api.get("/v1/inbox", params={"session_id": talk.id}, headers=headers)).json()
    assert (found["total"], found["data"]) == (0, [])
    await talk.cancel()


@pytest.mark.parametrize("wrong", ["sequence", "index", "session", "form"])
async def test_ids_of_no_question_are_not_found(api: httpx.AsyncClient, wrong: str) -> None:
    talk, item = await waiting(api)
    known = item["id"]
    other = {
        "sequence": f"{known[:-12]}{1:08x}0000",
        "index": f"{known[:-4]}0001",
        "session": f"inbox_{'0' * 32}{known[-12:]}",
        "form": known[:-1],
    }[wrong]
    status = 400 if wrong == "form" else 404
    assert (await get(api, f"/v1/inbox/{other}", status))["code"] == (
        "invalid_id" if wrong == "form" else "inbox_item_not_found"
    )
    await post(api, f"/v1/inbox/{other}/decision", {"decision": "allow"}, status)
    await talk.cancel()


async def test_followers_see_what_is_added_and_removed(shared_server: Server) -> None:
    async with httpx.AsyncClient(base_url=shared_server.url, timeout=30) as api:
        agent = await new_agent(api, **gated("normal"))
        old, item = await waiting(api, agent_id=agent["id"])
        params = {"agent": agent["name"], "initial": "true"}
        async with api.stream("GET", "/v1/inbox/sse", params=params) as response:
            stream = Stream(response)
            first, listening = (await stream.until("inbox.listening"))[1:]
            assert first.data == {"item": item}
            assert listening.data["count"]["total"] == 1
            new = await new_talk(api, agent_id=agent["id"])
            await new.say(script(WRITES, DONE))
            added = (await stream.until("inbox.item_added"))[-1].data["item"]
            assert added["session_id"] == new.id
            await decide(api, item, "reject")
            removed = (await stream.until("inbox.item_removed"))[-1].data
            assert removed == {"id": item["id"], "kind": "approval", "session_id": old.id}
            await new.cancel()
            assert (await stream.until("inbox.item_removed"))[-1].data["id"] == added["id"]


@pytest.mark.soak
async def test_followers_see_what_another_process_does(postgres_url: str, tmp_path: Path) -> None:
    async with (
        Server(tmp_path / "one", database_url=postgres_url, environment=SAME_KEY) as one,
        Server(tmp_path / "two", database_url=postgres_url, environment=SAME_KEY) as two,
        httpx.AsyncClient(base_url=one.url, timeout=30) as here,
        httpx.AsyncClient(base_url=two.url, timeout=30) as there,
    ):
        await use_simulated_model(here)
        async with here.stream("GET", "/v1/inbox/sse") as response:
            stream = Stream(response)
            await stream.until("inbox.listening")
            _, item = await waiting(there)
            added = (await stream.until("inbox.item_added"))[-1].data["item"]
            assert added["id"] == item["id"]
            await decide(there, item, "allow")
            assert (await stream.until("inbox.item_removed"))[-1].data["id"] == item["id"]


async def test_the_client_lists_decides_and_follows(sqlite_server: Server) -> None:
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=30) as api:
        agent = await new_agent(api, **gated("normal"))
        talk, item = await waiting(api, agent_id=agent["id"])
        async with Client(sqlite_server.url) as client:
            page = await client.list_inbox(agent=agent["id"], mine=True)
            assert [each.id for each in page.data] == [item["id"]]
            assert (await client.count_inbox(agent=agent["id"])).total == 1
            assert (await client.get_inbox_item(item["id"])).arguments == item["arguments"]
            changes = client.follow_inbox(agent=agent["id"])
            added = (await anext(changes)).added
            assert added is not None
            assert added.id == item["id"]
            decided = await client.decide_inbox_item(added.id, "allow", arguments={"command": "true"})
            assert decided.outcome is not None
            assert decided.outcome.decided is not None
            assert decided.outcome.decided.arguments == {"command": "true"}
            assert (await anext(changes)).removed == item["id"]
            await changes.aclose()
            with pytest.raises(Conflict, match="already"):
                await client.decide_inbox_item(added.id, "reject")
        await talk.logged_until("session.idled")
