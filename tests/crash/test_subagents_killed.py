"""kill -9 around sub-agents: none is begun twice, no message is lost or doubled, and each task ends once."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.crash import dying_in_tasks, poisoned
from tests.crash.test_poison import outlive
from tests.journeys.family import (
    begin,
    calls,
    children_of,
    end_in,
    ended_task,
    new_parent,
    result_in,
    tasks_in,
    text_of_result,
    until_state,
    woken_by,
)
from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, call, script, when

ASK = {"type": "client_side", "name": "ask", "description": "Ask.", "parameters": {"type": "object"}}
ASKS: Json = calls(call("ask", "q1"))


def place(name: str) -> tuple[str, ...]:
    return dying_in_tasks.__file__, name


async def at_rest(talk: Talk) -> None:
    async def idle() -> bool:
        return bool((await talk.read())["status"] == "idle")

    await when(idle)


async def test_a_server_dies_between_the_logs_of_parent_and_child(database_url: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", database_url=database_url)
    server.program = place("spawned")
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:

        async def dies(next_place: str | None) -> None:
            await server.ended()
            server.program = () if next_place is None else place(next_place)
            await server.start()

        await use_simulated_model(http)
        talk = await new_parent(http, tools=[ASK])
        begun = begin("worker", ASKS, mode="background", wake_policy="on_activity")
        await talk.say(script(calls(begun), {"text": "Begun."}))
        await dies("sent")
        task = await until_state(talk, "worker", "awaiting_input")
        await at_rest(talk)
        child = (await children_of(talk))["worker"]
        steps = calls(call("report_to_parent", message="Half done.")), {"text": "All done."}
        send = call("message_task", task_id=task["id"], message=script(*steps))
        await talk.say(script(calls(send), {"text": "Sent."}))
        await dies("reported")
        await dies("settled")
        await dies(None)
        await ended_task(talk, "worker")
        await until_told(talk, "All done.")
        await at_rest(talk)
        events = await talk.events()
        assert end_in(events, "worker")["state"] == "succeeded"
        kinds = [event["type"] for event in events]
        for kind in ("task.created", "task.message.sent", "task.message.received"):
            assert kinds.count(kind) == 1, kind
        for text in ("Half done.", "All done."):
            assert sum(text in each for each in woken_by(events)) == 1, text
        inside = [event["type"] for event in await child.events()]
        assert inside.count("input.message") == 2
        assert inside.count("task.reported") == 1
        assert len(await children_of(talk)) == 1


async def until_told(talk: Talk, text: str) -> None:
    async def told() -> bool:
        return any(text in each for each in woken_by(await talk.events()))

    await when(told)


async def test_a_server_dies_while_sessions_wait_for_others(database_url: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", database_url=database_url)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        talks = {name: await new_parent(http, tools=[ASK]) for name in ("parked", "waits", "busy", "down")}
        inner = begin("inner", ASKS, {"text": "Inner."})
        await talks["parked"].say(
            script(calls(begin("one", calls(inner), {"text": "One."})), {"text": "Done."})
        )
        aside = begin("one", ASKS, {"text": "One."}, mode="background")
        await talks["waits"].say(script(calls(aside), calls(call("wait_tasks")), {"text": "Done."}))
        busy = begin("one", {"text": "One.", "first_ms": 1500})
        await talks["busy"].say(script(calls(busy), {"text": "Done."}))
        await talks["down"].say(
            script(calls(begin("one", calls(inner), {"text": "One."})), {"text": "Done."})
        )
        for talk in talks.values():
            await talk.logged_until("tool.parked")
        waiting = [await bottom(talks[name]) for name in ("parked", "waits", "down")]
        for child in waiting:
            await child.logged_until("tool.call_requested")
        await server.kill()
        server.program = place("wished")
        await server.start()
        try:
            await talks["down"].cancel()
        except httpx.HTTPError:
            await server.ended()
        server.program = ()
        await server.start()
        for child in waiting[:2]:
            await child.answer({"tool_call_id": "q1", "result": "blue"})
        for name in ("parked", "waits", "busy"):
            events = await talks[name].logged_until("session.idled")
            assert end_in(events, "one")["state"] == "succeeded", name
            tool = "wait_tasks" if name == "waits" else "spawn_agent"
            assert "One." in text_of_result(result_in(events, tool)), name
            assert woken_by(events) == [], name
        assert (await ended_task(talks["down"], "one"))["state"] == "canceled"
        await at_rest(waiting[2])
        for talk in [*talks.values(), *waiting]:
            for name in tasks_in(await talk.events()):
                end_in(await talk.events(), name)


async def bottom(talk: Talk) -> Talk:
    """The session at the end of a line of sub-agents, once it has asked its client."""
    while True:
        await talk.logged_until("task.created", "tool.call_requested")
        found = await children_of(talk)
        if not found:
            return talk
        (talk,) = found.values()


@pytest.mark.soak
async def test_a_sub_agent_that_kills_its_server_fails_its_task_once(
    database_url: str, tmp_path: Path
) -> None:
    server = Server(tmp_path / "data", database_url=database_url)
    server.program = (poisoned.__file__,)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        talk = await new_parent(http, tools=[ASK])
        deadly = begin("deadly", calls(call("ask", "q1", about="A PILL.")), {"text": "Survived."})
        # Only the sub-agent's own call has the words; those who pass it on know it in another spelling.
        spelled = json.dumps(deadly).replace("A PILL.", poisoned.PILL.replace(" ", r"\\u0020"))
        await talk.say(script(calls(json.loads(spelled)), {"text": "Pity."}))
        child = await bottom(talk)
        await child.logged_until("tool.call_requested")
        await talk.logged_until("tool.parked")
        await child.answer({"tool_call_id": "q1", "result": "blue"})
        assert await outlive(server, child.id) == 4  # the first attempt and three recoveries
        events = await talk.logged_until("session.idled")
        task = end_in(events, "deadly")
        assert (task["state"], task["error"]["kind"]) == ("failed", "no_progress")
        assert "no_progress" in text_of_result(result_in(events))
        assert woken_by(events) == []
