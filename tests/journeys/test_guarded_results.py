"""Guardrails of what tools, clients, callbacks and sub-agents return, and of what services decide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.conformance.drivers.vendor import Reply, Vendor, open_vendor
from tests.deferring import installed, urls_on
from tests.guarded import (
    BAD,
    OUTPUT,
    assert_clean,
    assert_nowhere,
    guarded_talk,
    guarded_turn,
    hidden,
    hits_in,
    of_kind,
)
from tests.journeys.family import SUBAGENTS, child_of, ended_task, result_in, text_of_result
from tests.postgres_server import PostgresServer
from tests.server import Server, post, use_simulated_model
from tests.talk import PATIENCE, Json, call, kinds_of, text_in
from tests.vendors import answer, new_model, reply, vendor_provider

pytestmark = pytest.mark.asyncio(loop_scope="session")

RESULTS = {**OUTPUT, "stage": "tool_output"}
SHELL = {"ref": "bashkit_shell"}
SAYS = "violet cr''ow seven"
"""What a shell reads as what is forbidden."""


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Server]:
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    folder = tmp_path_factory.mktemp("guarded")
    environment = {**installed(folder / "site"), "PERDURE_PRIVATE_ADDRESSES": "true"}
    async with Server(folder / "data", database_url=url, environment=environment) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use_simulated_model(http)
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def client(place: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=place.url, timeout=30) as opened:
        yield opened


def run(command: str, _id: str = "c1", **more: object) -> Json:
    return {"tool_calls": [call("bash", _id, command=command, **more)]}


def spawned(**arguments: str) -> Json:
    return {"name": "spawn_agent", "arguments": arguments}


async def test_what_a_command_writes_is_withheld_while_it_runs_and_when_it_is_done(
    client: httpx.AsyncClient, place: Server
) -> None:
    talk = await guarded_talk(client, RESULTS, more=(SHELL,))
    begin = "echo Before it there is a line that is long enough to be shown while the others are written;"
    slowly = f'{begin} for word in {SAYS}; do printf "$word "; sleep 0.1; done'
    frames = await guarded_turn(talk, run(slowly), {"text": "Done."})
    (completed,) = of_kind(frames, "tool.completed")
    assert completed["success"]
    assert completed["result"] == [{"type": "text", "text": "[withheld by a guardrail: bird_name]"}]
    shown = "".join(each["delta"] for each in of_kind(frames, "tool.output.delta"))
    assert shown.startswith("Before it")
    assert hits_in(frames) == [("birds", "block", "result", "bird_name")]
    frames = await guarded_turn(talk, run(f"echo {SAYS} >&2; exit 3"), {"text": "Done."})
    assert hits_in(frames) == [("birds", "block", "result", "bird_name")]
    await assert_nowhere(place, talk)


async def test_output_is_checked_before_it_is_cut_and_written_to_a_file(
    client: httpx.AsyncClient, place: Server
) -> None:
    talk = await guarded_talk(
        client, {**RESULTS, "action": "replace"}, more=(SHELL, {"ref": "session_file_system"})
    )
    command = f"seq 1 9000; echo {SAYS}; seq 1 9000"
    frames = await guarded_turn(talk, run(command), {"text": "Done."})
    (written,) = of_kind(frames, "file.written")
    content = await client.get(talk.path(f"/fs/{written['path'].lstrip('/')}"))
    assert content.status_code == 200
    assert "[removed]" in content.text
    assert_clean(content.text, "the file")
    await assert_nowhere(place, talk)


async def test_a_tool_in_the_background_is_checked_like_one_in_the_turn(
    client: httpx.AsyncClient, place: Server
) -> None:
    talk = await guarded_talk(client, RESULTS, more=(SHELL, {"ref": "background_tools"}))
    await guarded_turn(talk, run(f"echo {SAYS}", run_in_background=True), {"text": "Begun."})
    task = await ended_task(talk, "bash")
    assert (task["state"], task["summary"]) == ("succeeded", "[withheld by a guardrail: bird_name]")
    await talk.logged_until("guardrail.hit")
    await assert_nowhere(place, talk)


@pytest.mark.parametrize("late", [False, True])
async def test_the_answer_of_a_callback_is_checked_in_time_and_too_late(
    client: httpx.AsyncClient, place: Server, tmp_path: Path, late: bool
) -> None:
    talk = await guarded_talk(client, RESULTS, more=({"ref": "deferring"},), harness_name="base")
    order = call("order", "c1", desk=str(tmp_path), note="note")
    await talk.say(hidden({"tool_calls": [order]}, {"text": "Thanks."}))
    (url,) = await urls_on(tmp_path, "note")
    events = await talk.logged_until("act.completed")
    if late:
        message = await talk.say(hidden({"text": "Go on."}))
        events = await talk.logged_until("session.idled", after=message["sequence"])
    given = await client.post(url, json={"found": [BAD]})
    assert given.status_code == 200
    events = await talk.logged_until("session.idled", after=events[-1]["sequence"])
    assert "guardrail.hit" in kinds_of(events)
    kind = "input.message" if late else "tool.completed"
    (said,) = [event["data"] for event in events if event["type"] == kind]
    assert "[withheld by a guardrail: bird_name]" in str(said)
    await assert_nowhere(place, talk)


async def test_what_a_tool_records_and_says_before_its_result_is_checked_as_well(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    check = {
        "type": "regex",
        "pattern": "second|a deliv.ry|The URL",
        "stage": "tool_output",
        "action": "replace",
    }
    talk = await guarded_talk(client, check, more=({"ref": "deferring"},), harness_name="base")
    steps = call("in_steps", "c1", desk=str(tmp_path / "none"), note="x")
    frames = await guarded_turn(talk, {"tool_calls": [steps]}, {"text": "Done."})
    ended = [each for each in of_kind(frames, "tool.step") if each["status"] == "completed"]
    assert [(each["name"], each.get("redacted", False), "result" in each) for each in ended] == [
        ("first", False, True),
        ("second", True, False),
    ]
    (completed,) = of_kind(frames, "tool.completed")
    assert '"[removed]"' in completed["result"][0]["text"]
    order = call("order", "c2", desk=str(tmp_path), note="note")
    frames = await guarded_turn(talk, {"tool_calls": [order]}, until="tool.parked")
    assert of_kind(frames, "tool.progress")[0]["message"].startswith("[removed] is ")
    assert of_kind(frames, "tool.parked")[0]["message"].startswith("[removed] to ")


async def test_sub_agents_are_bound_by_the_checks_above_them(
    client: httpx.AsyncClient, place: Server
) -> None:
    talk = await guarded_talk(client, OUTPUT, more=(SUBAGENTS,))
    agent = await post(client, "/v1/agents", {"name": f"bird-watcher-{place.pid}", "system_prompt": "Watch."})
    more = {"ref": "subagents", "config": {"agents": [agent["name"]]}}
    other = await guarded_talk(client, OUTPUT, more=(more,))
    for parent, fields in ((talk, {}), (other, {"agent": agent["name"]})):
        instructions = hidden({"text": f"I saw {BAD}."})
        begun = spawned(name="watcher", instructions=instructions, **fields)
        frames = await guarded_turn(parent, {"tool_calls": [begun]}, {"text": "Done."})
        task = await ended_task(parent, "watcher")
        assert task["summary"] == "This answer was withheld because it violates a rule."
        assert text_of_result(result_in([each.data for each in frames])) == task["summary"]
        assert "output.message.replaced" in [e["type"] for e in await child_of(parent, task).events()]
        await assert_nowhere(place, parent)


# --- services -----------------------------------------------------------------


async def judging(client: httpx.AsyncClient, vendor: Vendor, **fields: object) -> Json:
    """A check by the model of a scripted vendor."""
    model = await new_model(client, await vendor_provider(client, vendor), f"judge-{vendor.url[-5:]}")
    policy = {"type": "judge", "policy": "No birds.", "model_id": model["id"], "id": "no_birds"}
    return {**policy, "reason_code": "birds", **fields}


async def test_a_model_judges_the_whole_answer_before_any_of_it_is_shown(
    client: httpx.AsyncClient, place: Server
) -> None:
    async with open_vendor() as vendor:
        talk = await guarded_talk(client, await judging(client, vendor))
        vendor.will(answer("BLOCK"))
        frames = await guarded_turn(talk, {"text": f"A {BAD}. " * 20, "delay_ms": 1})
        assert len(of_kind(frames, "output.message.replaced")) == 1
        assert not of_kind(frames, "output.message.delta")
        generations = of_kind(frames, "llm.generation")
        assert [each["metadata"]["model"][:5] for each in generations] == ["judge", "simul"]
        assert "text" not in generations[0]["output"]
        (completed,) = of_kind(frames, "turn.completed")
        assert completed["llm_call_count"] == 2
        vendor.will(answer("allow."))
        frames = await guarded_turn(talk, {"text": "A cat."})
        assert of_kind(frames, "output.message.delta")[-1]["accumulated"] == "A cat."
        asked = vendor.asked[0].body
        assert "No birds." in asked["messages"][0]["content"]
    await assert_nowhere(place, talk)


@pytest.mark.parametrize(("on_failure", "text"), [("block", "This answer was withheld"), ("allow", "A cat.")])
async def test_a_judge_that_is_late_or_says_nothing_of_use_fails_as_its_setting_says(
    client: httpx.AsyncClient, on_failure: str, text: str
) -> None:
    async with open_vendor() as vendor:
        check = await judging(client, vendor, on_failure=on_failure, timeout=0.3)
        talk = await guarded_talk(client, check)
        for odd in (Reply(before="hang"), answer("I would BLOCK this, or ALLOW it.")):
            vendor.will(odd)
            frames = await guarded_turn(talk, {"text": "A cat."})
            (message,) = [each["message"] for each in of_kind(frames, "output.message.completed")]
            assert text_in(message).startswith(text)
            (hit,) = of_kind(frames, "guardrail.hit")
            assert (hit["reason_code"], hit["action"]) == (
                "not_checked",
                "block" if on_failure == "block" else "log",
            )


async def test_a_moderation_endpoint_is_asked_about_what_a_tool_returns(client: httpx.AsyncClient) -> None:
    async with open_vendor() as vendor:
        provider = await vendor_provider(client, vendor)
        check = {"type": "moderation", "provider_id": provider["id"], "stage": "tool_output"}
        talk = await guarded_talk(client, {**check, "categories": ["birds"]}, more=(SHELL,))
        for flagged in (True, False):
            vendor.will(
                reply({"results": [{"flagged": True, "categories": {"birds": flagged, "cats": True}}]})
            )
            frames = await guarded_turn(talk, run("echo a bird"), {"text": "Done."})
            (completed,) = of_kind(frames, "tool.completed")
            assert ("withheld" in completed["result"][0]["text"]) is flagged
        made = vendor.asked[0]
        assert made.path == "/v1/moderations"
        assert made.headers["authorization"].startswith("Bearer ")
        assert made.body == {"input": '{"exit_code":0,"stdout":"a bird\\n"}'}


async def test_a_turn_that_is_cancelled_cancels_its_checks(client: httpx.AsyncClient) -> None:
    async with open_vendor() as vendor:
        talk = await guarded_talk(client, await judging(client, vendor, timeout=60))
        vendor.will(Reply(before="hang"))
        await talk.say(hidden({"text": f"A {BAD}."}))
        await asyncio.wait_for(vendor.reached.wait(), PATIENCE)
        await talk.cancel()
        await asyncio.wait_for(vendor.left.wait(), PATIENCE)
        for path in ("/events?limit=1000", "/messages"):
            assert_clean((await client.get(talk.path(path))).text, path)


# The last one: what a sub-agent's session has, which nothing forbids there, would be found by the others.


async def test_the_answer_of_a_sub_agent_is_the_output_of_a_tool_for_its_parent(
    client: httpx.AsyncClient,
) -> None:
    talk = await guarded_talk(client, RESULTS, more=(SUBAGENTS,))
    said = hidden({"text": f"I saw {BAD}."})
    for mode in ("foreground", "background"):
        begun = spawned(name=mode, mode=mode, instructions=said)
        await guarded_turn(talk, {"tool_calls": [begun]}, {"text": "Begun."}, {"text": "Done."})
        task = await ended_task(talk, mode)
        assert task["summary"] == "[withheld by a guardrail: bird_name]"
        assert task["withheld"]
        looks = {"tool_calls": [call("get_task", "c2", task_id=task["id"])]}
        await guarded_turn(talk, looks, {"text": "Done."})
    for path in ("/events?limit=1000", "/messages", "/tasks"):
        assert_clean((await client.get(talk.path(path))).text, path)
