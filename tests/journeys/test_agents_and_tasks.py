"""Tasks of sessions in which several agents work: each keeps what its agent had begun."""

from __future__ import annotations

import httpx

from tests.journeys.family import SUBAGENTS, begin, calls, child_of, ended_task, woken_by
from tests.journeys.people import get, new_agent
from tests.journeys.test_handoff import agents_of, passing, to
from tests.journeys.test_participants import add, hosted, remove
from tests.server import post
from tests.talk import Json, Talk, call, new_talk, script

SHELL: list[Json] = [{"ref": "bashkit_shell"}, {"ref": "background_tools"}]
ECHO = call("bash", "echo", command="echo 300", run_in_background=True)


async def test_a_tool_in_the_background_is_that_of_the_participant_that_called_it(
    api: httpx.AsyncClient,
) -> None:
    talk, _ = await hosted(api)
    billing = await new_agent(api, capabilities=SHELL)
    await add(talk, billing)
    await talk.say(script({"tool_calls": [ECHO]}, {"text": "Begun."}, ask=f"@{billing['name']}"))
    task = await ended_task(talk, "bash")
    assert (task["state"], task.get("output")) == ("succeeded", {"exit_code": 0, "stdout": "300\n"})


async def test_the_end_of_a_task_wakes_the_participant_that_began_it(api: httpx.AsyncClient) -> None:
    talk, host = await hosted(api)
    billing = await new_agent(api, capabilities=[SUBAGENTS])
    participant = await add(talk, billing)
    await _begin_slowly(talk, billing)
    assert agents_of(await _woken(talk)) == [billing["id"]]
    after = await _begin_slowly(talk, billing)
    await remove(talk, participant)
    assert agents_of(await _woken(talk, after)) == [host["id"]]  # the one that began it is not there


async def _begin_slowly(talk: Talk, agent: Json) -> int:
    """Let an agent begin a sub-agent that ends after its turn; return the last sequence of the turn."""
    slow = begin("slow", {"text": "At last.", "first_ms": 700}, mode="background")
    events = await talk.turn(calls(slow), {"text": "Begun."}, ask=f"@{agent['name']}")
    assert woken_by(events) == []
    return int(events[-1]["sequence"])


async def _woken(talk: Talk, after: int = 0) -> list[Json]:
    """The events of the turn that the end of a task begins."""
    async with talk.follow(after_sequence=after) as stream:
        await stream.until("input.message", where=lambda data: data["data"].get("origin") == "task")
        return [each.data for each in await stream.until("session.idled") if each.logged]


async def test_a_sub_agent_after_a_handoff_has_the_new_agent_under_the_policies_of_the_first(
    api: httpx.AsyncClient,
) -> None:
    writer = [{"ref": "session_file_system"}, SUBAGENTS]
    billing = await new_agent(api, capabilities=writer)
    helper = await new_agent(api, capabilities=[{"ref": "session_file_system"}])
    asks = {"ref": "tool_approval", "config": {"mode": "normal"}}
    host = await new_agent(api, capabilities=[to(billing), asks])
    chosen = {"ref": "subagents", "config": {"agents": [helper["name"]]}}
    talk = await new_talk(
        api, agent_id=host["id"], capabilities=[chosen], initial_files=[{"path": "/a.md", "content": "x"}]
    )
    await talk.turn(passing(billing), {"text": "Here."})
    deletes = {"tool_calls": [call("delete_file", path="/a.md")]}
    for fields, agent in (({}, billing), ({"agent": helper["name"]}, helper)):
        message = await talk.say(
            script(calls(begin("one", deletes, mode="background", **fields)), {"text": "."})
        )
        created = (await talk.logged_until("task.created", after=message["sequence"]))[-1]
        child = child_of(talk, created["data"]["task"])
        await child.logged_until("tool.call_requested")
        session = await child.read()
        assert (session["agent_id"], session.get("created_with_agent_id")) == (agent["id"], None)
        fork = await post(api, child.path("/fork"), {})
        assert fork["agent_id"] == agent["id"]
        report = await get(api, f"/v1/sessions/{fork['id']}/context-report")
        assert "delete_file" in report["policy"]["approval_required"]
