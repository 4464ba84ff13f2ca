"""What sub-agents and those who began them say to each other: odd, secret, late, or interrupted."""

from __future__ import annotations

import httpx

from tests.journeys.family import (
    begin,
    calls,
    child_of,
    end_in,
    ended_task,
    new_parent,
    result_in,
    text_of_result,
    until_state,
    woken_by,
)
from tests.journeys.test_subagents_ends import APPROVALS, ASKS, FILES, SLOW, heard, parked_on
from tests.server import post
from tests.talk import Json, call, script

SECRET = "hunter2-Tr0ub4dor"
NUL = "a\u0000b\u001b"


def spawn(name: str, instructions: str) -> Json:
    return {"name": "spawn_agent", "arguments": {"name": name, "instructions": instructions}}


async def test_a_secret_of_the_parent_in_what_its_sub_agent_says_is_redacted(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api, capabilities=[FILES, APPROVALS])
    answer = await api.put(talk.path("/storage/secrets"), json={"secrets": {"DOOR": SECRET}})
    assert answer.status_code == 200
    begun = begin("worker", ASKS, mode="background", wake_policy="on_activity")
    await talk.turn(calls(begun), {"text": "Begun."})
    child = child_of(talk, await until_state(talk, "worker", "awaiting_input"))
    report = call(
        "report_to_parent",
        message=f"It is {SECRET}.",
        progress={"label": SECRET},
        artifacts=[{"name": SECRET, "type": "link", "url": f"https://a.example/{SECRET}"}],
    )
    await child.say(script(calls(report), {"text": f"I found {SECRET}."}))
    task = await ended_task(talk, "worker")
    assert task["summary"] == "I found [secret DOOR]."
    for path in ("/tasks", f"/tasks/{task['id']}", "/tree", "/events"):
        shown = await api.get(talk.path(path))
        assert shown.status_code == 200
        assert SECRET not in shown.text, path


async def test_texts_that_a_database_cannot_store_begin_and_end_sub_agents(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    report = call(
        "report_to_parent", message=NUL, progress={"label": NUL}, artifacts=[{"name": NUL, "type": NUL}]
    )
    events = await talk.turn(
        calls(begin(NUL, calls(report), {"text": NUL})),
        calls(spawn(f" {NUL}", NUL)),
        {"text": "Done."},
    )
    first, second = (result_in(events, nth=nth) for nth in range(2))
    assert text_of_result(first) == "a\ufffdb\u001b"
    assert second["success"], second
    tasks = (await api.get(talk.path("/tasks"))).json()
    assert [task["display_name"] for task in tasks] == ["a\ufffdb", "a\ufffdb"]
    assert tasks[1]["artifacts"] == [{"name": "a\ufffdb\u001b", "type": "a\ufffdb\u001b"}]


async def test_blank_names_and_texts_are_refused(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    slow = begin("slow", SLOW, mode="background")
    events = await talk.turn(
        calls(
            spawn(" \u0007", "Go."),
            spawn("a", " \n"),
        ),
        calls(slow),
        {"text": "Done."},
    )
    said = [text_of_result(result_in(events, nth=nth)) for nth in range(2)]
    assert said == ["`name` must not be blank", "`instructions` must not be blank"]
    (task,) = (await api.get(talk.path("/tasks"))).json()
    events = await talk.turn(calls(call("message_task", task_id=task["id"], message=" ")), {"text": "Done."})
    assert text_of_result(result_in(events, "message_task")) == "`message` must not be blank"


async def test_reports_that_arrive_with_the_end_reach_the_model(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    report = calls(call("report_to_parent", message="x" * 70_000), call("report_to_parent", message="Late."))
    quick = begin("quick", report, {"text": "Ended."}, mode="background", wake_policy="on_activity")
    await talk.turn(calls(quick), {"text": "Begun."})
    await ended_task(talk, "quick")
    await heard(
        talk, "Ended."
    )  # on a busy machine, the end comes after what was reported, as another message
    said = "\n".join(woken_by(await talk.events()))
    assert "[A message from the task 'quick'" in said
    assert "Ended." in said
    assert len(said) < 70_000


async def test_a_message_that_interrupts_a_sub_agent_does_not_end_its_task(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    child = await parked_on(talk, "worker", SLOW)
    await child.logged_until("reason.started")
    body: Json = {
        "message": {"content": [{"type": "text", "text": script({"text": "The new answer."})}]},
        "controls": {"when_busy": "interrupt"},
    }
    await post(api, child.path("/messages"), body)
    events = await talk.logged_until("session.idled")
    assert end_in(events, "worker")["state"] == "succeeded"
    assert text_of_result(result_in(events)) == "The new answer."


async def test_a_message_to_a_task_whose_session_was_deleted_says_that_it_has_ended(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_parent(api)
    await talk.turn(calls(begin("gone", SLOW, mode="background")), {"text": "Begun."})
    (task,) = (await api.get(talk.path("/tasks"))).json()
    assert (await api.delete(child_of(talk, task).path(""))).status_code == 204
    events = await talk.turn(calls(call("message_task", task_id=task["id"], message="Hm.")), {"text": "So."})
    assert "has ended" in text_of_result(result_in(events, "message_task"))
