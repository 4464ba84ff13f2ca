"""Tasks over HTTP: read, list, follow and stop what sessions have begun."""

from __future__ import annotations

import asyncio

import httpx

from perdure.domain.ids import new_id
from tests.journeys.families import (
    ASKS,
    CAPABILITIES,
    SLOW,
    WEATHER,
    all_ended,
    new_family,
    spawns,
    task_in,
    tasks_of,
)
from tests.journeys.world import refusal
from tests.talk import Json, Talk, call, new_talk, script


async def test_a_session_lists_its_tasks_newest_first_and_filters_and_pages_them(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_family(api, spawns("one", {"text": "1"}), spawns("two", SLOW), spawns("three", SLOW))
    names = [task["display_name"] for task in await tasks_of(talk)]
    assert sorted(names) == ["one", "three", "two"]
    newest, middle, oldest = [task["id"] for task in await tasks_of(talk)]
    by_name = {task["display_name"]: task["id"] for task in await tasks_of(talk)}
    await task_in(talk, by_name["one"], "succeeded")
    await task_in(talk, by_name["two"], "running")
    assert [task["id"] for task in await tasks_of(talk, state="succeeded,failed")] == [by_name["one"]]
    assert {task["id"] for task in await tasks_of(talk, state=["queued", "running", "awaiting_input"])} == {
        by_name["two"],
        by_name["three"],
    }
    assert await tasks_of(talk, kind="background_tool") == []
    assert len(await tasks_of(talk, kind="subagent")) == 3
    assert [task["id"] for task in await tasks_of(talk, limit=2)] == [newest, middle]
    assert [task["id"] for task in await tasks_of(talk, limit=2, before=middle)] == [oldest]
    assert await tasks_of(talk, before=oldest) == []
    # A cursor whose task is gone still says where to go on.
    assert [task["id"] for task in await tasks_of(talk, before=new_id("task"))] == [newest, middle, oldest]
    assert await tasks_of(talk, before=new_id("task", 1)) == []
    await api.delete(talk.path())


async def test_what_a_filter_does_not_know_is_refused(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    for path in (talk.path("/tasks"), "/v1/tasks"):
        for query, code in (
            ({"state": "done"}, "invalid_request"),
            ({"kind": "dream"}, "invalid_request"),
            ({"before": "task_1"}, "invalid_id"),
            ({"limit": "0"}, "invalid_request"),
            ({"limit": "1001"}, "invalid_request"),
        ):
            answer = await api.get(path, params=query)
            assert refusal(answer)[0] == 400, (path, query, answer.text)
            assert code in ("invalid_request", answer.json()["code"])
    for query in ({"root_session_id": "x"}, {"created_after": "yesterday"}):
        assert refusal(await api.get("/v1/tasks", params=query))[0] == 400
    assert refusal(await api.get(talk.path("/tasks/task_1"))) == (400, "invalid_id")
    missing = talk.path(f"/tasks/{new_id('task')}")
    assert refusal(await api.get(missing)) == (404, "task_not_found")
    assert refusal(await api.post(f"{missing}/cancel")) == (404, "task_not_found")
    assert refusal(await api.post(f"{missing}/messages", json={"text": "Hi."})) == (404, "task_not_found")


async def test_a_task_of_one_session_is_not_found_in_another(api: httpx.AsyncClient) -> None:
    talk = await new_family(api, spawns("one", {"text": "1"}))
    (task,) = await all_ended(talk)
    other = await new_talk(api)
    assert refusal(await api.get(other.path(f"/tasks/{task['id']}"))) == (404, "task_not_found")
    assert refusal(await api.post(other.path(f"/tasks/{task['id']}/cancel"))) == (404, "task_not_found")
    assert await tasks_of(other) == []


async def test_tasks_of_all_sessions_are_listed_by_tree_and_time(api: httpx.AsyncClient) -> None:
    inner = {"tool_calls": [spawns("inner", {"text": "deep"}, mode="foreground")]}
    talk = await new_family(api, spawns("outer", inner, {"text": "done"}, mode="foreground"))
    other = await new_family(api, spawns("other", {"text": "1"}))
    (task,) = await tasks_of(talk)
    whole = (await api.get("/v1/tasks", params={"root_session_id": talk.id})).json()
    assert [each["display_name"] for each in whole] == ["inner", "outer"]
    assert [each["session_id"] for each in whole] == [task["links"]["child_session_id"], talk.id]
    everything = (await api.get("/v1/tasks", params={"limit": 3})).json()
    assert [each["display_name"] for each in everything] == ["other", "inner", "outer"]
    since = {"created_after": task["created_at"], "limit": 1000}
    later = [each["display_name"] for each in (await api.get("/v1/tasks", params=since)).json()]
    assert later == ["other", "inner"]
    rest = (await api.get("/v1/tasks", params={"before": everything[0]["id"], "limit": 1})).json()
    assert [each["display_name"] for each in rest] == ["inner"]
    assert (await all_ended(other))[0]["state"] == "succeeded"


async def test_a_task_shows_the_messages_of_both_sides_in_the_order_of_the_log(
    api: httpx.AsyncClient,
) -> None:
    said = [{"tool_calls": [call("report_to_parent", message=f"part {number}")]} for number in range(3)]
    talk = await new_family(api, spawns("writer", *said, {"text": "done"}))
    (task,) = await all_ended(talk)
    path = talk.path(f"/tasks/{task['id']}")
    detail = (await api.get(path)).json()
    assert detail["task"] == task
    texts = [message["content"][0]["text"] for message in detail["messages"]]
    assert texts == ["part 0", "part 1", "part 2"]
    assert {message["direction"] for message in detail["messages"]} == {"outbound"}
    first = (await api.get(path, params={"limit": 1})).json()["messages"]
    assert first == detail["messages"][:1]
    rest = (await api.get(path, params={"after_id": first[0]["id"]})).json()["messages"]
    assert rest == detail["messages"][1:]
    assert (await api.get(path, params={"after_id": rest[-1]["id"]})).json()["messages"] == []
    unknown = await api.get(path, params={"after_id": new_id("message")})
    assert refusal(unknown) == (404, "task_message_not_found")


async def test_a_cancel_asks_a_task_to_stop_and_stops_it_once(api: httpx.AsyncClient) -> None:
    talk = await new_family(api, spawns("endless", SLOW))
    (task,) = await tasks_of(talk)
    await task_in(talk, task["id"], "running")
    path = talk.path(f"/tasks/{task['id']}/cancel")
    answers = [each.json() for each in await asyncio.gather(*(api.post(path) for _ in range(4)))]
    assert {each["id"] for each in answers} == {task["id"]}
    ended = await task_in(talk, task["id"], "canceled")
    assert (ended["error"]["kind"], bool(ended["cancel_requested_at"])) == ("canceled", True)
    assert ended["error"]["message"] == "cancelled by a user"
    assert (await api.post(path)).json() == ended
    states = [
        event["data"]["task"]["state"] for event in await talk.events(types=["task.created", "task.updated"])
    ]
    assert states.count("canceled") == 1
    assert states[-1] == "canceled"
    child = Talk(api, task["links"]["child_session_id"])
    assert (await child.read())["status"] == "idle"


async def test_a_cancel_of_a_task_that_has_ended_changes_nothing(api: httpx.AsyncClient) -> None:
    talk = await new_family(api, spawns("quick", {"text": "done"}))
    (task,) = await all_ended(talk)
    before = await talk.events()
    answer = await api.post(talk.path(f"/tasks/{task['id']}/cancel"))
    assert (answer.status_code, answer.json()) == (200, task)
    assert await talk.events() == before


async def test_a_user_does_not_message_a_task_but_its_session(api: httpx.AsyncClient) -> None:
    talk = await new_family(api, spawns("asker", ASKS, {"text": "done"}), tools=[WEATHER])
    (task,) = await tasks_of(talk)
    waiting = await task_in(talk, task["id"], "awaiting_input")
    assert "weather" in waiting["input_request"]["prompt"]
    path, child_id = talk.path(f"/tasks/{task['id']}/messages"), task["links"]["child_session_id"]
    bodies: list[Json] = [{"text": "Hurry."}, {"content": [{"type": "text", "text": "Hurry."}]}]
    for body in bodies:
        answer = await api.post(path, json=body)
        assert refusal(answer) == (400, "task_reads_no_messages")
        assert f"POST /v1/sessions/{child_id}/messages" in answer.json()["detail"]
    for body in ({}, {"text": "x", "content": []}):
        assert refusal(await api.post(path, json=body)) == (400, "invalid_request")
    child = Talk(api, child_id)
    await child.answer({"tool_call_id": (await _asked(child)), "result": "sunny"})
    assert (await task_in(talk, task["id"], "succeeded"))["summary"] == "done"


async def _asked(child: Talk) -> str:
    (event,) = await child.events(types="tool.call_requested")
    return str(event["data"]["tool_calls"][0]["id"])


async def test_a_deleted_session_takes_its_tasks_with_it(api: httpx.AsyncClient) -> None:
    inner = {"tool_calls": [spawns("inner", SLOW)]}
    talk = await new_family(api, spawns("outer", inner, SLOW))
    (task,) = await tasks_of(talk)
    child = Talk(api, task["links"]["child_session_id"])
    await child.logged_until("task.created")
    tree = {"root_session_id": talk.id}
    assert len((await api.get("/v1/tasks", params=tree)).json()) == 2
    assert (await api.delete(talk.path())).status_code == 204
    assert (await api.get("/v1/tasks", params=tree)).json() == []
    assert refusal(await api.get(talk.path("/tasks"))) == (404, "session_not_found")
    assert refusal(await api.get(talk.path(f"/tasks/{task['id']}"))) == (404, "session_not_found")
    assert refusal(await api.get(child.path())) == (404, "session_not_found")


async def test_a_fork_copies_no_tasks_and_its_history_still_has_them(api: httpx.AsyncClient) -> None:
    talk = await new_family(api, spawns("endless", SLOW))
    (task,) = await tasks_of(talk)
    fork = Talk(api, (await api.post(talk.path("/fork"), json={})).json()["id"])
    assert await tasks_of(fork) == []
    assert "task.created" in [event["type"] for event in await fork.events()]
    copied = await fork.read()
    assert not {"parent_session_id", "root_session_id", "task_id"} & copied.keys()
    # Neither the end of the original's task nor a turn of the copy disturbs the other.
    await api.post(talk.path(f"/tasks/{task['id']}/cancel"))
    await task_in(talk, task["id"], "canceled")
    assert "turn.completed" in [event["type"] for event in await fork.turn({"text": "still here"})]
    assert refusal(await api.post(fork.path(f"/tasks/{task['id']}/cancel"))) == (404, "task_not_found")


async def test_a_fork_of_a_session_that_waits_for_a_sub_agent_waits_for_nobody(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api, capabilities=CAPABILITIES)
    await talk.say(script({"tool_calls": [spawns("slow", SLOW, mode="foreground")]}))
    await talk.logged_until("tool.parked")
    fork = Talk(api, (await api.post(talk.path("/fork"), json={})).json()["id"])
    events = await fork.turn({"text": "Without it."})
    assert "turn.completed" in [event["type"] for event in events]
    assert await tasks_of(fork) == []
    await api.delete(talk.path())
