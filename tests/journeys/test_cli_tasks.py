"""`perdure tasks ...`, `perdure sessions tree`, and what a chat shows of sub-agents."""

from __future__ import annotations

import asyncio
import json
import re
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import pytest

from perdure.client import CapabilityRef, Client, ClientSideTool, ToolCallResult, data_of
from perdure.domain.ids import new_id
from tests.command import LIMIT, PERDURE, Terminal, environment, perdure, script, use_simulated_model
from tests.journeys.families import ASKS, SLOW, spawns
from tests.server import Server
from tests.talk import Json, when

SUBAGENTS = (CapabilityRef("subagents"),)
WEATHER = ClientSideTool("weather", "The weather in a city.", {"type": "object"})


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as made:
        await use_simulated_model(made)
        yield made


async def family(client: Client, *calls: Json, text: str = "The end.") -> str:
    """The id of a session that has begun these sub-agents."""
    session = await client.create_session(capabilities=SUBAGENTS, title="Top", tools=(WEATHER,))
    await client.ask(session.id, script({"tool_calls": list(calls)}, {"text": text}))
    return session.id


class Watching:
    """A command that runs until something ends, in a pipe. It has begun once it has written a line."""

    def __init__(self, process: Process, first: str) -> None:
        self._process = process
        self._first = first

    @classmethod
    async def begin(cls, *arguments: str, url: str) -> Watching:
        process = await asyncio.create_subprocess_exec(
            *PERDURE, *arguments, stdout=PIPE, env=environment(url)
        )
        assert process.stdout is not None
        return cls(process, (await asyncio.wait_for(process.stdout.readline(), LIMIT)).decode())

    async def end(self) -> tuple[int | None, str]:
        """The exit status, and the whole output."""
        rest, _ = await asyncio.wait_for(self._process.communicate(), LIMIT)
        return self._process.returncode, self._first + rest.decode()


def inner(*steps: Json) -> Json:
    return {"tool_calls": [spawns("inner", *steps, mode="foreground")]}


async def test_a_tree_is_drawn_with_lines_states_and_answers(server: Server, client: Client) -> None:
    session_id = await family(
        client,
        spawns("one", inner({"text": "Deep.\nMore."}), {"text": "Mid."}, mode="foreground"),
        spawns("two", {"fail": {"code": "provider_auth", "message": "bad key"}}, mode="foreground"),
    )
    done = await perdure("sessions", "tree", session_id, url=server.url)
    assert (done.status, done.err) == (0, "")
    told = re.sub(r" session_\w+", "", re.sub(r"[\d.]+ m?s\b", "TIME", done.out)).splitlines()
    assert told[0] == "Top idle  The end."
    nodes = set(told[1:4])
    if "├─ ✓ one succeeded TIME  Mid." in nodes:
        assert nodes == {
            "├─ ✓ one succeeded TIME  Mid.",
            "│  └─ ✓ inner succeeded TIME  Deep.",
            "└─ ✗ two failed TIME  bad key",
        }
    else:  # calls of one answer run side by side
        assert nodes == {
            "├─ ✗ two failed TIME  bad key",
            "└─ ✓ one succeeded TIME  Mid.",
            "   └─ ✓ inner succeeded TIME  Deep.",
        }
    assert re.fullmatch(r"4 sessions, \d+ tokens in, \d+ out", told[4])
    whole = await perdure("sessions", "tree", session_id, "--json", url=server.url)
    assert [node["depth"] for node in json.loads(whole.out)["nodes"]].count(2) == 1
    missing = await perdure("sessions", "tree", new_id("session"), url=server.url)
    assert (missing.status, missing.out) == (1, "")
    assert "perdure sessions list" in missing.err


async def test_a_tree_is_watched_until_all_have_ended(server: Server, client: Client) -> None:
    session_id = await family(client, spawns("asker", inner(ASKS, {"text": "Deep."}), {"text": "Mid."}))
    (task,) = await client.list_tasks(session_id)
    child_id = task.links.child_session_id or ""
    watching = [
        await Watching.begin("sessions", "tree", session_id, "--watch", *more, url=server.url)
        for more in ((), ("--json",))
    ]
    terminal = Terminal(*PERDURE, "sessions", "tree", session_id, "-w", **environment(server.url))
    try:
        await terminal.see("‖ inner awaiting_input")
        (node,) = [each for each in (await client.get_session_tree(session_id)).nodes if each.depth == 2]
        (request,) = await client.list_events(node.session_id, types=("tool.call_requested",))
        (asked,) = data_of(request).tool_calls
        await client.submit_tool_results(node.session_id, [ToolCallResult(asked.id, result="Sunny")])
        await terminal.see("✓ inner succeeded")
        await terminal.see("3 sessions")
        assert await terminal.end() == 0
    finally:
        terminal.close()
    (status, plain), (other, as_json) = [await each.end() for each in watching]
    assert (status, other) == (0, 0)
    assert re.search(r"^[\d:]{8}     ✓ inner succeeded .* Deep\.$", plain, re.MULTILINE)
    last = json.loads(as_json.splitlines()[-1])
    assert [node.get("state") for node in last["nodes"]] == [None, "succeeded", "succeeded"]
    assert (await client.wait_for_task(session_id, task.id)).links.child_session_id == child_id


async def test_tasks_are_listed_of_a_session_of_a_tree_and_of_all(server: Server, client: Client) -> None:
    session_id = await family(client, spawns("outer", inner({"text": "1"}), {"text": "2"}, mode="foreground"))
    (outer,) = await client.list_tasks(session_id)
    of_session = await perdure("tasks", "list", session_id, url=server.url)
    header, line = of_session.out.splitlines()
    assert header.split("\t") == ["TASK", "SESSION", "STATE", "TOOK", "NAME", "ANSWER"]
    cells = line.split("\t")
    assert (cells[:3], cells[4:]) == ([outer.id, session_id, "succeeded"], ["outer", "2"])
    for more in ([], ["--tree", session_id], ["--state", "succeeded,failed"]):
        done = await perdure("tasks", "list", *more, "--json", url=server.url)
        names = [json.loads(line)["display_name"] for line in done.out.splitlines()]
        assert names == ["inner", "outer"], more
    none = await perdure("tasks", "list", "--kind", "background_tool", url=server.url)
    assert none.out.splitlines() == [header]
    for wrong in (["--state", "done"], [session_id, "--tree", session_id], ["--limit", "0"]):
        assert (await perdure("tasks", "list", *wrong, url=server.url)).status == 2


async def test_a_task_is_shown_watched_and_cancelled(server: Server, client: Client) -> None:
    report = {"tool_calls": [{"name": "report_to_parent", "arguments": {
        "message": "halfway", "progress": {"current": 1, "total": 2, "unit": "pages", "label": "reading"},
        "artifacts": [{"name": "draft", "type": "file", "path": "/draft.md"}],
    }}]}  # fmt: skip
    session_id = await family(client, spawns("writer", report, SLOW))
    (task,) = await client.list_tasks(session_id)

    async def reported() -> bool:
        return bool((await client.get_task(session_id, task.id)).messages)

    await when(reported)
    shown = await perdure("tasks", "show", session_id, task.id, url=server.url)
    for text in ("writer", "running", "1 of 2 pages reading", "draft (/draft.md)", "← halfway"):
        assert text in shown.out
    as_json = await perdure("tasks", "show", session_id, task.id, "--json", url=server.url)
    assert json.loads(as_json.out)["messages"][0]["content"][0]["text"] == "halfway"
    watching = [
        await Watching.begin("tasks", "watch", session_id, *more, url=server.url)
        for more in ((), (task.id, "--json"))
    ]
    cancelled = await perdure("tasks", "cancel", session_id, task.id, url=server.url)
    assert cancelled.out.startswith(f"{task.id} ")
    (status, plain), (other, as_json) = [await each.end() for each in watching]
    assert (status, other) == (1, 1)
    assert "→ sub-agent writer running" in plain.splitlines()[0]
    assert "✗ sub-agent writer canceled" in plain.splitlines()[-1]
    assert json.loads(as_json.splitlines()[-1])["state"] == "canceled"
    again = await perdure("tasks", "cancel", session_id, task.id, "--json", url=server.url)
    assert json.loads(again.out)["state"] == "canceled"
    ended = await perdure("tasks", "show", session_id, task.id, url=server.url)
    assert "cancelled by a user (canceled)" in ended.out
    missing = await perdure("tasks", "show", session_id, new_id("task"), url=server.url)
    assert (missing.status, "perdure tasks list" in missing.err) == (1, True)


async def test_watching_ends_well_if_all_tasks_have_succeeded(server: Server, client: Client) -> None:
    session_id = await family(client, spawns("quick", {"text": "1"}, mode="foreground"))
    (task,) = await client.list_tasks(session_id)
    done = await perdure("tasks", "watch", session_id, task.id, url=server.url)
    assert (done.status, "✓ sub-agent quick succeeded" in done.out) == (0, True)
    nothing = await perdure("tasks", "watch", session_id, url=server.url)
    assert (nothing.status, nothing.out) == (0, "")


async def test_a_chat_shows_how_sub_agents_begin_ask_and_end(server: Server, client: Client) -> None:
    session = await client.create_session(capabilities=SUBAGENTS, tools=(WEATHER,))
    terminal = Terminal(*PERDURE, "chat", session.id, **environment(server.url))
    try:
        await terminal.see("> ")
        child = spawns("asker", ASKS, {"text": "Sunny there."}, mode="foreground")
        terminal.type(script({"tool_calls": [child]}, {"text": "Done."}) + "\n")
        await terminal.see("⇢ sub-agent asker begins (session_")
        await terminal.see("‖ sub-agent asker waits for somebody: A client has to run weather.")
        (task,) = await client.list_tasks(session.id)
        child_id = task.links.child_session_id or ""
        (request,) = await client.list_events(child_id, types=("tool.call_requested",))
        (asked,) = data_of(request).tool_calls
        await client.submit_tool_results(child_id, [ToolCallResult(asked.id, result="Sunny")])
        await terminal.see("⇠ sub-agent asker succeeded (")
        await terminal.see("): Sunny there.")
        await terminal.see("Done.\n")
        await terminal.see("> ")
        # A background task goes on after the turn: Enter waits for its end, which wakes the session.
        begin = {"tool_calls": [spawns("later", {"text": "Late.", "delay_ms": 300})]}
        terminal.type(script(begin, {"text": "Begun."}) + "\n")
        await terminal.see("Begun.\n")
        await terminal.see("later goes on")
        await terminal.see("> ")
        terminal.type("\n")
        await terminal.see("⇠ sub-agent later succeeded (")
        await terminal.see("> ")
        terminal.type("\x04")
        assert await terminal.end() == 0
    finally:
        terminal.close()
