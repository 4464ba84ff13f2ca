"""Policy hooks: what they are asked, what each decision does, and how layers add to each other."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from perdure.client import Client
from perdure.domain.times import from_rfc3339
from tests.command import perdure
from tests.hooks import SECRET
from tests.journeys.families import spawns
from tests.journeys.test_guides import blocks_of
from tests.journeys.test_limits import set_limits
from tests.journeys.test_tool_approval import decide, questions
from tests.policies import (
    ALLOW,
    PolicyHook,
    deciding,
    decisions_in,
    only_for,
    result_of,
    text_of_result,
)
from tests.postgres_server import PostgresServer
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, call, kinds_of, new_talk, script, text_in

FILES = {"ref": "session_file_system"}
WEATHER = {
    "type": "client_side",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Server]:
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    environment = {"PERDURE_PRIVATE_ADDRESSES": "127.0.0.1"}
    folder = tmp_path_factory.mktemp("hooks") / "data"
    async with Server(folder, database_url=url, environment=environment) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=30) as opened:
            await use_simulated_model(opened)
        yield running
    log = running.log.read_text()
    assert "Traceback" not in log
    assert SECRET not in log


@pytest_asyncio.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as opened:
        yield opened


@pytest_asyncio.fixture
async def hook() -> AsyncIterator[PolicyHook]:
    async with deciding() as opened:
        yield opened


def writes(path: str, content: str, call_id: str = "call_1") -> Json:
    return {"tool_calls": [call("write_file", call_id, path=path, content=content)]}


async def file(talk: Talk, path: str) -> str | None:
    answer = await talk.http.get(talk.path(f"/fs{path}"))
    return answer.json()["content"] if answer.status_code == 200 else None


async def test_a_hook_that_allows_is_asked_and_leaves_no_trace_in_the_log(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    talk = await new_talk(
        http, capabilities=[FILES, hook.ref("before_model", "before_tool", "after_tool", name="dlp")]
    )
    events = await talk.turn(writes("/a", "here"), {"text": "Done."}, ask="Write it.")
    assert await file(talk, "/a") == "here"
    assert decisions_in(events) == []
    assert [each.json["event"] for each in hook.came] == [
        "before_model", "before_tool", "after_tool", "before_model",
    ]  # fmt: skip
    (asked,), (after,) = hook.asked("before_tool"), hook.asked("after_tool")
    started = next(each for each in events if each["type"] == "tool.started")
    assert asked["tool_call"] == {
        "id": "call_1", "name": "write_file", "run_by": "server", "in_background": False,
        "effect_key": started["data"]["effect_key"], "capability_id": "session_file_system",
        "hints": asked["tool_call"]["hints"],
        "arguments": {"path": "/a", "content": "here"}, "arguments_truncated": False,
    }  # fmt: skip
    assert asked["session_id"] == talk.id
    assert asked["turn_id"] == started["context"]["turn_id"]
    row = await talk.read()
    assert (asked["organization_id"], asked["user"]) == (row["organization_id"], {"id": asked["user"]["id"]})
    assert after["success"] is True
    assert after["result"] == text_of_result(result_of(events, "call_1"))
    first, second = hook.asked("before_model")
    assert first["messages"][-1]["text"].startswith("Write it.")
    assert first["messages"][-1]["changeable"] is True
    assert [each["role"] for each in second["messages"]] == ["user", "agent", "tool_result"]
    assert second["message_count"] == 3


async def test_a_blocked_call_never_starts_and_the_model_reads_why(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    hook.decide = lambda question: (
        {"decision": "block", "reason": "No writing\nto /b."}
        if question["tool_call"]["arguments"].get("path") == "/b"
        else ALLOW
    )
    talk = await new_talk(http, capabilities=[FILES, hook.ref(name="dlp")])
    calls = [
        call("write_file", "call_1", path="/a", content="1"),
        call("write_file", "call_2", path="/b", content="2"),
    ]
    events = await talk.turn({"tool_calls": calls}, {"text": "Done."})
    assert (await file(talk, "/a"), await file(talk, "/b")) == ("1", None)
    refused = result_of(events, "call_2")
    assert (refused["success"], refused["status"]) == (False, "rejected")
    assert refused["error"] == "A policy blocked this call: No writing to /b."
    (decided,) = decisions_in(events)
    assert decided == {
        "turn_id": decided["turn_id"], "hook": "dlp", "event": "before_tool", "decision": "block",
        "reason": "No writing to /b.", "tool_call_id": "call_2", "tool_name": "write_file",
    }  # fmt: skip
    started = [each["data"]["tool_call"]["id"] for each in events if each["type"] == "tool.started"]
    assert started == ["call_1"]
    assert kinds_of(events)[-2:] == ["turn.completed", "session.idled"]


async def test_modified_arguments_are_what_runs_and_are_logged_and_the_model_is_told(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    changed = {"path": "/safe", "content": "here"}
    hook.decide = lambda question: {"decision": "modify", "arguments": changed, "reason": "Only /safe."}
    talk = await new_talk(http, capabilities=[FILES, hook.ref()])
    events = await talk.turn(writes("/a", "here"), {"text": "Done."})
    assert (await file(talk, "/a"), await file(talk, "/safe")) == (None, "here")
    (decided,) = decisions_in(events)
    assert (decided["decision"], decided["arguments"], decided["hook"]) == ("modify", changed, "127.0.0.1")
    started = next(each["data"] for each in events if each["type"] == "tool.started")
    assert started["tool_call"]["arguments"] == changed
    assert len(hook.came) == 1
    (result,) = [each for each in await talk.messages() if each["role"] == "tool_result"]
    assert "here" not in json.dumps(result)  # what clients read of the result stays the tool's
    context = (await http.get(talk.path("/context-report"))).json()
    assert context, "the conversation with the note can be folded"


async def test_arguments_that_do_not_fit_the_schema_are_no_decision(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    hook.decide = lambda question: {"decision": "modify", "arguments": {"path": 7}}
    closed = await new_talk(http, capabilities=[FILES, hook.ref()])
    events = await closed.turn(writes("/a", "here"), {"text": "Done."})
    assert await file(closed, "/a") is None
    (decided,) = decisions_in(events)
    assert decided["decision"] == "block"
    assert "do not fit" in decided["failure"]
    assert "gave no decision" in result_of(events, "call_1")["error"]
    open_ = await new_talk(http, capabilities=[FILES, hook.ref(on_failure={"before_tool": "open"})])
    events = await open_.turn(writes("/a", "here"), {"text": "Done."})
    assert await file(open_, "/a") == "here"
    assert [each["decision"] for each in decisions_in(events)] == ["none"]


async def test_a_result_is_replaced_or_withheld_before_anybody_sees_it(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    talk = await new_talk(http, capabilities=[FILES, hook.ref("after_tool", tools=["read_*"])])
    await post(http, talk.path("/fs/a"), {"content": "The number is N-4711."})
    hook.decide = lambda question: {"decision": "modify", "result": question["result"].replace("N-4711", "#")}
    reads = {"tool_calls": [call("read_file", "call_2", path="/a")]}
    message = await talk.say(script(reads, {"text": "Done."}))
    async with talk.follow(after_sequence=message["sequence"]) as stream:
        await stream.until("session.idled")
        seen = stream.raw.decode()
    events = await talk.events()
    assert "The number is #." in text_of_result(result_of(events, "call_2"))
    assert "N-4711" not in seen
    hook.decide = lambda question: {"decision": "block", "reason": "Numbers."}
    reads = {"tool_calls": [call("read_file", "call_3", path="/a")]}
    events = await talk.turn(reads, writes("/b", "x"), {"text": "Done."})
    assert await file(talk, "/b") == "x"
    assert [each["tool_call"]["name"] for each in hook.asked("after_tool")] == ["read_file"] * 2
    withheld = result_of(events, "call_3")
    assert withheld["error"] == "The call was made, but a policy withheld its result: Numbers."
    assert "N-4711" not in json.dumps(events)
    assert [each["event"] for each in decisions_in(await talk.events())] == ["after_tool"] * 2


async def test_a_blocked_model_call_fails_the_turn_and_the_next_message_starts_anew(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    hook.decide = lambda question: (
        {"decision": "block", "reason": "No poetry."} if "poem" in question["messages"][-1]["text"] else ALLOW
    )
    talk = await new_talk(http, capabilities=[hook.ref("before_model")])
    events = await talk.turn({"text": "Roses."}, ask="A poem, please.")
    failed = next(each["data"] for each in events if each["type"] == "turn.failed")
    assert failed["error_code"] == "blocked_by_policy"
    assert failed["error"] == "A policy blocked the model call: No poetry."
    assert "reason.started" not in kinds_of(events)
    said = next(each["data"]["message"] for each in events if each["type"] == "output.message.completed")
    assert "policy" in text_in(said)
    events = await talk.turn({"text": "Fine."}, ask="Prose, please.")
    assert "turn.completed" in kinds_of(events)


async def test_a_changed_message_is_what_this_and_later_model_calls_receive(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    def masked(question: Json) -> Json:
        texts = [each for each in question["messages"] if each["changeable"] and "N-4711" in each["text"]]
        changed = [{"id": each["id"], "text": each["text"].replace("N-4711", "######")} for each in texts]
        return {"decision": "modify", "messages": changed} if changed else ALLOW

    hook.decide = masked
    talk = await new_talk(http, capabilities=[hook.ref("before_model")])
    await talk.turn({"text": "One."}, ask="My number is N-4711.")
    events = await talk.turn({"text": "Two."}, ask="What was it?")
    prompt = hook.asked("before_model")[-1]
    assert [each["role"] for each in prompt["messages"]] == ["user", "agent", "user"]
    assert "######" in prompt["messages"][0]["text"]
    assert "N-4711" not in json.dumps(prompt)
    assert decisions_in(events) == []
    generation = next(each for each in events if each["type"] == "llm.generation")
    sent = json.dumps(generation["data"]["messages"])
    assert "######" in sent
    assert "N-4711" not in sent


async def test_the_hook_decides_before_a_person_does_and_about_what_the_person_changed(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    gated = {"ref": "tool_approval", "config": {"mode": "protective"}}
    talk = await new_talk(http, capabilities=[FILES, gated, hook.ref()])
    hook.decide = lambda question: {
        "decision": "modify",
        "arguments": {**question["tool_call"]["arguments"], "content": "checked"},
    }
    message = await talk.say(script(writes("/a", "draft"), {"text": "Done."}))
    (asked,) = await questions(talk, message["sequence"])
    assert asked["arguments"] == {"path": "/a", "content": "checked"}
    hook.decide = only_for("write_file", {"decision": "block", "reason": "Not there."})
    edited = {"tool_call_id": "call_1", "decision": "allow", "arguments": {"path": "/b", "content": "x"}}
    await post(http, talk.path("/tool-approvals"), {"decisions": [edited]}, 200)
    events = await talk.logged_until("session.idled", after=message["sequence"])
    assert result_of(events, "call_1")["error"] == "A policy blocked this call: Not there."
    assert (await file(talk, "/a"), await file(talk, "/b")) == (None, None)
    assert len(hook.came) == 2
    hook.decide = lambda question: ALLOW
    message = await talk.say(script(writes("/c", "plain", "call_2"), {"text": "Done."}, ask="More."))
    await questions(talk, message["sequence"])
    await decide(talk, call_2="allow")
    await talk.logged_until("session.idled", after=message["sequence"])
    assert await file(talk, "/c") == "plain"
    assert len(hook.came) == 3  # what a person approves as it is has been decided about


async def test_a_client_is_not_asked_to_run_a_blocked_call_and_gets_modified_arguments(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    talk = await new_talk(http, capabilities=[hook.ref()], tools=[WEATHER])
    hook.decide = lambda question: (
        {"decision": "block"}
        if question["tool_call"]["arguments"]["city"] == "Rome"
        else {"decision": "modify", "arguments": {"city": "Oslo"}}
    )
    calls = [call("weather", "call_1", city="Rome"), call("weather", "call_2", city="Bergen")]
    message = await talk.say(script({"tool_calls": calls}, {"text": "Cold."}))
    event = (await talk.logged_until("tool.call_requested", after=message["sequence"]))[-1]
    assert [each["arguments"] for each in event["data"]["tool_calls"]] == [{"city": "Oslo"}]
    assert {each["tool_call"]["run_by"] for each in hook.asked("before_tool")} == {"client"}
    await talk.answer({"tool_call_id": "call_2", "result": "4 degrees"})
    events = await talk.logged_until("session.idled", after=message["sequence"])
    assert "no reason was given" in result_of(events, "call_1")["error"]


async def test_all_layers_are_asked_and_the_harness_decides_about_what_the_session_made_of_it(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    harness = await post(
        http, "/v1/harnesses", {"name": "guarded", "capabilities": [FILES, hook.ref(path="/harness")]}
    )
    agent = await post(
        http,
        "/v1/agents",
        {"name": "careful", "harness_id": harness["id"], "capabilities": [hook.ref(path="/agent")],
         "system_prompt": "Work."},
    )  # fmt: skip
    hook.decide = lambda question: {
        "decision": "modify",
        "arguments": {"path": "/a", "content": question["tool_call"]["arguments"]["content"] + "+"},
    }
    talk = await new_talk(http, agent_id=agent["id"], capabilities=[hook.ref(path="/session")])
    await talk.turn(writes("/a", "x"), {"text": "Done."})
    assert [each.path for each in hook.came] == ["/session", "/agent", "/harness"]
    assert hook.asked("before_tool")[-1]["tool_call"]["arguments"]["content"] == "x++"
    assert await file(talk, "/a") == "x+++"
    await http.delete(f"/v1/agents/{agent['id']}")
    await http.delete(f"/v1/harnesses/{harness['id']}")


async def test_a_sub_agent_with_its_own_agent_asks_the_hooks_of_the_session_above_it(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    agent = await post(
        http, "/v1/agents", {"name": "helper", "system_prompt": "Help.", "capabilities": [FILES]}
    )
    subagents = {"ref": "subagents", "config": {"agents": ["helper"]}}
    talk = await new_talk(http, capabilities=[subagents, hook.ref(tools=["write_file"])])
    hook.decide = lambda question: {"decision": "block", "reason": "Not here."}
    spawned = spawns("a", writes("/a", "x"), {"text": "Done."}, mode="foreground", agent="helper")
    await talk.turn({"tool_calls": [spawned]}, {"text": "Done."})
    (asked,) = hook.asked("before_tool")
    assert asked["root_session_id"] == talk.id
    assert asked["session_id"] != talk.id
    assert asked["agent"]["id"] == agent["id"]
    await http.delete(f"/v1/agents/{agent['id']}")


async def test_parallel_calls_are_asked_about_at_the_same_time(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    talk = await new_talk(http, capabilities=[FILES, hook.ref()])
    hook.open.clear()
    calls = [call("write_file", f"call_{each}", path=f"/{each}", content="x") for each in range(5)]
    message = await talk.say(script({"tool_calls": calls}, {"text": "Done."}))
    await hook.until(5)  # none of them has an answer yet
    assert "tool.started" not in kinds_of(await talk.events())
    hook.open.set()
    events = await talk.logged_until("session.idled", after=message["sequence"])
    assert kinds_of(events).count("tool.started") == 5


async def test_cancelling_the_turn_ends_the_wait_for_a_hook(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    talk = await new_talk(http, capabilities=[FILES, hook.ref(timeout_seconds=30)])
    hook.open.clear()
    await talk.say(script(writes("/a", "x"), {"text": "Done."}))
    await hook.until(1)
    await talk.cancel()
    async with asyncio.timeout(10):
        events = await talk.logged_until("session.idled")
    assert "tool.started" not in kinds_of(events)
    hook.open.set()
    events = await talk.turn({"text": "Fine."}, ask="Still there?")
    assert "turn.completed" in kinds_of(events)
    assert await file(talk, "/a") is None


async def test_a_result_in_the_background_is_decided_on_too(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    rules = {"ref": "background_tools", "config": {"tools": ["read_file"]}}
    talk = await new_talk(
        http, capabilities=[FILES, rules, hook.ref("before_tool", "after_tool", tools=["read_file"])]
    )
    await post(http, talk.path("/fs/a"), {"content": "The number is N-4711."})
    withheld = {"decision": "block", "reason": "Numbers."}
    hook.decide = lambda question: withheld if question["event"] == "after_tool" else ALLOW
    reads = {"tool_calls": [call("read_file", "call_1", path="/a", run_in_background=True)]}
    message = await talk.say(script(reads, {"text": "Meanwhile."}))

    def failed(data: Json) -> bool:
        return bool(data["data"]["task"]["state"] == "failed")

    async with talk.follow(after_sequence=message["sequence"]) as stream:
        seen = await stream.until("task.updated", where=failed)
    assert seen[-1].data["data"]["task"]["error"] == {
        "kind": "blocked_by_policy",
        "message": "The call was made, but a policy withheld its result: Numbers.",
    }
    before, after = hook.asked("before_tool"), hook.asked("after_tool")
    # The call that begins the task has a result of its own, which says no more than that.
    assert [each["tool_call"]["in_background"] for each in (*before, *after)] == [False, True]
    (decided,) = decisions_in(await talk.events())
    assert (decided["event"], decided["decision"], decided["tool_call_id"]) == (
        "after_tool", "block", "call_1",
    )  # fmt: skip
    assert "N-4711" not in json.dumps(await talk.events())


async def test_the_client_and_the_command_try_a_hook(
    server: Server, http: httpx.AsyncClient, hook: PolicyHook, tmp_path: Path
) -> None:
    hook.decide = lambda question: {"decision": "block", "reason": f"{question['event']} {question['test']}"}
    async with Client(server.url) as client:
        reply = await client.test_policy_hook(hook.config(), "after_tool", tool_name="bash", text="ls")
    assert (reply.ok, reply.decision, reply.reason) == (True, "block", "after_tool True")
    assert hook.came[0].json["result"] == "ls"
    hook.decide = lambda question: {"decision": "modify", "arguments": {"url": "x"}}
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    command = ("hooks", "test", hook.url(), "--secret", str(secret), "--url", server.url)
    said = await perdure(*command, "--arguments", '{"url": "y"}')
    assert said.status == 0, said
    assert said.out.startswith("modify (in ")
    assert 'arguments: {"url":"x"}' in said.out
    assert hook.came[-1].json["tool_call"]["arguments"] == {"url": "y"}
    hook.decide = lambda question: web.Response(status=500)
    said = await perdure(*command)
    assert said.status == 1
    assert "the hook answered 500, not 200. By default, a session blocks the call." in said.err
    hook.decide = lambda question: {"decision": "modify", "messages": [{"id": "message_1", "text": "Hi."}]}
    assert "message message_1: Hi." in (await perdure(*command, "--event", "before_model")).out
    answer = await http.post("/v1/capabilities/policy_hook/test", json={"config": {"url": hook.url()}})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_capability_config")


async def test_the_hook_of_the_guide_decides_as_it_says(server: Server, http: httpx.AsyncClient) -> None:
    (program,) = (
        each.text for each in blocks_of("docs/guide/policy-hook.md") if "ThreadingHTTPServer" in each.text
    )
    assert '("127.0.0.1", 8000), Hook).serve_forever()' in program
    program = program.replace(
        'ThreadingHTTPServer(("127.0.0.1", 8000), Hook).serve_forever()',
        'server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)\n'
        "print(server.server_address[1], flush=True)\nserver.serve_forever()",
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        env={**os.environ, "HOOK_SECRET": SECRET},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(await process.stdout.readline())}/"
        async with Client(server.url) as client:
            wrong = await client.test_policy_hook({"url": url, "secret": "whsec_" + "A" * 32})
            assert wrong.error == "the hook answered 401, not 200"
            tries = {"url": url, "secret": SECRET}
            bad = {"url": "https://payroll.example.com/"}
            reply = await client.test_policy_hook(tries, arguments=bad)
            assert (reply.decision, reply.reason) == ("block", "Payroll is off limits.")
        events = ["before_tool", "after_tool"]
        ref = {"ref": "policy_hook", "config": {**tries, "events": events}}
        talk = await new_talk(http, capabilities=[FILES, ref])
        await post(http, talk.path("/fs/a"), {"content": "4111 1111 1111 1111"})
        await post(http, talk.path("/fs/d/b"), {"content": "x"})
        calls = [
            call("read_file", "call_1", path="/a"),
            call("delete_file", "call_2", path="/d", recursive=True),
        ]
        log = await talk.turn({"tool_calls": calls}, {"text": "Done."})
        assert "[card]" in text_of_result(result_of(log, "call_1"))
        assert await file(talk, "/d/b") == "x"
    finally:
        process.kill()
        await process.wait()


async def test_a_turn_whose_first_call_is_asked_about_has_one_place_that_nobody_takes(
    http: httpx.AsyncClient, hook: PolicyHook
) -> None:
    await set_limits(http, organization={"active_turns": 1})
    try:
        hook.open.clear()
        asking = await new_talk(http, capabilities=[FILES, hook.ref("before_model", name="dlp")])
        await asking.say(script({"text": "Done."}))
        await asking.logged_until("turn.started")
        others = [await new_talk(http) for _ in range(2)]
        for talk in others:
            await talk.say(script({"text": "Mine."}))
            await talk.logged_until("turn.parked")
            await set_limits(http, organization={"active_turns": 1})  # who waits is looked at again
        hook.open.set()
        ended = (events := await asking.logged_until("turn.completed"))[-1]
        assert "turn.parked" not in kinds_of(events)
        for talk in others:
            log = await talk.logged_until("session.idled")
            resumed = next(each for each in log if each["type"] == "turn.resumed")
            assert from_rfc3339(resumed["ts"]) >= from_rfc3339(ended["ts"])
    finally:
        hook.open.set()
        await set_limits(http, organization={"active_turns": None})
