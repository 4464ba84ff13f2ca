"""Handoff: an agent passes its session on to another agent."""

from __future__ import annotations

from typing import Any

import httpx

from perdure.app.handoffs import MAX_HANDOFFS
from tests.journeys.people import elsewhere, get, new_agent, patch
from tests.server import post
from tests.talk import Json, Talk, call, kinds_of, new_talk, script, text_in

TOOL = "handoff_to_agent"
ASK_USER = {"type": "client_side", "name": "ask_user", "description": "Ask.", "parameters": {}}


def to(*agents: Json, **config: Any) -> Json:
    """The capability that hands off to these agents."""
    return {"ref": "handoff", "config": {"agents": [each["name"] for each in agents], **config}}


def passing(agent: Json, _id: str | None = None, **arguments: Any) -> Json:
    """A step that hands off to an agent."""
    return {"tool_calls": [call(TOOL, _id, agent=agent["name"], **arguments)]}


async def triage(api: httpx.AsyncClient, *others: Json, **fields: Any) -> Talk:
    """A session of an agent that hands off to the others."""
    host = await new_agent(api, system_prompt="You are triage.", capabilities=[to(*others)])
    return await new_talk(api, agent_id=host["id"], **fields)


def agents_of(events: list[Json]) -> list[str]:
    """The agents of the model calls, in order."""
    return [each["data"]["agent_id"] for each in events if each["type"] == "reason.started"]


def results_of(events: list[Json]) -> list[str]:
    """The results and errors of tool calls."""
    ends = [each["data"] for each in events if each["type"] == "tool.completed"]
    return [each["error"] if each.get("error") else each["result"][0]["text"] for each in ends]


async def seen_last(talk: Talk) -> list[Json]:
    """The messages that the newest model call got."""
    seen: list[Json] = (await talk.events(types="llm.generation"))[-1]["data"]["messages"]
    return seen


async def test_the_next_model_call_of_the_turn_is_the_other_agents_with_the_whole_history(
    api: httpx.AsyncClient,
) -> None:
    billing = await new_agent(api, system_prompt="You are billing.", description="Knows every bill.")
    talk = await triage(api, billing)
    host = (await talk.read())["agent_id"]
    await talk.turn({"text": "Noted."}, ask="My number is 4711.")
    events = await talk.turn(passing(billing, reason="It is about a bill."), {"text": "You owe 3."})
    assert agents_of(events) == [host, billing["id"]]
    (handed,) = [each["data"] for each in events if each["type"] == "session.handed_off"]
    assert (handed["from_agent_id"], handed["to_agent_id"]) == (host, billing["id"])
    assert (handed["reason"], handed["history"]) == ("It is about a bill.", "full")
    assert kinds_of(events).count("turn.started") == kinds_of(events).count("turn.completed") == 1
    session = await talk.read()
    assert (session["agent_id"], session["created_with_agent_id"]) == (billing["id"], host)
    assert session.get("agent_version_id") == billing.get("default_version_id")
    (written,) = [each for each in await talk.messages() if each.get("author")]
    assert (written["author"]["agent_name"], text_in(written)) == (billing["name"], "You owe 3.")
    seen = [text_in(each) for each in await seen_last(talk)]
    assert "4711" in seen[0]
    name = (await get(api, f"/v1/agents/{host}"))["name"]
    assert seen[1] == f"[Written by another agent, {name}:]\nNoted."
    later = await talk.turn({"text": "Yes."})
    assert agents_of(later) == [billing["id"]]
    assert text_in((await seen_last(talk))[-2]) == "You owe 3."


async def test_with_a_summary_the_conversation_of_the_other_agent_begins_with_it(
    api: httpx.AsyncClient,
) -> None:
    billing = await new_agent(api)
    host = await new_agent(api, capabilities=[to(billing, history="summary")])
    talk = await new_talk(api, agent_id=host["id"])
    await talk.turn({"text": "Noted."}, ask="My number is 4711.")
    events = await talk.turn(passing(billing, summary="They want the total of 4711."))
    assert agents_of(events) == [host["id"], billing["id"]]
    assert kinds_of(events).count("context.compacted") == 1
    first, answer, result = await seen_last(talk)
    assert "They want the total of 4711." in text_in(first)
    assert "query_history" not in text_in(first)  # the other agent has no such tool
    assert (answer["role"], result["role"]) == ("agent", "tool_result")
    assert "They want the total of 4711." in text_in((await talk.messages())[-1])
    assert len(await talk.messages()) == 6  # the log keeps everything
    told = (await talk.events(types="context.compacted"))[0]["data"]
    assert (told["strategy_used"], told["messages_before"]) == ("summary", 3)
    again = await talk.turn(passing(billing))
    assert "no tool" in results_of(again)[0]  # billing cannot hand off


async def test_a_summary_is_needed_where_the_history_is_one(api: httpx.AsyncClient) -> None:
    billing = await new_agent(api)
    talk = await new_talk(api, capabilities=[to(billing, history="summary")])
    events = await talk.turn(passing(billing), passing(billing, summary="  "), {"text": "No."})
    missing, blank = results_of(events)
    assert "summary" in missing
    assert "knows nothing but" in blank
    assert "agent_id" not in await talk.read()


async def test_a_session_without_an_agent_can_be_handed_off(api: httpx.AsyncClient) -> None:
    billing = await new_agent(api)
    talk = await new_talk(api, capabilities=[to(billing)])
    events = await talk.turn(passing(billing, summary="They are a good client."), {"text": "Hello."})
    assert "They are a good client." in results_of(events)[0]
    session = await talk.read()
    assert (session["agent_id"], session.get("created_with_agent_id")) == (billing["id"], None)
    assert text_in((await seen_last(talk))[1]).startswith("[Written by another agent, ")


async def test_handing_off_to_an_archived_an_unknown_or_the_same_agent_is_an_error_of_the_tool(
    api: httpx.AsyncClient,
) -> None:
    billing, gone, deleted = [await new_agent(api) for _ in range(3)]
    host = await new_agent(api)
    await patch(api, host["self_url"], {"capabilities": [to(billing, gone, deleted, host)]})
    talk = await new_talk(api, agent_id=host["id"])
    await patch(api, gone["self_url"], {"status": "archived"})
    await patch(api, deleted["self_url"], {"status": "deleted"})
    steps = [passing(each) for each in (gone, deleted, {"name": "nobody"}, host)]
    archived, removed, unknown, same = results_of(await talk.turn(*steps, {"text": "Well."}))
    assert f"{gone['name']!r} is archived" in archived
    assert f"{deleted['name']!r} is deleted" in removed
    assert f"There are: {', '.join(sorted((billing['name'], host['name'])))}" in unknown
    assert "you are" in same
    assert "created_with_agent_id" not in await talk.read()


async def test_the_tool_lists_the_agents_that_can_be_chosen_by_name(api: httpx.AsyncClient) -> None:
    those = [await new_agent(api, description=f"Number {number}.\nMore.") for number in (1, 2, 3)]
    await patch(api, those[1]["self_url"], {"status": "archived"})
    talk = await new_talk(api, capabilities=[to(*reversed(those))])
    await talk.turn({"text": "Hello."})
    digest = (await talk.events(types="reason.started"))[0]["data"]["discovered_tools"]
    await talk.turn({"text": "Hello."})
    assert (await talk.events(types="reason.started"))[1]["data"]["discovered_tools"] == digest
    await patch(api, those[0]["self_url"], {"description": "Another."})
    await talk.turn({"text": "Hello."})
    assert (await talk.events(types="reason.started"))[2]["data"]["discovered_tools"] != digest


async def test_an_agent_that_the_organization_never_had_fails_the_turn_with_its_name(
    api: httpx.AsyncClient,
) -> None:
    headers = await elsewhere(api)
    body = {"name": "stranger", "system_prompt": "x"}
    stranger = (await api.post("/v1/agents", json=body, headers=headers)).json()["id"]
    for name in ("nobody", stranger):
        talk = await new_talk(api, capabilities=[to({"name": name})])
        message = await talk.say("Hello.")
        (failed,) = (await talk.logged_until("turn.failed", after=message["sequence"]))[-1:]
        assert failed["data"]["error_code"] == "discovery_failed"
        assert f"no agent {name!r}" in failed["data"]["error"]


async def test_the_configuration_is_checked_when_it_is_saved(api: httpx.AsyncClient) -> None:
    for config in ({}, {"agents": []}, {"agents": ["x"] * 21}, {"agents": ["x"], "history": "some"}):
        body = {"capabilities": [{"ref": "handoff", "config": config}]}
        assert (await api.post("/v1/sessions", json=body)).status_code == 400


async def test_two_agents_cannot_throw_a_session_to_each_other_for_ever(api: httpx.AsyncClient) -> None:
    one, two = [await new_agent(api) for _ in range(2)]
    await patch(api, one["self_url"], {"capabilities": [to(two)]})
    await patch(api, two["self_url"], {"capabilities": [to(one)]})
    talk = await new_talk(api, agent_id=one["id"])
    throws = [passing((two, one)[number % 2]) for number in range(MAX_HANDOFFS + 1)]
    events = await talk.turn(*throws, {"text": "Enough."})
    assert kinds_of(events).count("session.handed_off") == MAX_HANDOFFS
    assert f"at most {MAX_HANDOFFS}" in results_of(events)[-1]
    assert (await talk.read())["agent_id"] == one["id"]
    # Nothing of this is left in the next turn.
    assert kinds_of(await talk.turn(passing(two), {"text": "Again."})).count("session.handed_off") == 1


async def test_one_answer_hands_off_once(api: httpx.AsyncClient) -> None:
    one, two = [await new_agent(api) for _ in range(2)]
    talk = await triage(api, one, two)
    both = {"tool_calls": [call(TOOL, each["name"][-6:], agent=each["name"]) for each in (one, two)]}
    done, refused = results_of(await talk.turn(both, {"text": "Well."}))
    assert one["name"] in done
    assert "already" in refused
    assert (await talk.read())["agent_id"] == one["id"]


async def test_calls_of_the_same_answer_stay_those_of_the_agent_that_made_them(
    api: httpx.AsyncClient,
) -> None:
    billing = await new_agent(api)
    host = await new_agent(api, capabilities=[to(billing)], tools=[ASK_USER])
    talk = await new_talk(api, agent_id=host["id"])
    step = {"tool_calls": [call("ask_user", "mine"), *passing(billing, "theirs")["tool_calls"]]}
    message = await talk.say(script(step, {"text": "Done."}))
    await talk.logged_until("tool.call_requested", after=message["sequence"])
    assert (await talk.read())["agent_id"] == billing["id"]
    await talk.answer({"tool_call_id": "mine", "result": "yes"})
    events = await talk.logged_until("session.idled", after=message["sequence"])
    assert agents_of(events) == [host["id"], billing["id"]]
    assert "yes" in results_of(events)


async def test_the_policies_of_the_first_agent_keep_binding(api: httpx.AsyncClient) -> None:
    billing = await new_agent(api, capabilities=[{"ref": "session_file_system"}])
    stat = {"type": "builtin", "name": "stat_file", "description": "Stat.", "parameters": {}}
    tools = [{**stat, "policy": "requires_approval"}]
    host = await new_agent(
        api,
        capabilities=[to(billing), {"ref": "tool_approval", "config": {"mode": "normal"}}],
        tools=tools,
        network_access={"allowed": ["example.com"]},
    )
    talk = await new_talk(api, agent_id=host["id"], initial_files=[{"path": "/a.md", "content": "x"}])
    deletes = {"tool_calls": [call("delete_file", "call_1", path="/a.md"), call("stat_file", path="/a.md")]}
    message = await talk.say(script(passing(billing), deletes, {"text": "Gone."}))
    events = await talk.logged_until("tool.call_requested", after=message["sequence"])
    asked = [each["arguments"]["tool_name"] for each in events[-1]["data"]["tool_calls"]]
    assert asked == ["delete_file", "stat_file"]
    report = await get(api, talk.path("/context-report"))
    assert report["policy"]["allowed_hosts"] == [["example.com"]]
    await talk.cancel()
    await patch(api, host["self_url"], {"status": "archived"})  # its policies hold all the same
    assert agents_of(await talk.turn({"text": "Here."})) == [billing["id"]]


async def test_an_agent_whose_tools_or_variables_do_not_fit_is_not_handed_the_session(
    api: httpx.AsyncClient,
) -> None:
    clashing = await new_agent(api, tools=[ASK_USER])
    asking = await new_agent(api, system_prompt="Of {{city}}.", variables={"city": {}})
    talk = await triage(api, clashing, asking, tools=[ASK_USER])
    clash, missing = results_of(await talk.turn(passing(clashing), passing(asking), {"text": "No."}))
    assert "two tools are named 'ask_user'" in clash
    assert "city" in missing
    assert "created_with_agent_id" not in await talk.read()


async def test_a_fork_has_the_agent_of_its_moment(api: httpx.AsyncClient) -> None:
    billing, third = await new_agent(api), await new_agent(api)
    talk = await triage(api, billing)
    host = (await talk.read())["agent_id"]
    before = await talk.turn({"text": "One."})
    after = await talk.turn(passing(billing), {"text": "Two."})

    async def fork(**fields: Any) -> Talk:
        return Talk(api, (await post(api, talk.path("/fork"), fields))["id"])

    early = await fork(from_sequence=before[-1]["sequence"])
    assert (await early.read())["agent_id"] == host
    assert "created_with_agent_id" not in await early.read()
    late = await fork(from_sequence=after[-1]["sequence"])
    assert (await late.read())["agent_id"] == billing["id"]
    assert (await late.read())["created_with_agent_id"] == host
    other = await fork(agent_id=third["id"])
    assert (await other.read())["agent_id"] == third["id"]
    again = Talk(api, (await post(api, other.path("/fork"), {}))["id"])
    assert (await again.read())["agent_id"] == third["id"]
    assert agents_of(await late.turn({"text": "Three."})) == [billing["id"]]


async def test_lists_of_sessions_find_a_session_under_its_new_agent(api: httpx.AsyncClient) -> None:
    billing = await new_agent(api)
    talk = await triage(api, billing, title="handed over")
    await talk.turn(passing(billing), {"text": "Two."})
    for query in ({}, {"search": "handed over"}):
        found = await get(api, "/v1/sessions", agent_id=billing["id"], **query)
        assert [each["id"] for each in found["data"]] == [talk.id]
