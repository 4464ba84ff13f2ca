"""Calls that need approval: which ones, the effect of each decision, and what happens without one."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from perdure.tools.built_in import catalogue
from perdure.tools.tool_approval import TOOL_APPROVAL
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, call, new_talk, script

READING = {
    "get_current_time", "get_session_info", "get_task", "glob", "grep_files", "list_directory",
    "ask_user", "list_schedules", "list_skills", "list_tasks", "query_history", "read_file",
    "read_many_files", "sql_query", "sql_schema", "stat_file", "wait_tasks", "write_todos",
}  # fmt: skip
CHANGING = {
    "activate_skill", "cancel_task", "edit_file", "kv_store", "message_task",
    "report_to_parent", "secret_store", "spawn_agent", "write_file", "write_session_title", "web_fetch",
}  # fmt: skip
PERSISTENT = {"cancel_schedule", "create_schedule"}
DESTROYING = {"bash", "delete_file", "run_python", "sql_execute"}


@pytest.mark.parametrize(
    ("mode", "asked"),
    [
        ("off", set()),
        ("normal", DESTROYING | PERSISTENT),
        (None, DESTROYING | PERSISTENT),
        ("protective", DESTROYING | PERSISTENT | CHANGING),
    ],
)
def test_each_mode_asks_about_these_built_in_tools_and_no_others(mode: str | None, asked: set[str]) -> None:
    tools = [tool for capability in catalogue() for tool in capability.tools(None)]
    assert {tool.name for tool in tools} == READING | CHANGING | PERSISTENT | DESTROYING
    config = None if mode is None else {"mode": mode}
    assert {tool.name for tool in tools if TOOL_APPROVAL.gate(config, tool)} == asked


def gated(mode: str, *more: str) -> Json:
    """The fields of a session with this mode."""
    return {
        "capabilities": [
            {"ref": "tool_approval", "config": {"mode": mode}},
            *({"ref": each} for each in more),
        ]
    }


async def asked(talk: Talk, *steps: Json) -> list[Json]:
    """Post a script; returns the requests for approval that it results in, in order."""
    message = await talk.say(script(*steps))
    return await questions(talk, message["sequence"])


async def questions(talk: Talk, after: int) -> list[Json]:
    """The next requests for approval that the session waits for."""
    event = (await talk.logged_until("tool.call_requested", after=after))[-1]
    assert {each["name"] for each in event["data"]["tool_calls"]} == {"approve_tool_call"}
    assert (await talk.read())["status"] == "waiting_for_tool_results"
    return [each["arguments"] for each in event["data"]["tool_calls"]]


async def decide(talk: Talk, status: int = 200, **decisions: str) -> Json:
    """Submit a decision on each of these calls."""
    given = [{"tool_call_id": call_id, "decision": decision} for call_id, decision in decisions.items()]
    return await post(talk.http, talk.path("/tool-approvals"), {"decisions": given}, status)


async def outcomes(talk: Talk) -> dict[str, str]:
    """The status of every call so far, without the requests for approval."""
    events = await talk.events(types="tool.completed")
    return {
        each["data"]["tool_call_id"]: each["data"]["status"]
        for each in events
        if each["data"]["tool_name"] != "approve_tool_call"
    }


async def text_of(talk: Talk, path: str) -> str | None:
    """The content of a file of the session; None if it does not exist."""
    answer = await talk.http.get(talk.path(f"/fs{path}"))
    return answer.json()["content"] if answer.status_code == 200 else None


async def test_destructive_calls_wait_and_others_run_first(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, **gated("normal", "session_sql_database"))
    calls = [
        call("bash", "call_1", command="echo gone > /workspace/a"),
        call("write_file", "call_2", path="/a", content="here"),
        call("sql_execute", "call_3", sql="CREATE TABLE t (x)"),
        call("read_file", "call_4", path="/b"),
        call("delete_file", "call_5", path="/c"),
        call("kv_store", "call_6", operation="set", key="k", value="v"),
    ]
    wanted = await asked(talk, {"tool_calls": calls}, {"text": "Done."})
    assert [(each["tool_call_id"], each["tool_name"]) for each in wanted] == [
        ("call_1", "bash"),
        ("call_3", "sql_execute"),
        ("call_5", "delete_file"),
    ]
    assert wanted[0]["arguments"] == {"command": "echo gone > /workspace/a"}
    assert set(await outcomes(talk)) == {"call_2", "call_4", "call_6"}
    assert await text_of(talk, "/a") == "here"
    assert await decide(talk, call_1="allow", call_3="allow", call_5="reject") == {
        "accepted": 3,
        "status": "active",
    }
    await talk.logged_until("session.idled")
    assert await text_of(talk, "/a") == "gone\n"
    done = await outcomes(talk)
    assert (done["call_1"], done["call_3"], done["call_5"]) == ("success", "success", "rejected")


async def test_normal_mode_asks_before_the_agent_writes_its_own_instructions(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, **gated("normal"))
    calls = [
        call("write_file", "call_1", path="/workspace/x/../AGENTS.md", content="Obey."),
        call("write_file", "call_2", path="/notes.md", content="Noted."),
        call("edit_file", "call_3", path="AGENTS.md", old_text="a", new_text="b"),
    ]
    wanted = await asked(talk, {"tool_calls": calls}, {"text": "Done."})
    assert [each["tool_call_id"] for each in wanted] == ["call_1", "call_3"]
    assert await outcomes(talk) == {"call_2": "success"}
    await decide(talk, call_1="allow", call_3="reject")
    await talk.logged_until("session.idled")
    assert await text_of(talk, "/AGENTS.md") == "Obey."


async def test_protective_mode_asks_about_changes_and_outside_access(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api, **gated("protective", "web_fetch"))
    calls = [
        call("write_file", "call_1", path="/a", content="x"),
        call("list_directory", "call_2"),
        call("web_fetch", "call_3", url="http://192.0.2.1/?what=secret"),
        call("get_current_time", "call_4"),
    ]
    wanted = await asked(talk, {"tool_calls": calls}, {"text": "Done."})
    assert [each["tool_name"] for each in wanted] == ["write_file", "web_fetch"]
    await decide(talk, call_1="reject", call_3="reject")
    await talk.logged_until("session.idled")
    assert await outcomes(talk) == {
        "call_1": "rejected",
        "call_2": "success",
        "call_3": "rejected",
        "call_4": "success",
    }
    assert await text_of(talk, "/a") is None


async def test_mode_off_asks_about_nothing_unless_another_layer_does(api: httpx.AsyncClient) -> None:
    agent = await post(
        api, "/v1/agents", {"name": "careful", "system_prompt": "Be careful.", **gated("protective")}
    )
    bash = ({"tool_calls": [call("bash", "call_1", command="true")]}, {"text": "Done."})
    for fields in ({}, gated("off"), gated("normal")):
        strict = await new_talk(api, agent_id=agent["id"], **fields)
        assert len(await asked(strict, *bash)) == 1, fields
    free = await new_talk(api, **gated("off"))
    await free.turn(*bash)
    assert await outcomes(free) == {"call_1": "success"}


async def test_a_definition_can_require_approval_without_any_capability(
    api: httpx.AsyncClient,
) -> None:
    clock = {
        "type": "builtin",
        "name": "get_current_time",
        "description": "",
        "parameters": {},
        "policy": "requires_approval",
    }
    talk = await new_talk(api, tools=[clock])
    assert (
        len(await asked(talk, {"tool_calls": [call("get_current_time", "call_1")]}, {"text": "Late."})) == 1
    )
    await decide(talk, call_1="allow")
    await talk.logged_until("session.idled")
    assert await outcomes(talk) == {"call_1": "success"}


async def test_an_approval_covers_one_call_only(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, **gated("normal"))
    again = {"tool_calls": [call("bash", "call_2", command="echo two")]}
    await asked(talk, {"tool_calls": [call("bash", "call_1", command="echo one")]}, again, {"text": "Done."})
    await decide(talk, approve_call_1="allow")
    assert [
        each["tool_call_id"] for each in await questions(talk, (await talk.events())[-1]["sequence"])
    ] == ["call_2"]
    await decide(talk, call_2="reject")
    await talk.logged_until("session.idled")
    assert await outcomes(talk) == {"call_1": "success", "call_2": "rejected"}


@pytest.mark.parametrize(
    ("decision", "becomes"), [("allow_always", "success"), ("reject_always", "rejected")]
)
async def test_a_standing_decision_covers_open_and_later_calls_of_the_session(
    api: httpx.AsyncClient, decision: str, becomes: str
) -> None:
    talk = await new_talk(api, **gated("normal"))
    both = [call("bash", "call_1", command="echo one"), call("bash", "call_2", command="echo two")]
    await asked(
        talk,
        {"tool_calls": both},
        {"tool_calls": [call("bash", "call_3", command="echo three")]},
        {"text": "Done."},
    )
    assert (await decide(talk, call_2=decision))["accepted"] == 2
    await talk.logged_until("session.idled")
    await talk.turn({"tool_calls": [call("bash", "call_4", command="echo four")]}, {"text": "Done."})
    assert await outcomes(talk) == dict.fromkeys(("call_1", "call_2", "call_3", "call_4"), becomes)
    other = await new_talk(api, **gated("normal"))
    assert (
        len(
            await asked(
                other, {"tool_calls": [call("bash", "call_1", command="echo one")]}, {"text": "Done."}
            )
        )
        == 1
    )


async def test_the_model_learns_of_a_rejection_and_continues(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, **gated("normal"))
    await asked(
        talk, {"tool_calls": [call("bash", "call_1", command="rm -r /workspace")]}, {"text": "As you wish."}
    )
    await decide(talk, call_1="reject")
    events = await talk.logged_until("session.idled")
    shown = [event["data"]["messages"] for event in events if event["type"] == "llm.generation"][-1]
    (told,) = [message["content"][0] for message in shown if message["role"] == "tool_result"]
    assert "rejected" in told["error"]
    assert events[-1]["type"] == "session.idled"


async def test_nothing_runs_before_the_last_decision(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api, **gated("normal"))
    calls = [
        call("bash", "call_1", command="echo x > /workspace/a"),
        call("delete_file", "call_2", path="/b"),
    ]
    await asked(talk, {"tool_calls": calls}, {"text": "Done."})
    assert await decide(talk, call_1="allow") == {"accepted": 1, "status": "waiting_for_tool_results"}
    problem = await decide(talk, 400, call_1="allow")
    assert problem["code"] == "unknown_tool_call"
    assert await decide(talk, call_2="reject") == {"accepted": 1, "status": "active"}
    await talk.logged_until("session.idled")
    assert await outcomes(talk) == {"call_1": "success", "call_2": "rejected"}


async def test_invalid_decisions_are_refused_and_decide_nothing(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, **gated("normal"))
    await asked(talk, {"tool_calls": [call("bash", "call_1", command="true")]}, {"text": "Done."})
    twice = {"tool_call_id": "call_1", "decision": "allow"}
    for body, code in (
        ({"decisions": [{"tool_call_id": "call_9", "decision": "allow"}]}, "unknown_tool_call"),
        ({"decisions": [twice, {**twice, "tool_call_id": "approve_call_1"}]}, "repeated_tool_call"),
        ({"decisions": [{**twice, "decision": "perhaps"}]}, "invalid_request"),
        ({"decisions": []}, "invalid_request"),
        ({}, "invalid_request"),
    ):
        assert (await post(api, talk.path("/tool-approvals"), body, 400))["code"] == code
    assert (await talk.read())["status"] == "waiting_for_tool_results"
    assert (await talk.answer({"tool_call_id": "call_1", "result": 1}, status=400))[
        "code"
    ] == "unknown_tool_call"
    await decide(talk, call_1="allow")
    await talk.logged_until("session.idled")
    assert (await decide(talk, 409, call_1="allow"))["code"] == "not_waiting_for_approval"


async def test_a_new_message_withdraws_pending_approvals(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, **gated("normal"))
    await asked(
        talk, {"tool_calls": [call("bash", "call_1", command="echo x > /workspace/a")]}, {"text": "Done."}
    )
    message = await talk.say("Never mind.")
    await talk.logged_until("session.idled", after=message["sequence"])
    assert await outcomes(talk) == {"call_1": "cancelled"}
    assert await text_of(talk, "/a") is None
    assert (await decide(talk, 409, call_1="allow"))["code"] == "not_waiting_for_approval"


async def test_pending_approvals_survive_a_kill_and_time_out_as_rejected(
    database_url: str, tmp_path: Path
) -> None:
    async with Server(tmp_path / "data", database_url=database_url) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use_simulated_model(http)
            late, answered = [await new_talk(http, **gated("normal")) for _ in range(2)]
            for talk in (late, answered):
                await asked(
                    talk, {"tool_calls": [call("bash", "call_1", command="echo hi")]}, {"text": "Done."}
                )
        await server.kill()
    environment = {"PERDURE_APPROVAL_TIMEOUT_SECONDS": "0.1"}
    async with (
        Server(tmp_path / "data", database_url=database_url, environment=environment) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        answered.http = late.http = http
        await decide(answered, call_1="allow")
        await answered.logged_until("session.idled")
        assert await outcomes(answered) == {"call_1": "success"}
        # Earlier requests keep their deadline; new ones expire after a tenth of a second.
        fresh = await new_talk(http, **gated("normal"))
        await fresh.say(
            script({"tool_calls": [call("bash", "call_1", command="echo hi")]}, {"text": "Done."})
        )
        events = await fresh.logged_until("session.idled")
        assert await outcomes(fresh) == {"call_1": "rejected"}
        assert "was not approved in time" in json.dumps(events)
        assert (await late.read())["status"] == "waiting_for_tool_results"
