"""How tasks of sub-agents end: each once, whoever ends them, and their parents hear of it once."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.journeys.family import (
    ENDED,
    begin,
    calls,
    child_of,
    children_of,
    end_in,
    ended_task,
    new_parent,
    result_in,
    result_of,
    states_in,
    tasks_in,
    text_of_result,
    until_state,
    until_woken,
    woken_by,
)
from tests.journeys.people import get
from tests.server import post
from tests.talk import Json, Talk, call, script, when

SLOW: Json = {"text": "Slow.", "first_ms": 60_000}
FILES = {"ref": "session_file_system"}
APPROVALS = {"ref": "tool_approval"}
ASKS = calls(call("delete_file", "d1", path="/x"))


async def parked_on(talk: Talk, name: str, *steps: Json, after: int = 0) -> Talk:
    """Begin a sub-agent in the foreground, and wait until the session waits for it."""
    await talk.say(script(calls(begin(name, *steps, _id="c1")), {"text": "Done."}))
    await talk.logged_until("tool.parked", after=after)
    return (await children_of(talk))[name]


async def test_an_approval_of_a_sub_agent_reaches_the_parent_and_the_inbox(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api, capabilities=[FILES, APPROVALS])
    child = await parked_on(talk, "careful", ASKS, ASKS, {"text": "Deleted."})
    assert [each["kind"] for each in (await talk.read())["parked_on"]] == ["child"]
    task = await until_state(talk, "careful", "awaiting_input")
    assert task["input_request"] == {"id": "d1", "prompt": "May delete_file run?"}
    (item,) = (await get(api, "/v1/inbox", session_id=child.id))["data"]
    assert (item["session_id"], item["tool_call_id"]) == (child.id, "d1")
    before = (await talk.events())[-1]["sequence"]
    await post(api, item["links"]["decide"], {"decision": "reject"}, 200)
    await child.logged_until("tool.call_requested", after=(await child.events())[-1]["sequence"] - 1)
    (item,) = (await get(api, "/v1/inbox", session_id=child.id))["data"]
    await post(api, item["links"]["decide"], {"decision": "allow"}, 200)
    events = await talk.logged_until("session.idled", after=before)
    assert end_in(events, "careful")["state"] == "succeeded"
    assert text_of_result(result_in(events)) == "Deleted."


@pytest.mark.parametrize("policy", ["on_activity", "on_terminal", "silent"])
async def test_the_wake_policy_says_which_messages_about_a_task_arrive(
    api: httpx.AsyncClient, policy: str
) -> None:
    talk = await new_parent(api, capabilities=[FILES, APPROVALS])
    report = calls(call("report_to_parent", message="Half done."))
    told = begin("worker", report, ASKS, {"text": "All done."}, mode="background", wake_policy=policy)
    await talk.turn(calls(told), {"text": "Begun."})
    child = (await children_of(talk))["worker"]
    task = await until_state(talk, "worker", "awaiting_input")
    decision = {"decisions": [{"tool_call_id": task["input_request"]["id"], "decision": "allow"}]}
    await post(api, child.path("/tool-approvals"), decision, 200)
    await ended_task(talk, "worker")
    if policy != "silent":
        await heard(talk, "All done.")
    said = woken_by(await talk.events())
    expected = {"on_activity": ["Half done.", "May delete_file run?", "All done."],
                "on_terminal": ["All done."], "silent": []}[policy]  # fmt: skip
    assert [text for text in expected if not any(text in each for each in said)] == []
    assert policy == "on_activity" or len(said) == len(expected)
    received = await talk.events(types="task.message.received")
    assert [each["data"]["message"]["content"][0]["text"] for each in received] == ["Half done."]


async def heard(talk: Talk, text: str) -> None:
    async with talk.follow() as stream:
        await stream.until(
            "input.message",
            where=lambda data: (
                data["data"].get("origin") == "task" and text in json.dumps(data["data"]["message"])
            ),
        )


async def test_a_failed_sub_agent_fails_its_task_and_its_call(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    fail = {"fail": {"code": "provider_auth"}}
    events = await talk.turn(calls(begin("bad", fail)), {"text": "Pity."})
    task = end_in(events, "bad")
    assert (task["state"], task["error"]["kind"]) == ("failed", "provider_auth")
    assert "provider_auth" in text_of_result(result_in(events))
    last = (await talk.turn(calls(begin("worse", fail, mode="background")), {"text": "Begun."}))[-1][
        "sequence"
    ]
    (said,) = (
        await until_woken(talk, after=last)
        if not woken_by(await talk.events())
        else woken_by(await talk.events())
    )
    assert "failed" in said


@pytest.mark.parametrize("how", ["its user", "the parent's tool", "deleted", "archived"])
async def test_a_sub_agent_that_is_ended_by_others_ends_its_task_once(
    api: httpx.AsyncClient, how: str
) -> None:
    talk = await new_parent(api)
    await talk.turn(calls(begin("slow", SLOW, mode="background")), {"text": "Begun."})
    child = (await children_of(talk))["slow"]
    task_id = tasks_in(await talk.events())["slow"][0]["id"]
    await child.logged_until("turn.started")
    match how:
        case "its user":
            await child.cancel()
        case "the parent's tool":
            await talk.turn(
                calls(call("cancel_task", task_id=task_id, reason="Too slow.")),
                calls(call("list_tasks")),
                {"text": "Ok."},
            )
        case "deleted":
            assert (await api.delete(child.path())).status_code == 204
        case "archived":
            assert (await api.put(child.path("/archive"))).status_code == 200
    task = await ended_task(talk, "slow")
    assert task["state"] == "canceled"
    assert task["error"]["kind"] == ("deleted" if how == "deleted" else "canceled")
    if how == "the parent's tool":
        assert "Too slow." in task["error"]["message"]
    await heard(talk, "was canceled")
    await when_at_rest(talk)
    events = await talk.events()
    assert len(woken_by(events)) == 1
    assert [each["state"] for each in tasks_in(events)["slow"] if each["state"] in ENDED] == ["canceled"]
    # Whatever is done to it again changes nothing.
    await child.cancel() if how != "deleted" else None
    assert len(woken_by(await talk.events())) == 1


async def when_at_rest(talk: Talk) -> None:
    async def idle() -> bool:
        return bool((await talk.read())["status"] == "idle")

    await when(idle)


async def test_the_call_that_waits_for_a_cancelled_sub_agent_ends(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    child = await parked_on(talk, "slow", SLOW)
    await child.cancel()
    events = await talk.logged_until("session.idled")
    result = result_in(events)
    assert (result["status"], result["success"]) == ("cancelled", False)
    assert "was canceled" in text_of_result(result)
    assert woken_by(events) == []


async def test_a_sub_agent_that_takes_too_long_fails_its_task(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    await talk.say(
        script(
            calls(
                begin("late", SLOW, _id="a", time_limit=1),
                begin("lost", SLOW, mode="background", time_limit=1),
            ),
            {"text": "Done."},
        )
    )
    events = await talk.logged_until("session.idled")
    assert result_of(events, "a")["status"] == "timeout"
    assert "time_limit" in text_of_result(result_of(events, "a"))
    for name in ("late", "lost"):
        task = await ended_task(talk, name)
        assert (task["state"], task["error"]["kind"]) == ("failed", "time_limit"), name
        assert (await child_of(talk, task).read())["status"] == "idle"
    await heard(talk, "lost")


async def tree(http: httpx.AsyncClient) -> list[Talk]:
    """A session with a sub-agent, which has one, which has one: the last one works for long."""
    third = begin("third", SLOW)
    second = begin("second", calls(third), {"text": "2."})
    first = begin("first", calls(second), {"text": "1."})
    talks = [await new_parent(http)]
    await talks[0].say(script(calls(first), {"text": "0."}))
    for name in ("first", "second", "third"):
        await talks[-1].logged_until("tool.parked")
        talks.append((await children_of(talks[-1]))[name])
    await talks[-1].logged_until("turn.started")
    return talks


async def test_a_cancel_goes_down_the_tree(api: httpx.AsyncClient) -> None:
    talks = await tree(api)
    await talks[0].cancel()
    for talk, name in zip(talks, ("first", "second", "third"), strict=False):
        assert (await ended_task(talk, name))["state"] == "canceled"
    for talk in talks:
        await when_at_rest(talk)
        events = await talk.events()
        assert sum(each["type"] == "turn.cancelled" for each in events) == 1
        for states in tasks_in(events).values():
            assert sum(each["state"] in ENDED for each in states) == 1


async def test_a_deletion_goes_down_the_tree(api: httpx.AsyncClient) -> None:
    talks = await tree(api)
    assert (await api.delete(talks[1].path())).status_code == 204
    task = await ended_task(talks[0], "first")
    assert (task["state"], task["error"]["kind"]) == ("canceled", "deleted")

    async def gone() -> bool:
        return all([(await api.get(talk.path())).status_code == 404 for talk in talks[1:]])

    await when(gone)
    await when_at_rest(talks[0])


async def test_an_interrupting_message_cancels_what_the_turn_waits_for_and_nothing_else(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_parent(api)
    await talk.turn(calls(begin("aside", SLOW, mode="background")), {"text": "Begun."})
    last = (await talk.events())[-1]["sequence"]
    child = await parked_on(talk, "awaited", SLOW, after=last)
    await talk.say(script({"text": "Never mind."}), controls={"when_busy": "interrupt"})
    assert (await ended_task(talk, "awaited"))["state"] == "canceled"
    await when_at_rest(child)
    assert states_in(await talk.events(), "aside")[-1] in ("queued", "running")
    await talk.cancel()
    assert (await ended_task(talk, "aside"))["state"] == "canceled"


async def test_a_users_message_lets_the_awaited_task_go_on(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api, capabilities=[FILES, APPROVALS])
    child = await parked_on(talk, "careful", ASKS, {"text": "Deleted."})
    await until_state(talk, "careful", "awaiting_input")
    events = await talk.turn({"text": "Meanwhile."}, ask="Something else.")
    assert "go on" in text_of_result(result_in(await talk.events()))
    await post(
        api, child.path("/tool-approvals"), {"decisions": [{"tool_call_id": "d1", "decision": "allow"}]}, 200
    )
    await heard(talk, "Deleted.")
    await when_at_rest(talk)
    (said,) = woken_by(await talk.events())
    assert "Deleted." in said
    assert events


async def test_spawning_races_with_cancelling(api: httpx.AsyncClient) -> None:
    """Whoever is first: no sub-agent works for a turn that was cancelled, and each task ends once."""
    talks = [await new_parent(api) for _ in range(6)]
    many = calls(*(begin(f"s{n}", SLOW, mode="background") for n in range(5)))

    async def race(talk: Talk, number: int) -> None:
        await talk.say(script(many, {"text": "Begun."}))
        kind = ("turn.started", "tool.started", "task.created")[number % 3]
        await talk.logged_until(kind)
        await talk.cancel()
        await talk.cancel()  # of what was begun between its first look and its cancel

    await asyncio.gather(*(race(talk, number) for number, talk in enumerate(talks)))
    for talk in talks:
        await when_at_rest(talk)
        for name in tasks_in(await talk.events()):
            assert (await ended_task(talk, name))["state"] == "canceled"
        for child in (await children_of(talk)).values():
            await when_at_rest(child)
        events = await talk.events()
        for name in tasks_in(events):
            end_in(events, name)


async def test_waits_for_tasks(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    quick, slow = begin("quick", {"text": "Q."}, mode="background"), begin("slow", SLOW, mode="background")
    await talk.turn(calls(quick, slow), {"text": "Begun."})
    await heard(talk, "Q.")
    await until_state(talk, "slow", "running")
    await when_at_rest(talk)
    ids = {name: states[0]["id"] for name, states in tasks_in(await talk.events()).items()}
    last = (await talk.events())[-1]["sequence"]
    both = [ids["quick"], ids["slow"]]  # two calls at once may begin them in either order
    await talk.say(
        script(
            calls(
                call("wait_tasks", "any", tasks=both, until="any"),
                call("wait_tasks", "done", tasks=[ids["quick"]]),
                call("wait_tasks", "late", tasks=[ids["slow"]], timeout=1),
                call("wait_tasks", "all", tasks=both),
                call("wait_tasks", "open"),
                call("wait_tasks", "other", tasks=[f"task_{'0' * 32}"]),
                call("wait_tasks", "wrong", tasks=["nonsense"]),
                call("message_task", "m", task_id=ids["quick"], message="More?"),
                call("get_task", "g", task_id=ids["quick"]),
            ),
            {"text": "Waited."},
        )
    )
    async with talk.follow(after_sequence=last) as stream:
        # Both calls that wait for the slow one get its end.
        await stream.until("tool.completed", where=lambda data: data["data"]["tool_call_id"] == "late")
        await child_of(talk, tasks_in(await talk.events())["slow"][-1]).cancel()
        await stream.until("session.idled")
    events = await talk.events()
    assert [each["state"] for each in json.loads(text_of_result(result_of(events, "any")))] == [
        "succeeded",
        "running",
    ]
    for call_id in ("done", "all", "open"):
        found = json.loads(text_of_result(result_of(events, call_id)))
        assert {each["name"]: each["state"] for each in found}.items() <= {
            "quick": "succeeded", "slow": "canceled",
        }.items()  # fmt: skip
    assert "go on" in text_of_result(result_of(events, "late"))
    assert "no task" in text_of_result(result_of(events, "other"))
    assert not result_of(events, "wrong")["success"]
    assert "has ended" in text_of_result(result_of(events, "m"))
    assert json.loads(text_of_result(result_of(events, "g")))["answer"] == "Q."
    assert [text for text in woken_by(events) if "slow" in text] == []


async def test_a_new_session_has_nothing_to_wait_for(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    events = await talk.turn(
        calls(call("wait_tasks"), call("list_tasks"), call("report_to_parent", message="Hello?")),
        {"text": "Ok."},
    )
    assert json.loads(text_of_result(result_in(events, "wait_tasks"))) == []
    assert json.loads(text_of_result(result_in(events, "list_tasks"))) == {"tasks": []}
    assert "answer the user instead" in text_of_result(result_in(events, "report_to_parent"))
