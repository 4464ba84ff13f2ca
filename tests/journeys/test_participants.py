"""Participants: several agents and people in one session."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from perdure.client import Client
from perdure.domain.participants import MAX_AGENTS
from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.people import fresh, get, new_agent, patch
from tests.journeys.test_handoff import ASK_USER, agents_of, passing, seen_last, to
from tests.journeys.test_schedules import soon
from tests.journeys.world import refusal
from tests.server import Server, post
from tests.talk import Json, Talk, call, kinds_of, new_talk, script, text_in

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


async def add(talk: Talk, agent: Json) -> Json:
    """Add an agent to a session."""
    body = {"kind": "agent", "agent_id": agent["id"]}
    added: Json = await post(talk.http, talk.path("/participants"), body)
    return added


async def there(talk: Talk) -> list[Json]:
    found: list[Json] = await get(talk.http, talk.path("/participants"))
    return found


async def remove(talk: Talk, participant: Json) -> httpx.Response:
    return await talk.http.delete(talk.path(f"/participants/{participant['id']}"))


async def hosted(api: httpx.AsyncClient, **fields: Any) -> tuple[Talk, Json]:
    """A session, and its own agent."""
    host = await new_agent(api)
    return await new_talk(api, agent_id=host["id"], **fields), host


async def test_the_owner_and_the_agent_are_hosts_and_others_join_and_leave(api: httpx.AsyncClient) -> None:
    talk, host = await hosted(api)
    billing = await new_agent(api)
    owner, own = await there(talk)
    assert (owner["kind"], owner["role"], own["kind"], own["role"]) == ("user", "host", "agent", "host")
    assert (own["agent_id"], own["name"]) == (host["id"], host["name"])
    assert owner["principal_id"] == (await talk.read())["owner_principal_id"]
    assert await there(talk) == [owner, own]  # their ids are always the same
    added = await add(talk, billing)
    assert (added["role"], added["name"], added["session_id"]) == ("member", billing["name"], talk.id)
    assert await there(talk) == [owner, own, added]
    left = await remove(talk, added)
    assert (left.status_code, left.json()["left_at"] >= added["joined_at"]) == (200, True)
    assert (await remove(talk, added)).json() == left.json()
    assert await there(talk) == [owner, own]
    back = await add(talk, billing)
    assert (back["id"], "left_at" in back) == (added["id"], False)
    joins = await talk.events(types="session.participant_joined")
    assert (len(joins), len(await talk.events(types="session.participant_left"))) == (2, 1)
    assert joins[0]["data"]["agent_id"] == billing["id"]


async def test_what_cannot_join_or_leave_gets_an_error_that_says_why(api: httpx.AsyncClient) -> None:
    talk, host = await hosted(api)
    billing, gone = await new_agent(api), await new_agent(api)
    path = talk.path("/participants")

    async def refused(body: Json, where: str = path) -> tuple[int, str]:
        return refusal(await api.post(where, json=body))

    await add(talk, billing)
    for agent in (billing, host):
        assert await refused({"kind": "agent", "agent_id": agent["id"]}) == (409, "already_participant")
    assert await refused({"kind": "user"}) == (409, "already_participant")  # the owner
    for participant in (await there(talk))[:2]:
        assert refusal(await remove(talk, participant)) == (409, "host_cannot_leave")
    unknown = {"id": f"participant_{'0' * 32}"}
    assert refusal(await remove(talk, unknown)) == (404, "participant_not_found")
    assert refusal(await remove(talk, {"id": "x"}))[0] == 400
    await patch(api, gone["self_url"], {"status": "archived"})
    assert await refused({"kind": "agent", "agent_id": gone["id"]}) == (400, "agent_archived")
    nobody = f"agent_{'0' * 32}"
    assert await refused({"kind": "agent", "agent_id": nobody}) == (404, "agent_not_found")
    for body in ({"kind": "agent"}, {"kind": "user", "agent_id": nobody}, {"kind": "user", "role": "host"}):
        assert (await refused(body))[0] == 400
    assert (await refused({"kind": "user"}, f"/v1/sessions/session_{'0' * 32}/participants"))[0] == 404
    assert len(await there(talk)) == 3


async def test_an_agent_whose_tools_clash_with_the_sessions_cannot_join(api: httpx.AsyncClient) -> None:
    talk, clashing = await new_talk(api, tools=[ASK_USER]), await new_agent(api, tools=[ASK_USER])
    body = {"kind": "agent", "agent_id": clashing["id"]}
    assert refusal(await api.post(talk.path("/participants"), json=body)) == (400, "duplicate_tool")
    assert [each["kind"] for each in await there(talk)] == ["user"]  # it has no agent of its own


async def test_only_so_many_agents_fit_in_a_session(api: httpx.AsyncClient) -> None:
    talk, _ = await hosted(api)
    for _ in range(MAX_AGENTS):
        await add(talk, await new_agent(api))
    body = {"kind": "agent", "agent_id": (await new_agent(api))["id"]}
    assert refusal(await api.post(talk.path("/participants"), json=body)) == (400, "too_many_participants")
    await remove(talk, (await there(talk))[-1])
    await post(api, talk.path("/participants"), body)


@pytest.mark.parametrize("by_name", [True, False])
async def test_the_turn_of_a_message_to_a_participant_is_that_agents(
    api: httpx.AsyncClient, by_name: bool
) -> None:
    talk, host = await hosted(api)
    billing = await new_agent(api, system_prompt="You are billing.", capabilities=[{"ref": "current_time"}])
    joined = await add(talk, billing)
    await talk.turn({"text": "Hello."}, ask="My number is 4711.")
    steps = script({"tool_calls": [call("get_current_time")]}, {"text": "You owe 3."}, ask="the total?")
    if by_name:
        message = await talk.say(f" @{billing['name'].upper()}, {steps}")
    else:
        message = await talk.say(steps, addressed_participant_id=joined["id"])
    events = await talk.logged_until("session.idled", after=message["sequence"] - 1)
    assert agents_of(events) == [billing["id"]] * 2
    started = next(each for each in events if each["type"] == "turn.started")["data"]
    expected = {"agent_id": billing["id"], "agent_name": billing["name"], "participant_id": joined["id"]}
    assert started["speaker"] == expected
    assert [each["data"]["success"] for each in events if each["type"] == "tool.completed"] == [True]
    answer = (await talk.messages())[-1]
    assert (answer["author"], text_in(answer)) == (expected, "You owe 3.")
    seen = [text_in(each) for each in await seen_last(talk)]
    assert seen[1] == f"[Written by another agent, {host['name']}:]\nHello."
    assert not any(billing["name"] in text for text in seen[3:])
    # The next message is for the session's own agent, which sees who said what.
    after = await talk.turn({"text": "Good."})
    assert agents_of(after) == [host["id"]]
    assert "speaker" not in next(each for each in after if each["type"] == "turn.started")["data"]
    seen = [text_in(each) for each in await seen_last(talk)]
    assert seen[1] == "Hello."
    assert seen[-2] == f"[Written by another agent, {billing['name']}:]\nYou owe 3."
    assert (await talk.read())["agent_id"] == host["id"]


async def test_a_name_that_no_participant_has_is_only_text(api: httpx.AsyncClient) -> None:
    talk, host = await hosted(api)
    billing, stranger = await new_agent(api), await new_agent(api)
    joined = await add(talk, billing)
    for text in (
        f"@{stranger['name']} ",
        f"Ask @{billing['name']} ",
        f"@{billing['name']}s ",
        f"@{billing['name']}-x ",
        f"@{host['name']} ",
        "@ ",
    ):
        events = await talk.turn({"text": "Well."}, ask=text)
        assert agents_of(events) == [host["id"]], text
    await remove(talk, joined)
    assert agents_of(await talk.turn({"text": "Well."}, ask=f"@{billing['name']}")) == [host["id"]]


async def test_messages_are_addressed_to_agents_that_are_there(api: httpx.AsyncClient) -> None:
    talk, host = await hosted(api)
    billing, gone = await new_agent(api), await new_agent(api)
    joined, archived = await add(talk, billing), await add(talk, gone)
    await remove(talk, joined)
    await patch(api, gone["self_url"], {"status": "archived"})
    owner, own = (await there(talk))[:2]

    async def sent(participant: Any, text: str = "Hello.") -> httpx.Response:
        body = {"message": {"content": [{"type": "text", "text": text}]}}
        return await api.post(talk.path("/messages"), json={**body, "addressed_participant_id": participant})

    assert refusal(await sent(joined["id"]))[0] == 400
    assert refusal(await sent(owner["id"]))[0] == 400
    assert refusal(await sent(archived["id"])) == (400, "agent_archived")
    to_archived = await sent(None, f"@{gone['name']} Hello.")
    assert refusal(to_archived) == (400, "agent_archived")
    assert "is archived and cannot answer" in to_archived.json()["detail"]
    assert refusal(await sent(f"participant_{'0' * 32}")) == (404, "participant_not_found")
    assert refusal(await sent("x"))[0] == 400
    assert kinds_of(await talk.events(types="input.message")) == []
    assert (await sent(own["id"])).status_code == 201
    assert agents_of(await talk.logged_until("session.idled")) == [host["id"]]


async def test_an_image_may_come_before_the_name(api: httpx.AsyncClient) -> None:
    talk, _ = await hosted(api)
    billing = await new_agent(api)
    await add(talk, billing)
    text = script({"text": "A dot."}, ask=f"@{billing['name']}, what is it?")
    content = [{"type": "image", "base64": DOT, "media_type": "image/png"}, {"type": "text", "text": text}]
    await post(api, talk.path("/messages"), {"message": {"content": content}})
    assert agents_of(await talk.logged_until("session.idled")) == [billing["id"]]


async def test_of_two_participants_with_one_name_the_active_one_is_addressed(api: httpx.AsyncClient) -> None:
    talk, _ = await hosted(api)
    gone = await new_agent(api)
    await add(talk, gone)
    await patch(api, gone["self_url"], {"status": "archived"})
    fields = {"name": gone["name"], "system_prompt": "x"}
    await add(talk, there_now := await post(api, "/v1/agents", fields))
    assert there_now["id"] != gone["id"]
    assert agents_of(await talk.turn({"text": "Here."}, ask=f"@{gone['name']}")) == [there_now["id"]]


async def test_a_message_to_another_agent_steers_the_running_turn_unless_it_is_queued(
    api: httpx.AsyncClient,
) -> None:
    talk, host = await hosted(api)
    billing = await new_agent(api)
    await add(talk, billing)
    name = f"@{billing['name']}"
    slow = {"text": "Slowly.", "tokens": 20, "delay_ms": 50}
    async with talk.follow() as stream:
        await talk.say(script(slow))
        await stream.until("output.message.delta")
        await talk.say(script({"text": "Three."}, ask=name), controls={"when_busy": "queue"})
        await talk.say(script({"text": "Steered."}, ask=name))
        events = [each.data for each in await stream.until("session.idled") if each.logged]
    assert agents_of(events) == [host["id"], billing["id"]]
    assert [text_in(each) for each in await talk.messages() if each["role"] == "agent"][1:] == [
        "Steered.",
        "Three.",
    ]


async def test_an_interruption_begins_a_turn_of_the_addressed_agent(api: httpx.AsyncClient) -> None:
    talk, _ = await hosted(api)
    billing = await new_agent(api)
    await add(talk, billing)
    async with talk.follow() as stream:
        await talk.say(script({"text": "Slowly and with words.", "delay_ms": 300}))
        await stream.until("output.message.delta")
        ask = f"@{billing['name']}"
        await talk.say(script({"text": "Three."}, ask=ask), controls={"when_busy": "interrupt"})
        events = [each.data for each in await stream.until("turn.completed") if each.logged]
    assert agents_of(events) == [billing["id"]]


async def test_a_participant_that_hands_off_makes_the_other_agent_the_sessions_own(
    api: httpx.AsyncClient,
) -> None:
    talk, host = await hosted(api)
    refunds = await new_agent(api)
    billing = await new_agent(api, capabilities=[to(refunds)])
    await add(talk, billing)
    await add(talk, refunds)
    events = await talk.turn(passing(refunds), {"text": "Refunded."}, ask=f"@{billing['name']}")
    assert agents_of(events) == [billing["id"], refunds["id"]]
    session = await talk.read()
    assert (session["agent_id"], session["created_with_agent_id"]) == (refunds["id"], host["id"])
    own, member = [each for each in await there(talk) if each["kind"] == "agent"]
    assert (own["agent_id"], own["role"]) == (refunds["id"], "host")
    assert (member["agent_id"], member["role"]) == (billing["id"], "member")
    assert "participant_id" not in (await talk.messages())[-1]["author"]


async def test_the_policies_of_the_sessions_agent_bind_its_participants(api: httpx.AsyncClient) -> None:
    host = await new_agent(api, capabilities=[{"ref": "tool_approval", "config": {"mode": "normal"}}])
    billing = await new_agent(api, capabilities=[{"ref": "session_file_system"}])
    files = [{"path": "/a.md", "content": "x"}]
    talk = await new_talk(api, agent_id=host["id"], initial_files=files)
    await add(talk, billing)
    step = {"tool_calls": [call("delete_file", "call_1", path="/a.md")]}
    message = await talk.say(script(step, {"text": "Gone."}, ask=f"@{billing['name']}"))
    await talk.logged_until("tool.call_requested", after=message["sequence"])
    (item,) = (await get(api, "/v1/inbox", session_id=talk.id))["data"]
    assert (item["agent"], item["asked_by"]["agent_name"]) == (host["name"], billing["name"])
    assert (await get(api, item["links"]["self"]))["asked_by"] == item["asked_by"]
    assert (await get(api, item["links"]["self"]))["schema"]["properties"].keys() >= {"path"}
    report = await get(api, talk.path("/context-report"))
    assert "delete_file" in report["policy"]["approval_required"]
    await post(api, item["links"]["decide"], {"decision": "allow", "arguments": {"path": "/b.md"}}, 200)
    events = await talk.logged_until("session.idled", after=message["sequence"])
    assert agents_of(events) == [billing["id"]] * 2


async def test_values_of_variables_are_those_of_the_addressed_agent(api: httpx.AsyncClient) -> None:
    talk, _ = await hosted(api)
    billing = await new_agent(api, system_prompt="Of {{city}}.", variables={"city": {"default": "Rome"}})
    await add(talk, billing)
    body = {"message": {"content": [{"type": "text", "text": "Hello."}]}, "variables": {"city": "Paris"}}
    assert refusal(await api.post(talk.path("/messages"), json=body)) == (400, "unknown_variable")
    message = await talk.say(f"@{billing['name']} Hello.", variables={"city": "Paris"})
    assert (await talk.logged_until("session.idled", after=message["sequence"]))[-1]


async def test_a_fork_has_the_participants_and_a_deleted_session_has_none(api: httpx.AsyncClient) -> None:
    talk, _ = await hosted(api)
    billing, left = await new_agent(api), await new_agent(api)
    joined = await add(talk, billing)
    await remove(talk, await add(talk, left))
    fork = Talk(api, (await post(api, talk.path("/fork"), {}))["id"])
    agents = [each for each in await there(fork) if each["role"] == "member"]
    assert [each["agent_id"] for each in agents] == [billing["id"]]
    assert agents[0]["id"] != joined["id"]
    ask = f"@{billing['name']}"
    assert agents_of(await fork.turn({"text": "Here."}, ask=ask)) == [billing["id"]]
    assert (await api.delete(talk.path())).status_code in (200, 204)
    assert (await api.get(talk.path("/participants"))).status_code == 404
    assert len(await there(fork)) == 3


async def test_a_fork_from_before_a_handoff_has_the_participant_that_is_now_the_host(
    api: httpx.AsyncClient,
) -> None:
    billing = await new_agent(api)
    host = await new_agent(api, capabilities=[to(billing)])
    talk = await new_talk(api, agent_id=host["id"])
    await add(talk, billing)
    before = (await talk.turn({"text": "Hello."}))[-1]["sequence"]
    await talk.turn(passing(billing), {"text": "Here."})
    fork = Talk(api, (await post(api, talk.path("/fork"), {"from_sequence": before}))["id"])
    agents = [(each["agent_id"], each["role"]) for each in await there(fork) if each["kind"] == "agent"]
    assert agents == [(host["id"], "host"), (billing["id"], "member")]


async def test_a_schedule_may_address_a_participant(api: httpx.AsyncClient) -> None:
    talk, host = await hosted(api)
    billing = await new_agent(api)
    await add(talk, billing)
    message = {"message": script({"text": "Three."}, ask=f"@{billing['name']}, what is the total?")}
    for agent in (billing, host):
        last = (await talk.events())[-1]["sequence"]
        await post(api, talk.path("/schedules"), {**message, "at": soon(0.3)})
        assert agents_of(await talk.logged_until("session.idled", after=last)) == [agent["id"]]
        await patch(api, billing["self_url"], {"status": "archived"})  # then the session's own agent answers


async def test_members_join_for_themselves(server: Server) -> None:
    owner = await with_login(server)
    async with person(server, owner) as http:
        _, member = await add_member(http, "ann")
    async with Client(server.url, token=owner) as mine, Client(server.url, token=member) as theirs:
        session = await mine.create_session()
        joined = await theirs.add_participant(session.id, "user")
        listed = await mine.list_participants(session.id)
        assert [(each.kind, each.role) for each in listed] == [("user", "host"), ("user", "member")]
        assert listed[1] == joined
        agent = await mine.create_agent(fresh("desk"), "Be brief.")
        added = await mine.add_participant(session.id, "agent", agent_id=agent.id)
        message = await mine.send_message(session.id, "Hello.", addressed_participant_id=added.id)
        assert message.sequence is not None
        assert (await mine.remove_participant(session.id, joined.id)).left_at is not None
        assert len(await mine.list_participants(session.id)) == 2
