"""The Python client: tasks, and trees of sessions."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from perdure.client import (
    ApiError,
    CapabilityRef,
    Client,
    ClientSideTool,
    NotFound,
    ToolCallContext,
    ToolCallResult,
    WireEvent,
    client_side_tool,
    data_of,
    is_live,
    tool,
)
from perdure.domain.session_trees import SessionTree
from perdure.domain.tasks import SessionTask, TaskText
from tests.command import use_simulated_model
from tests.journeys.families import ASKS, SLOW, spawns
from tests.server import Server
from tests.talk import script

SUBAGENTS = (CapabilityRef("subagents"),)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as made:
        await use_simulated_model(made)
        yield made


def by_session(events: list[WireEvent]) -> dict[str, list[str]]:
    """The types of the logged events of each session. Also checks that none is missing or twice."""
    found: defaultdict[str, list[WireEvent]] = defaultdict(list)
    for event in events:
        if not is_live(event):
            found[event.session_id].append(event)
    for session_id, each in found.items():
        sequences = [event.sequence or 0 for event in each]
        assert sequences == sorted(set(sequences)), session_id
    return {session_id: [event.type for event in each] for session_id, each in found.items()}


async def test_tasks_are_listed_read_awaited_and_cancelled(client: Client) -> None:
    session = await client.create_session(capabilities=SUBAGENTS)
    begin = {"tool_calls": [spawns("quick", {"text": "42"}), spawns("endless", SLOW)]}
    await client.ask(session.id, script(begin, {"text": "begun"}))
    tasks = {task.display_name: task for task in await client.list_tasks(session.id)}
    quick = await client.wait_for_task(session.id, tasks["quick"].id)
    assert (quick.state, quick.summary) == ("succeeded", "42")
    assert await client.wait_for_task(session.id, quick.id) == quick
    waiting = asyncio.create_task(client.wait_for_task(session.id, tasks["endless"].id))
    cancelled = await client.cancel_task(session.id, tasks["endless"].id)
    assert cancelled.cancel_requested_at is not None
    assert (await waiting).state == "canceled"
    assert [task.id for task in await client.list_tasks(session.id, state="succeeded")] == [quick.id]
    ids = {task.id for task in tasks.values()}
    everywhere = await client.list_org_tasks(
        state=("succeeded", "canceled"), kind="subagent", root_session_id=session.id, limit=10
    )
    assert {task.id for task in everywhere} == ids
    assert await client.list_org_tasks(created_after=everywhere[0].created_at) == ()
    assert len(await client.list_org_tasks(before=everywhere[0].id)) == 1
    assert len(await client.list_tasks(session.id, before=everywhere[0].id, limit=1)) == 1
    detail = await client.get_task(session.id, quick.id, limit=5)
    assert (detail.task, detail.messages) == (quick, ())
    for content in ("Hurry.", [TaskText("Hurry.")]):
        with pytest.raises(ApiError, match=r"POST /v1/sessions/session_\w+/messages"):
            await client.post_task_message(session.id, quick.id, content)
    with pytest.raises(NotFound):
        await client.get_task(session.id, quick.id, after_id="message_" + "0" * 32)


async def test_a_tree_is_read_and_its_sessions_are_listed(client: Client) -> None:
    session = await client.create_session(capabilities=SUBAGENTS, title="Top")
    inner = {"tool_calls": [spawns("inner", {"text": "1"}, mode="foreground")]}
    outer = {"tool_calls": [spawns("outer", inner, {"text": "2"}, mode="foreground")]}
    await client.ask(session.id, script(outer, {"text": "3"}))
    tree = await client.get_session_tree(session.id)
    assert isinstance(tree, SessionTree)
    assert [(node.name, node.depth, node.answer) for node in tree.nodes] == [
        ("Top", 0, "3"), ("outer", 1, "2"), ("inner", 2, "1"),
    ]  # fmt: skip
    below = await client.list_sessions(root_session_id=session.id, source="subagent")
    assert [each.title for each in below.data] == ["inner", "outer"]
    children = await client.list_sessions(parent_session_id=session.id)
    assert [each.title for each in children.data] == ["outer"]


async def test_a_run_follows_the_whole_tree_to_the_end_of_the_turn(client: Client) -> None:
    session = await client.create_session(capabilities=SUBAGENTS)
    inner = {"tool_calls": [spawns("inner", {"text": "one"}, mode="foreground")]}
    outer = spawns("outer", inner, {"text": "two"}, mode="foreground")
    seen = [
        event
        async for event in client.run(
            session.id, script({"tool_calls": [outer]}, {"text": "three"}), tree=True
        )
    ]
    nodes = {node.name: node for node in (await client.get_session_tree(session.id)).nodes}
    told = by_session(seen)
    assert set(told) == {node.session_id for node in nodes.values()}
    assert (seen[0].session_id, told[session.id][0], told[session.id][-1]) == (
        session.id, "input.message", "turn.completed",
    )  # fmt: skip
    for name in ("outer", "inner"):
        log = await client.list_events(nodes[name].session_id, exclude=("llm.generation",), limit=1000)
        assert told[nodes[name].session_id] == [event.type for event in log]
        assert log[-1].type == "session.idled"
    texts = [
        data_of(event).message.content[0].text
        for event in seen
        if event.type == "output.message.completed"
        and data_of(event).message.content
        and hasattr(data_of(event).message.content[0], "text")
    ]
    assert texts[-3:] == ["one", "two", "three"]


async def test_a_run_follows_sub_agents_that_were_at_work_before_and_leaves_them_at_work(
    client: Client,
) -> None:
    weather = ClientSideTool("weather", "The weather in a city.", {"type": "object"})
    session = await client.create_session(capabilities=SUBAGENTS, tools=(weather,))
    deep = {"tool_calls": [spawns("deep", SLOW, mode="foreground")]}
    await client.ask(session.id, script({"tool_calls": [spawns("before", deep)]}, {"text": "begun"}))
    (task,) = await client.list_tasks(session.id)
    child_id = task.links.child_session_id or ""
    async with aclosing(client.follow(child_id, types=("task.created",))) as events:
        inner: SessionTask = data_of(await anext(events)).task
    grandchild_id = inner.links.child_session_id or ""
    seen: list[WireEvent] = []
    asked: list[str] = []
    async with aclosing(client.run(session.id, script(ASKS, {"text": "2"}), tree=True)) as events:
        async for event in events:
            seen.append(event)
            if event.type == "tool.call_requested":
                asked.append(data_of(event).tool_calls[0].id)
            if asked and grandchild_id in {each.session_id for each in seen}:
                await client.submit_tool_results(session.id, [ToolCallResult(asked.pop(), result="Sunny")])
    assert by_session(seen)[session.id][-1] == "turn.completed"  # a sub-agent may say a word after it
    assert "input.message" not in by_session(seen).get(grandchild_id, [])
    assert not (await client.get_task(child_id, inner.id)).task.ended
    await client.cancel_task(session.id, task.id)


async def test_a_run_of_a_tree_survives_a_restart_of_the_server(server: Server, client: Client) -> None:
    session = await client.create_session(capabilities=SUBAGENTS)
    child = spawns("child", {"text": "slow", "delay_ms": 1500}, mode="foreground")
    seen: list[WireEvent] = []
    run = client.run(session.id, script({"tool_calls": [child]}, {"text": "done"}), tree=True)
    async with aclosing(run) as events:
        async for event in events:
            seen.append(event)
            if event.type == "turn.started" and event.session_id != session.id:
                await server.kill(signal.SIGKILL)
                await server.start()
    told = by_session(seen)
    assert len(told) == 2
    assert told[session.id][-1] == "turn.completed"
    (task,) = await client.list_tasks(session.id)
    log = await client.list_events(task.links.child_session_id or "", exclude=("llm.generation",))
    assert told[task.links.child_session_id or ""] == [event.type for event in log]


async def test_a_sub_agent_that_is_deleted_ends_its_part_of_a_run(client: Client) -> None:
    session = await client.create_session(capabilities=SUBAGENTS)
    child = spawns("child", SLOW, mode="foreground")
    run = client.run(session.id, script({"tool_calls": [child]}, {"text": "done"}), tree=True)
    seen: list[WireEvent] = []
    async with aclosing(run) as events:
        async for event in events:
            if event.type == "turn.started" and event.session_id != session.id:
                await client.delete_session(event.session_id)
            seen.append(event)
    assert (seen[-1].session_id, seen[-1].type) == (session.id, "turn.completed")
    assert [task.state for task in await client.list_tasks(session.id)] == ["canceled"]


async def test_the_tools_of_a_run_answer_the_calls_of_sub_agents(client: Client) -> None:
    @tool
    async def weather(ctx: ToolCallContext, city: str) -> str:
        """The weather in a city."""
        asked.append(ctx.session_id)
        return f"Sunny in {city}"

    asked: list[str] = []
    session = await client.create_session(capabilities=SUBAGENTS, tools=(client_side_tool(weather),))
    child = spawns("child", {"tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]},
                   {"text": "nice"}, mode="foreground")  # fmt: skip
    run = client.run(
        session.id, script({"tool_calls": [child]}, {"text": "done"}), tree=True, tools=[weather]
    )
    seen = [event async for event in run]
    (task,) = await client.list_tasks(session.id)
    assert asked == [task.links.child_session_id]
    assert (task.state, seen[-1].type) == ("succeeded", "turn.completed")


async def test_a_tree_is_followed_without_end_until_the_session_is_deleted(client: Client) -> None:
    session = await client.create_session(capabilities=SUBAGENTS)
    begin = {"tool_calls": [spawns("child", {"text": "1"}, wake_policy="silent")]}
    await client.ask(session.id, script(begin, {"text": "2"}))
    seen: list[WireEvent] = []

    async def follow() -> None:
        async with aclosing(client.follow_tree(session.id)) as events:
            async for event in events:
                seen.append(event)
                if event.type == "session.idled" and len(by_session(seen)) == 2:
                    await client.delete_session(session.id)

    with pytest.raises(NotFound):
        await follow()
    assert len(by_session(seen)) == 2


async def test_a_fork_is_followed_without_the_sub_agents_of_the_original(client: Client) -> None:
    session = await client.create_session(capabilities=SUBAGENTS)
    begin = {"tool_calls": [spawns("child", {"text": "1"}, mode="foreground")]}
    await client.ask(session.id, script(begin, {"text": "2"}))
    fork = await client.fork_session(session.id)
    last = await client.last_event_id(fork.id)
    seen: list[WireEvent] = []
    async with aclosing(client.follow_tree(fork.id)) as events:
        async for event in events:
            seen.append(event)
            if event.id == last:
                await client.send_message(fork.id, script({"text": "3", "delay_ms": 200}))
            elif event.type == "session.idled" and last in [each.id for each in seen]:
                break
    told = by_session(seen)
    assert set(told) == {fork.id}
    assert "task.created" in told[fork.id]
