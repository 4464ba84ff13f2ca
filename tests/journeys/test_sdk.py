"""The contract's published client, unmodified, against a real server.

These tests use everything that it offers for the core areas. They leave out what this release does not have:
budgets, memories, connections, health checks, and what only a published agent has (see
docs/reference/compatibility.md).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from everruns_sdk import (
    AgentCapabilityConfig,
    AgentClient,
    ApiError,
    AuthenticationError,
    ContentPart,
    Controls,
    Event,
    Everruns,
    InitialFile,
    NotFoundError,
    ToolDefinition,
    extract_tool_calls,
    generate_agent_id,
)

from tests.journeys.people import fresh
from tests.journeys.published_client import Place, followed, taken
from tests.server import post
from tests.talk import call, script

# Its own advice on which of its two clients to use.
pytestmark = pytest.mark.filterwarnings("ignore:Everruns.*deprecated:DeprecationWarning")

WEATHER = ToolDefinition(
    type="client_side",
    name="weather",
    description="The weather in a city.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}},
)


async def talked(client: Everruns, *steps: dict[str, Any]) -> str:
    """Create a session and run one turn; return the session's id."""
    session = await client.sessions.create(title="Talked")
    await client.messages.create(session.id, script(*steps))
    await followed(client, session.id)
    return session.id


async def test_agents_are_created_read_listed_replaced_copied_and_archived(sdk: Everruns) -> None:
    name = fresh("desk")
    agent = await sdk.agents.create(
        name,
        "You are kind.",
        display_name="Desk",
        description="Answers.",
        tags=["support"],
        capabilities=[AgentCapabilityConfig(ref="current_time")],
        tools=[WEATHER],
        initial_files=[InitialFile(path="notes.md", content="Hello.")],
        harness_name="generic",
        parallel_tool_calls=True,
    )
    assert (agent.name, agent.display_name, agent.tags, agent.status) == (name, "Desk", ["support"], "active")
    assert agent.capabilities is not None
    assert [each.ref for each in agent.capabilities] == ["current_time"]
    assert agent.tools is not None
    assert [(each.type, each.name) for each in agent.tools] == [("client_side", "weather")]
    assert (await sdk.agents.get(agent.id)).model_dump() == agent.model_dump()
    assert [each.id for each in await sdk.agents.list(search=name.upper())] == [agent.id]
    copy = await sdk.agents.copy(agent.id)
    assert (copy.name, copy.system_prompt) == (f"{name}-copy", "You are kind.")
    replaced = await sdk.agents.apply_by_name(name, "You are brief.")
    assert (replaced.id, replaced.system_prompt, replaced.tools) == (agent.id, "You are brief.", [])
    applied = await sdk.agents.apply(generate_agent_id(), fresh("own-id"), "You are new.")
    again = await sdk.agents.apply(applied.id, applied.name, "You are old.")
    assert (again.id, again.system_prompt) == (applied.id, "You are old.")
    assert (await sdk.agents.stats(agent.id)).session_count == 0
    await sdk.agents.delete(agent.id)
    assert agent.id not in [each.id for each in await sdk.agents.list(search=name)]


async def test_an_agent_is_exported_as_text_and_imported(sdk: Everruns) -> None:
    agent = await sdk.agents.create(fresh("traveller"), "You are here.", tags=["a", "b"])
    text = await sdk.agents.export(agent.id)
    assert text.startswith("---\n")
    name = fresh("arrived")
    back = await sdk.agents.import_agent(text.replace(agent.name, name))
    assert (back.name, back.system_prompt, back.tags) == (name, "You are here.", ["a", "b"])
    assert (await sdk.agents.import_example("meeting-notes")).name == "meeting-notes"
    findings = (await sdk.agents.analyze("")).findings
    assert all(each.message for each in findings)


async def test_an_agents_versions_are_kept_compared_restored_and_forked(sdk: Everruns) -> None:
    agent = await sdk.agents.create(fresh("many"), "One.")
    first = await sdk.agents.create_version(agent.id, change_kind="minor", summary="The first.")
    await sdk.agents.apply(agent.id, agent.name, "Two.")
    second = await sdk.agents.create_version(agent.id)
    assert [each.id for each in await sdk.agents.list_versions(agent.id)][-1] != second.id
    diff = await sdk.agents.diff_versions(agent.id, first.id, second.id)
    assert (diff.from_version_id, diff.to_version_id, bool(diff.authored_diff)) == (first.id, second.id, True)
    fork = await sdk.agents.fork_version(agent.id, first.id, name=fresh("fork"), display_name="Fork")
    assert (fork.system_prompt, fork.forked_from_agent_id, fork.forked_from_version_id) == (
        "One.",
        agent.id,
        first.id,
    )
    rolled = await sdk.agents.rollback_version(agent.id, first.id, summary="Back.")
    assert rolled.system_prompt == "One."
    chosen = await sdk.agents.set_default_version(agent.id, second.id)
    assert chosen.default_version_id == second.id


async def test_harnesses_are_created_found_changed_and_archived(sdk: Everruns) -> None:
    built_in = {each.name: each for each in await sdk.harnesses.list()}
    assert built_in["generic"].is_built_in
    assert "notebook" in [each.name for each in await sdk.harnesses.list_examples()]
    name = fresh("house")
    harness = await sdk.harnesses.create(
        name, "Be kind.", display_name="House", parent_harness_id=built_in["generic"].id
    )
    assert [each.id for each in await sdk.harnesses.search(name)] == [harness.id]
    changed = await sdk.harnesses.update(harness.id, system_prompt="Be brief.", tags=["a"])
    assert (changed.system_prompt, changed.display_name, changed.tags) == ("Be brief.", "House", ["a"])
    assert (await sdk.harnesses.get(harness.id)).model_dump() == changed.model_dump()
    await sdk.harnesses.delete(harness.id)
    assert harness.id not in [each.id for each in await sdk.harnesses.list()]


async def test_capabilities_and_models_are_listed_and_read(sdk: Everruns) -> None:
    page = await sdk.capabilities.list_page(search="time", offset=0, limit=5)
    assert page.total == len(page.data) > 0
    time = await sdk.capabilities.get("current_time")
    assert (time.id, bool(time.tool_definitions)) == ("current_time", True)
    assert "current_time" in [each.id for each in await sdk.capabilities.list(limit=100)]
    examples = (await sdk.capabilities.list_guardrail_examples()).examples
    config = next(each.config for each in examples if each.name == "card_numbers")
    tried = await sdk.capabilities.dry_run_guardrails(config, "output", "4111 1111 1111 1111", tool_name="x")
    assert (tried.blocked, tried.hits[0].matched) == (True, "4111 1111 1111 1111")
    model = (await sdk.models.list())[0]
    assert (model.model_id, model.provider_type, model.healthy) == ("simulated", "llmsim", True)
    assert (await sdk.models.get(model.id)).model_dump() == model.model_dump()


async def test_a_session_is_created_read_listed_pinned_and_deleted(sdk: Everruns) -> None:
    agent = await sdk.agents.create(fresh("worker"), "You work.")
    title = fresh("Refund")
    session = await sdk.sessions.create(
        agent_name=agent.name,
        title=title,
        locale="de-DE",
        tags=["x"],
        tools=[WEATHER],
        capabilities=[AgentCapabilityConfig(ref="session_storage")],
        initial_files=[InitialFile(path="a.txt", content="a")],
    )
    assert (session.agent_id, session.title, session.locale, session.status) == (
        agent.id,
        title,
        "de-DE",
        "started",
    )
    assert "key_value" in (session.features or [])
    await sdk.sessions.pin(session.id)
    assert (await sdk.sessions.get(session.id)).is_pinned
    await sdk.sessions.unpin(session.id)
    assert not (await sdk.sessions.get(session.id)).is_pinned
    assert [each.id for each in await sdk.sessions.list(agent.id)] == [session.id]
    assert [each.id for each in await sdk.sessions.list(search=title.lower())] == [session.id]
    await sdk.sessions.set_secrets(session.id, {"TOKEN": "very-secret"})
    await sdk.sessions.delete(session.id)
    with pytest.raises(NotFoundError, match="session"):
        await sdk.sessions.get(session.id)


async def test_a_turn_is_started_followed_and_read_back(sdk: Everruns) -> None:
    session = await sdk.sessions.create()
    model = (await sdk.models.list())[0]
    said = await sdk.messages.create(session.id, script({"text": "Good day."}), Controls(model_id=model.id))
    assert said.role == "user"
    events = await followed(sdk, session.id)
    assert [each.type for each in events][-2:] == ["turn.completed", "session.idled"]
    messages = await sdk.messages.list(session.id)
    assert [(each.role, each.content[0].text) for each in messages][1:] == [("agent", "Good day.")]
    lines = [json.loads(line) for line in (await sdk.sessions.export(session.id)).splitlines()]
    assert [each["role"] for each in lines] == ["user", "agent"]
    read = await sdk.sessions.get(session.id)
    assert (read.status, read.output_preview, read.usage is not None) == ("idle", "Good day.", True)


async def test_every_filter_of_the_list_of_events_works(sdk: Everruns) -> None:
    session_id = await talked(
        sdk, {"tool_calls": [call("get_current_time")]}, {"text": "Noon, of all times."}
    )
    events = await sdk.events.list(session_id, limit=1000)
    sequences = [each.sequence for each in events]
    assert sequences == list(range(1, len(events) + 1))
    turn = next(each.context.turn_id for each in events if each.type == "turn.started")
    middle = events[5]
    last = len(events)

    async def found(**filters: Any) -> list[int | None]:
        return [each.sequence for each in await sdk.events.list(session_id, **filters)]

    assert await found(since_id=middle.id) == sequences[6:]
    assert await found(after_sequence=6) == sequences[6:]
    assert await found(before_sequence=3) == [1, 2]
    assert await found(around=middle.id, window=1) == [5, 6, 7]
    assert await found(order_desc=True, limit=2) == [last, last - 1]
    assert await found(from_ts=events[0].ts, to_ts=events[-1].ts) == sequences
    assert set(await found(turn_id=turn)) == {
        each.sequence for each in events if each.context.turn_id == turn
    }
    assert set(await found(trace_id=turn)) == {
        each.sequence for each in events if each.context.trace_id == turn
    }
    exec_id = next(each.context.exec_id for each in events if each.context.exec_id)
    assert set(await found(exec_id=exec_id)) == {
        each.sequence for each in events if each.context.exec_id == exec_id
    }
    kinds = [
        each.type for each in await sdk.events.list(session_id, types=["turn.started", "turn.completed"])
    ]
    assert kinds == ["turn.started", "turn.completed"]
    rest = await sdk.events.list(session_id, exclude=["turn.started", "turn.completed"], limit=1000)
    assert len(rest) == len(events) - 2
    assert {each.type for each in await sdk.events.list(session_id, tool_name="get_current_time")} >= {
        "tool.started",
        "tool.completed",
    }
    assert await found(tags=["nothing"]) == []
    assert "output.message.completed" in [
        each.type for each in await sdk.events.list(session_id, q="of all times")
    ]


async def test_a_call_of_the_clients_own_tool_is_answered(sdk: Everruns) -> None:
    session = await sdk.sessions.create(harness_name="base", tools=[WEATHER])
    steps = (
        {"tool_calls": [call("weather", "call_1", city="Rome"), call("weather", "call_2", city="Oslo")]},
        {"text": "Thanks."},
    )
    await sdk.messages.create(session.id, script(*steps))
    asked = (await followed(sdk, session.id, "tool.call_requested"))[-1]
    calls = extract_tool_calls(asked.data)
    assert [(each.name, each.arguments) for each in calls] == [
        ("weather", {"city": "Rome"}),
        ("weather", {"city": "Oslo"}),
    ]
    answers = [
        ContentPart.make_tool_result("call_1", {"sky": "clear"}),
        ContentPart.make_tool_error("call_2", "no such city"),
    ]
    accepted = await sdk.messages.create_tool_results(session.id, answers)
    assert (accepted.accepted, accepted.status) == (2, "active")
    await followed(sdk, session.id, since_id=asked.id)
    assert [each.role for each in await sdk.messages.list(session.id)] == [
        "user",
        "agent",
        "tool_result",
        "tool_result",
        "agent",
    ]
    # While the session is not waiting yet, the client retries: it recognizes this message.
    with pytest.raises(ApiError, match="not waiting for tool results"):
        await sdk.messages.create_tool_results(session.id, answers)


async def test_a_running_turn_is_cancelled(sdk: Everruns) -> None:
    session = await sdk.sessions.create()
    await sdk.messages.create(session.id, script({"text": "on and on and on", "delay_ms": 2000}))
    await followed(sdk, session.id, "output.message.started")
    await sdk.sessions.cancel(session.id)
    assert "turn.cancelled" in [each.type for each in await followed(sdk, session.id)]


async def test_errors_come_as_the_clients_own_errors(place: Place, sdk: Everruns) -> None:
    with pytest.raises(NotFoundError) as missing:
        await sdk.agents.get(generate_agent_id())
    assert (missing.value.status_code, missing.value.code) == (404, "agent_not_found")
    with pytest.raises(ApiError) as bad:
        await sdk.sessions.get("nonsense")
    assert (bad.value.status_code, bad.value.code) == (400, "invalid_id")
    async with Everruns(api_key="pdr_pat_wrong", base_url=place.server.url) as stranger:
        with pytest.raises(AuthenticationError):
            await stranger.agents.list()


async def test_a_reason_for_a_change_is_accepted(sdk: Everruns) -> None:
    agent = await sdk.agents.create(fresh("changed"), "One.")
    await sdk.with_reason("a better prompt, für alle").agents.apply(agent.id, agent.name, "Two.")
    assert (await sdk.agents.get(agent.id)).system_prompt == "Two."


@pytest.mark.parametrize("base", ["/v1", "/api/v1"])
async def test_the_client_of_one_agent_finds_the_routes_of_sessions_below_v1(place: Place, base: str) -> None:
    async with AgentClient(agent_url=place.server.url + base, credential=place.token) as agent:
        session = await agent.create_session("Asked", idempotency_key=fresh("key"))
        assert await agent.run(script({"text": "Yes."}), session["id"]) == "Yes."
        assert await agent.run(script({"text": "No."}), session["id"]) == "No."
        assert session["id"] in [each["id"] for each in (await agent.list_sessions(limit=5))["data"]]
        assert (await agent.get_session(session["id"]))["output_preview"] == "No."
        first = await agent.list_events(session["id"], limit=3)
        assert [
            each.sequence
            for each in first + await agent.list_events(session["id"], after_sequence=3, limit=2)
        ] == [
            1,
            2,
            3,
            4,
            5,
        ]


@pytest.mark.parametrize("base", ["/v1", "/api/v1"])
async def test_the_client_of_one_agent_follows_cancels_and_approves(place: Place, base: str) -> None:
    gated = {"capabilities": [{"ref": "session"}, {"ref": "tool_approval", "config": {"mode": "protective"}}]}
    headers = {"authorization": place.token}
    async with httpx.AsyncClient(base_url=place.server.url, headers=headers) as http:
        session_id = (await post(http, "/v1/sessions", gated))["id"]
    async with AgentClient(agent_url=place.server.url + base, credential=place.token) as agent:
        mine = fresh("key")
        said = [
            await agent.send_message(
                session_id,
                script({"tool_calls": [call("write_session_title", title="Gated")]}, {"text": "Done."}),
                idempotency_key=mine,
            )
            for _ in range(2)
        ]
        assert said[0] == said[1]
        asked = (await streamed(agent, session_id, "tool.call_requested", after_sequence=0))[-1]
        (wanted,) = asked.data["tool_calls"]
        decision = {"tool_call_id": wanted["id"], "decision": "allow"}
        answered = await agent.submit_tool_approvals(session_id, {"decisions": [decision]})
        assert answered["status"] == "active"
        done = await streamed(agent, session_id, "session.idled", since_id=asked.id)
        assert (await agent.get_session(session_id))["title"] == "Gated"
        assert "tool.completed" in [each.type for each in done]
        await agent.send_message(session_id, script({"text": "on and on", "delay_ms": 2000}))
        await streamed(agent, session_id, "output.message.started", since_id=done[-1].id)
        assert (await agent.cancel(session_id))["status"] == "cancelled"


async def streamed(agent: AgentClient, session_id: str, until: str, **options: Any) -> list[Event]:
    """Return the events of a session up to the first of a type, followed by the client of one agent."""
    return await taken(agent.stream_events(session_id, **options), until)


NOT_HERE = {
    *("agents.list_health_checks", "agents.trigger_health_check", "agents.get_health_check"),
    *("sessions.budgets", "sessions.budget_check", "sessions.resume"),
    *("agent.card", "agent.answer_questions", "agent.runtime_token"),
}
"""The client's methods for features that are not in this release."""


def test_every_supported_method_of_the_client_is_used() -> None:
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_sdk*.py"))
    parts = {"memories", "connections", "budgets"} ^ {
        name
        for name, value in vars(Everruns).items()
        if isinstance(value, property) and not name.startswith("_")
    }
    offered = {
        f"{part}.{name}"
        for part in parts
        for name, value in vars(type(getattr(Everruns(api_key="pdr_pat_x"), part))).items()
        if callable(value) and not name.startswith("_")
    }
    offered |= {
        f"agent.{name}"
        for name, value in vars(AgentClient).items()
        if callable(value) and not name.startswith("_")
    }
    used = set(re.findall(r"\b(?:sdk|client|stranger)\.(?:with_reason\(.*\)\.)?(\w+\.\w+)\(", source))
    used |= {f"workspace_{each}" for each in re.findall(r"\b(files\.\w+)\(", source)} | set(
        re.findall(r"\b(agent\.\w+)\(", source)
    )
    assert len(offered) > 60
    assert offered - used - {"agent.close", "agent.for_end_user"} == NOT_HERE
