"""kill -9 during each built-in tool (promise P5): replayable calls run again, others are interrupted."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from perdure.tools.built_in import catalogue
from tests.crash.hanging import HangingServer, Moment
from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, call, new_talk, script, when

Arguments = dict[str, Any]
TOOLS = {
    tool.name: (capability.id, tool)
    for capability in catalogue()
    if capability.id != "code_interpreter"  # off by default: its journey kills a server in the middle of it
    for tool in capability.tools(None)
}


async def _value(talk: Talk, path: str) -> Any:
    answer = await talk.http.get(talk.path(path))
    return answer.json() if answer.status_code == 200 else None


async def _file(talk: Talk, path: str) -> str | None:
    found = await _value(talk, f"/fs{path}")
    return None if found is None else str(found["content"])


async def _written(talk: Talk) -> int:
    return int(await _file(talk, "/new") == "text")


async def _edited(talk: Talk) -> int:
    return len(await _file(talk, "/a") or "") - len("one")


async def _deleted(talk: Talk) -> int:
    return int(await _file(talk, "/a") is None)


async def _appended(talk: Talk) -> int:
    return (await _file(talk, "/log") or "").count("line")


async def _titled(talk: Talk) -> int:
    return int((await talk.read()).get("title") == "A title")


async def _kept(talk: Talk) -> int:
    return len((await _value(talk, "/storage/keys"))["data"])


async def _sealed(talk: Talk) -> int:
    return len((await _value(talk, "/storage/secrets"))["data"])


async def _scheduled(talk: Talk) -> int:
    return len((await _value(talk, "/schedules"))["data"])


async def _inserted(talk: Talk) -> int:
    data = await talk.turn(
        {"tool_calls": [call("sql_query", database="db", sql="SELECT COUNT(*) AS n FROM t")]}, {"text": "So."}
    )
    done = next(event["data"] for event in data if event["type"] == "tool.completed")
    return int(json.loads(done["result"][0]["text"])["rows"][0][0])


async def _spawned(talk: Talk) -> int:
    return len(await _value(talk, "/tasks"))


@dataclass
class Case:
    """A call of a tool: its arguments, the calls before it, and a function that counts its effects.

    Attributes:
        answers: what a person answers to what the call asks after the crash.
    """

    arguments: Arguments = field(default_factory=dict)
    before: tuple[tuple[str, Arguments], ...] = ()
    effects: Callable[[Talk], Awaitable[int]] | None = None
    answers: Json | None = None


MAKE_TABLE = (("sql_execute", {"database": "db", "sql": "CREATE TABLE t (a)"}),)
FILE = (("write_file", {"path": "/a", "content": "one"}),)
SKILL_MD = "---\nname: own-skill\ndescription: Shows how.\n---\n\nLook.\n"
SKILL = (("write_file", {"path": "/.agents/skills/own-skill/SKILL.md", "content": SKILL_MD}),)
NO_TASK = f"task_{'0' * 32}"
CASES = {
    "ask_user": Case(
        {"questions": [{"id": "pin", "type": "secret", "question": "Your PIN?"}]},
        effects=_sealed,
        answers={"pin": "2468-1357"},
    ),
    "bash": Case({"command": "echo line >> /workspace/log"}, effects=_appended),
    "query_history": Case({"query": "please"}),
    "get_current_time": Case({"timezone": "UTC"}),
    "get_session_info": Case(),
    "write_session_title": Case({"title": "A title"}, effects=_titled),
    "read_file": Case({"path": "/a"}, FILE),
    "read_many_files": Case({"paths": ["/a"]}, FILE),
    "list_directory": Case({"path": "/"}, FILE),
    "grep_files": Case({"pattern": "one"}, FILE),
    "glob": Case({"pattern": "*"}, FILE),
    "stat_file": Case({"path": "/a"}, FILE),
    "write_file": Case({"path": "/new", "content": "text"}, effects=_written),
    "edit_file": Case({"path": "/a", "old_text": "e", "new_text": "ee"}, FILE, effects=_edited),
    "delete_file": Case({"path": "/a"}, FILE, effects=_deleted),
    "create_schedule": Case({"message": "Wake up.", "cron": "0 9 * * *"}, effects=_scheduled),
    "cancel_schedule": Case({"id": f"sched_{'0' * 32}"}),
    "list_schedules": Case(),
    "sql_execute": Case({"database": "db", "sql": "INSERT INTO t VALUES (1)"}, MAKE_TABLE, effects=_inserted),
    "sql_query": Case({"database": "db", "sql": "SELECT * FROM t"}, MAKE_TABLE),
    "sql_schema": Case({"database": "db"}, MAKE_TABLE),
    "spawn_agent": Case(
        {"name": "a", "instructions": "Hello.", "mode": "background", "wake_policy": "silent"},
        effects=_spawned,
    ),
    "list_tasks": Case(),
    "wait_tasks": Case(),
    "get_task": Case({"task_id": NO_TASK}),
    "cancel_task": Case({"task_id": NO_TASK}),
    "message_task": Case({"task_id": NO_TASK, "message": "Hurry."}),
    "report_to_parent": Case({"message": "Half of it."}),
    "kv_store": Case({"operation": "set", "key": "hive", "value": "seven"}, effects=_kept),
    "secret_store": Case(
        {"operation": "set", "key": "pass", "value": "correct-horse-battery"}, effects=_sealed
    ),
    "write_todos": Case({"todos": [{"content": "Look.", "status": "pending", "active_form": "Looking"}]}),
    "web_fetch": Case({"url": "{server}/health"}),
    "list_skills": Case(before=SKILL),
    "activate_skill": Case({"name": "own-skill"}, SKILL),
}
SECRET_ARGUMENTS = frozenset(name for name, (_, tool) in TOOLS.items() if tool.secret_arguments)
ALWAYS_FAILS = frozenset({"cancel_schedule", "get_task", "cancel_task", "message_task", "report_to_parent"})
"""Calls that always fail: there is nothing to cancel, to look at or to report to."""


def test_every_tool_of_the_server_has_a_case() -> None:
    assert set(CASES) == set(TOOLS)


async def _begin(http: httpx.AsyncClient, server: Server, name: str) -> Talk:
    """A session in which this tool hangs, or is about to."""
    case, (capability, _) = CASES[name], TOOLS[name]
    talk = await new_talk(http, harness_name="base", capabilities=[{"ref": capability}])
    for earlier, arguments in case.before:
        await talk.turn({"tool_calls": [call(earlier, **arguments)]}, {"text": "Ready."})
    arguments = {
        key: value.format(server=server.url) if isinstance(value, str) else value
        for key, value in case.arguments.items()
    }
    await talk.say(
        script(
            {"tool_calls": [{"name": name, "arguments": arguments, "id": f"hang_{name}"}]}, {"text": "Done."}
        )
    )
    return talk


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_killed_call_runs_again_only_if_it_is_replayable(
    moment: Moment, database_url: str, tmp_path: Path
) -> None:
    server = HangingServer(
        tmp_path / "data",
        moment,
        database_url=database_url,
        environment={"PERDURE_PRIVATE_ADDRESSES": "true"},
    )
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        talks = {name: await _begin(http, server, name) for name in CASES}

        async def all_hang() -> bool:
            # A call that fails does not hang afterwards.
            return server.hanging() >= {
                f"hang_{name}" for name in CASES if moment == "before" or name not in ALWAYS_FAILS
            }

        await when(all_hang)
        await server.restart()
        for name, talk in talks.items():
            await _check(talk, name, moment)


async def _check(talk: Talk, name: str, moment: Moment) -> None:
    hints, case = TOOLS[name][1].hints, CASES[name]
    again = bool(hints.readonly or hints.idempotent)
    if case.answers is not None:
        await talk.logged_until("tool.parked")
        await talk.answer({"tool_call_id": f"hang_{name}", "result": {"answers": case.answers}})
    await talk.logged_until("session.idled", after=(await _last_message(talk)))
    events = await talk.events()
    begun = [
        event
        for event in events
        if event["type"] == "tool.started" and event["data"]["tool_call"]["id"] == f"hang_{name}"
    ]
    (done,) = [
        event["data"]
        for event in events
        if event["type"] == "tool.completed" and event["data"]["tool_call_id"] == f"hang_{name}"
    ]
    assert len(begun) == 1, name
    own = [event["type"] for event in events if not event["type"].startswith("task.")]
    assert own[-2:] == ["turn.completed", "session.idled"], name
    if name in ALWAYS_FAILS:
        assert done["status"] == "error", (name, done)
    elif name in SECRET_ARGUMENTS and again:
        # The secret argument was lost with the process, so only the model can repeat the call.
        assert "interrupted" in done["error"], (name, done)
    elif again:
        assert done["status"] == "success", (name, done)
    else:
        assert done["status"] == "interrupted", (name, done)
        assert "may or may not have taken effect" in done["error"], name
    if case.effects is not None:
        repeated = again and name not in SECRET_ARGUMENTS
        assert await case.effects(talk) == int(repeated or moment == "after"), name


async def _last_message(talk: Talk) -> int:
    messages = await talk.events(types="input.message")
    return int(messages[-1]["sequence"])


async def test_a_command_that_is_killed_while_it_runs_has_changed_nothing(
    database_url: str, tmp_path: Path
) -> None:
    async with (
        Server(tmp_path / "data", database_url=database_url) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        talk = await new_talk(http)
        await talk.turn({"tool_calls": [call("bash", command="echo one > a; X=1")]}, {"text": "Ready."})
        command = "echo two > a; echo new > b; X=2; echo begun; sleep 100"
        async with talk.follow(types="tool.output.delta") as stream:
            await talk.say(script({"tool_calls": [call("bash", command=command)]}, {"text": "Done."}))
            await stream.until("tool.output.delta", where=lambda data: "begun" in json.dumps(data))
        await server.restart()
        await talk.logged_until("session.idled", after=await _last_message(talk))
        assert await _file(talk, "/a") == "one\n"
        assert await _file(talk, "/b") is None
        events = await talk.turn({"tool_calls": [call("bash", command="cat a; echo $X")]}, {"text": "So."})
        done: Json = next(event["data"] for event in events if event["type"] == "tool.completed")
        assert json.loads(done["result"][0]["text"])["stdout"] == "one\n1\n"
