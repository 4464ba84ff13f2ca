"""Many sub-agents of one answer: they begin in one transaction, and each call still has its own outcome."""

from __future__ import annotations

from collections import Counter

import httpx

from tests.talk import Json, body_of, call, new_talk, script, text_in

LIMIT = 25


def begin(name: str, *steps: Json, mode: str = "background", policy: str = "silent") -> Json:
    """A call that begins a sub-agent with a script of its own."""
    return {
        "name": "spawn_agent",
        "arguments": {
            "name": name,
            "instructions": script(*steps),
            "mode": mode,
            "wake_policy": policy,
        },
    }


def data_of(events: list[Json], kind: str) -> list[Json]:
    return [event["data"] for event in events if event["type"] == kind]


async def test_calls_beyond_the_limit_fail_and_the_others_of_the_same_answer_do_not(
    http: httpx.AsyncClient,
) -> None:
    talk = await new_talk(http, capabilities=[{"ref": "subagents"}])
    slow: Json = {"text": "Late.", "first_ms": 60_000}
    calls = [begin(f"errand {number}", slow) for number in range(LIMIT + 2)]
    events = await talk.turn({"tool_calls": calls}, {"text": "They work."})
    results = data_of(events, "tool.completed")
    assert Counter(each["status"] for each in results) == {"success": LIMIT, "error": 2}
    errors = [each["error"] for each in results if each["status"] == "error"]
    assert all(each.startswith(f"{LIMIT} tasks of this session have not ended") for each in errors)
    assert len(data_of(events, "task.created")) == LIMIT
    await talk.cancel()


async def test_a_wait_that_a_message_ends_names_the_tasks_that_have_ended(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http, capabilities=[{"ref": "subagents"}])
    calls = [
        begin("quick", {"text": "Done.", "first_ms": 1_500}, policy="on_terminal"),
        begin("slow", {"text": "Late.", "first_ms": 60_000}, policy="on_terminal"),
    ]
    steps = ({"tool_calls": calls}, {"tool_calls": [call("wait_tasks")]}, {"text": "Waited."})
    await talk.say(script(*steps))
    async with talk.follow(types="task.updated") as stream:
        await stream.until("task.updated", where=lambda event: event["data"]["task"]["state"] == "succeeded")
    message = (await http.post(talk.path("/messages"), json=body_of(script({"text": "Yes?"})))).json()
    events = await talk.logged_until("session.idled", after=message["sequence"])
    (waited,) = data_of(events, "tool.completed")
    assert "These have ended, and `get_task` shows their answers: 'quick' (task_" in text_in(
        {"content": waited["result"]}
    )
    assert "'slow'" not in text_in({"content": waited["result"]})
    await talk.cancel()
