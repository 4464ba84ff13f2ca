"""Sessions with many files: their copies are whole and independent, and go as sessions do."""

from __future__ import annotations

import json

import httpx

from perdure.store.gone_files import AT_ONCE
from tests.journeys.family import begin, calls, child_of, new_parent, until_state
from tests.talk import Json, Talk, call, new_talk

MANY = AT_ONCE + 100


async def fill(talk: Talk) -> None:
    """Write many files, in one command."""
    done = await bash(talk, f"mkdir d; for i in $(seq {MANY}); do echo $i > d/$i; done; echo one > a")
    assert done["exit_code"] == 0, done


async def bash(talk: Talk, command: str) -> Json:
    events = await talk.turn({"tool_calls": [call("bash", command=command)]}, {"text": "Done."})
    result = next(event["data"] for event in events if event["type"] == "tool.completed")
    found: Json = json.loads(result["result"][0]["text"])
    return found


async def paths(talk: Talk) -> set[str]:
    answer = await talk.http.get(talk.path("/fs?recursive=true"))
    return {each["path"] for each in answer.json()["data"]}


async def test_a_fork_of_a_session_with_many_files_has_them_all_and_changes_only_its_own(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    await fill(talk)
    key = {"Idempotency-Key": f"fork-{talk.id}"}
    first = (await api.post(talk.path("/fork"), json={}, headers=key)).json()
    assert (await api.post(talk.path("/fork"), json={}, headers=key)).json() == first
    fork = Talk(api, first["id"])
    assert await paths(fork) == await paths(talk) == {"/a", "/d", *(f"/d/{n + 1}" for n in range(MANY))}
    assert (await bash(fork, "ls d | wc -l; rm -r d; echo two > a; cat a"))["stdout"] == f"{MANY}\ntwo\n"
    assert await paths(fork) == {"/a"}
    assert (await bash(talk, f"cat a d/{MANY}"))["stdout"] == f"one\n{MANY}\n"
    for each in (talk, fork):
        assert (await api.delete(each.path())).status_code == 204
        assert (await api.get(each.path("/fs"))).status_code == 404


async def test_a_sub_agent_gets_a_copy_of_many_files(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    await fill(talk)
    counting = {"tool_calls": [call("bash", command="ls d | wc -l > number; rm -r d; ls > listed")]}
    spawned = begin("counter", counting, {"text": "Counted."}, files="fork")
    await talk.turn(calls(spawned), {"text": "So."})
    child = child_of(talk, await until_state(talk, "counter", "succeeded"))
    assert await paths(child) == {"/a", "/listed", "/number"}
    assert len(await paths(talk)) == MANY + 2
