"""Feedback: people rate an agent's messages."""

from __future__ import annotations

from typing import Any

import httpx

from perdure.app.feedback import RECENT
from perdure.client import Client
from tests.journeys.keyed import add_member, with_login
from tests.journeys.people import get
from tests.journeys.world import refusal
from tests.server import Server
from tests.talk import Json, Talk, call, new_talk, script


async def rate(talk: Talk, message: Json, **fields: Any) -> Json:
    answer = await talk.http.put(talk.path(f"/messages/{message['id']}/feedback"), json=fields)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def answered(api: httpx.AsyncClient, **fields: Any) -> tuple[Talk, Json]:
    """Begin a session with an answer; return it and the answer."""
    talk = await new_talk(api, **fields)
    await talk.turn({"text": "Paris."})
    return talk, (await talk.messages())[-1]


async def said(talk: Talk, **query: Any) -> list[tuple[str, str | None, str | None]]:
    """The feedback on a session's messages: the message, the rating and the comment."""
    page = await get(talk.http, talk.path("/feedback"), **query)
    return [(each["message_id"], each.get("rating"), each.get("comment")) for each in page["data"]]


async def test_feedback_is_replaced_listed_removed_and_every_change_is_in_the_log(
    api: httpx.AsyncClient,
) -> None:
    talk, message = await answered(api)
    async with talk.follow(types="message.feedback") as stream:
        first = await rate(talk, message, rating="down", comment=" The order number is wrong. ")
        frame = (await stream.until("message.feedback"))[-1].data
    assert first["comment"] == "The order number is wrong."
    assert first["message_sequence"] == message["sequence"]
    assert frame["data"] == {
        "message_id": message["id"],
        "user_id": first["user_id"],
        "rating": "down",
        "comment": "The order number is wrong.",
    }
    assert await rate(talk, message, rating="down", comment="The order number is wrong.") == first
    better = await rate(talk, message, rating="up")
    assert (better["created_at"], "comment" in better) == (first["created_at"], False)
    assert better["updated_at"] > first["updated_at"]
    assert await said(talk) == [(message["id"], "up", None)]
    await rate(talk, message, comment="Only words.")
    assert await said(talk) == [(message["id"], None, "Only words.")]
    for _ in range(2):
        assert "comment" not in await rate(talk, message, rating=None, comment="  ")
    assert await said(talk) == []
    assert len(await talk.events(types="message.feedback")) == 4
    assert (await talk.read())["status"] == "idle"
    await talk.turn({"text": "And on."})


async def test_only_messages_of_the_agent_in_the_session_can_be_rated(api: httpx.AsyncClient) -> None:
    talk, message = await answered(api)
    other, _ = await answered(api)
    mine = (await talk.messages())[0]
    for path in (
        talk.path(f"/messages/{mine['id']}/feedback"),
        talk.path(f"/messages/message_{'0' * 32}/feedback"),
        other.path(f"/messages/{message['id']}/feedback"),
    ):
        assert refusal(await api.put(path, json={"rating": "up"})) == (404, "message_not_found")
    path = talk.path(f"/messages/{message['id']}/feedback")
    for body in ({"rating": "maybe"}, {"comment": "x" * 4_001}, {"rating": 1}, []):
        assert refusal(await api.put(path, json=body))[0] == 400
    assert refusal(await api.put(talk.path("/messages/x/feedback"), json={}))[0] == 400
    assert refusal(await api.get(talk.path("/feedback"), params={"rating": "maybe"}))[0] == 400
    assert await talk.events(types="message.feedback") == []


async def test_an_old_message_is_found_far_back_in_the_log(api: httpx.AsyncClient) -> None:
    talk, message = await answered(api)
    events = await talk.turn({"tool_calls": [call("get_current_time")] * 110}, {"text": "It is late."})
    assert events[-1]["sequence"] > message["sequence"] + RECENT
    assert (await rate(talk, message, rating="up"))["message_sequence"] == message["sequence"]
    unknown = await api.put(talk.path(f"/messages/message_{'0' * 32}/feedback"), json={"rating": "up"})
    assert refusal(unknown) == (404, "message_not_found")


async def test_feedback_during_a_turn_does_not_disturb_it(api: httpx.AsyncClient) -> None:
    talk, message = await answered(api)
    async with talk.follow() as stream:
        await talk.say(script({"text": "Slowly and with many words.", "delay_ms": 30}))
        await stream.until("output.message.delta")
        await rate(talk, message, rating="up")
        frames = await stream.until("session.idled")
    kinds = [frame.kind for frame in frames]
    assert kinds.count("output.message.completed") == 1
    assert "turn.completed" in kinds


async def test_lists_of_sessions_and_of_feedback_are_filtered(api: httpx.AsyncClient) -> None:
    talk, message = await answered(api, title="rated sessions")
    other, good = await answered(api, title="rated sessions")
    await answered(api, title="rated sessions")
    await rate(talk, message, rating="down")
    await rate(other, good, rating="up", comment="Nice.")
    for rating, session in (("down", talk.id), ("up", other.id)):
        for query in ({}, {"search": "rated sess"}, {"order": "last_activity"}):
            page = await get(api, "/v1/sessions", feedback=rating, **query)
            assert session in [each["id"] for each in page["data"]]
            assert {talk.id, other.id}.isdisjoint({each["id"] for each in page["data"]} - {session})
    assert (await get(api, "/v1/sessions/facets", feedback="up"))["total"] >= 1
    await talk.turn({"text": "Berlin."})
    newer = (await talk.messages())[-1]
    await rate(talk, newer, rating="up")
    assert await said(talk) == [(newer["id"], "up", None), (message["id"], "down", None)]
    assert await said(talk, rating="down") == [(message["id"], "down", None)]
    assert await said(talk, message_id=newer["id"]) == [(newer["id"], "up", None)]
    assert await said(talk, user_id=f"user_{'0' * 32}") == []
    page = await get(api, talk.path("/feedback"), limit=1)
    assert (page["total"], len(page["data"]), page["next_url"] is not None) == (2, 1, True)


async def test_a_fork_has_the_feedback_of_its_part_of_the_log(api: httpx.AsyncClient) -> None:
    talk, message = await answered(api)
    await rate(talk, message, rating="down", comment="First.")
    then = len(await talk.events())
    await rate(talk, message, rating="up")
    await talk.turn({"text": "Berlin."})
    newer = (await talk.messages())[-1]
    await rate(talk, newer, rating="up")
    forks = {}
    for through in (message["sequence"], then, None):
        body = {} if through is None else {"from_sequence": through}
        answer = await api.post(talk.path("/fork"), json=body)
        forks[through] = Talk(api, answer.json()["id"])
    assert await said(forks[message["sequence"]]) == []
    assert await said(forks[then]) == [(message["id"], "down", "First.")]
    assert await said(forks[None]) == await said(talk)
    await rate(forks[then], message, rating="up")
    assert await said(forks[then]) == [(message["id"], "up", None)]
    assert len(await said(talk)) == 2
    assert (await api.delete(forks[then].path())).status_code == 204
    assert len(await said(talk)) == 2


async def test_a_secret_of_the_session_in_a_comment_is_not_kept(api: httpx.AsyncClient) -> None:
    talk, message = await answered(api)
    await api.put(talk.path("/storage/secrets"), json={"secrets": {"TOKEN": "a-secret-value"}})
    kept = await rate(talk, message, comment="It said a-secret-value.")
    assert "a-secret-value" not in kept["comment"]
    assert "a-secret-value" not in str(await talk.events(types="message.feedback"))


async def test_each_user_has_feedback_of_their_own(any_server: Server) -> None:
    owner = await with_login(any_server)
    async with httpx.AsyncClient(base_url=any_server.url, timeout=30) as http:
        http.headers["authorization"] = f"Bearer {owner}"
        _, member = await add_member(http, "ada")
        talk, message = await answered(http)
        mine = await rate(talk, message, rating="up")
        headers = {"authorization": f"Bearer {member}"}
        path = talk.path(f"/messages/{message['id']}/feedback")
        theirs = (await http.put(path, json={"rating": "down"}, headers=headers)).json()
        assert theirs["user_id"] != mine["user_id"]
        assert len(await said(talk)) == 2
        assert await said(talk, user_id=theirs["user_id"]) == [(message["id"], "down", None)]
        await http.put(path, json={}, headers=headers)
        assert await said(talk) == [(message["id"], "up", None)]


async def test_the_client_sets_and_lists_feedback(api: httpx.AsyncClient) -> None:
    talk, message = await answered(api)
    async with Client(str(api.base_url)) as client:
        given = await client.set_feedback(talk.id, message["id"], rating="down", comment="No.")
        page = await client.list_feedback(talk.id, rating="down", message_id=message["id"])
        assert page.data == (given,)
        found = await client.list_sessions(feedback="down", limit=100)
        assert talk.id in [session.id for session in found.data]
