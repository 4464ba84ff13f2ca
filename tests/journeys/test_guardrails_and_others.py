"""Guardrails where other things decide as well: policy hooks, participants, and people who edit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.conformance.drivers.vendor import open_vendor
from tests.deferring import installed, urls_on
from tests.guarded import BAD, OUTPUT, assert_nowhere, guarded_talk, hidden
from tests.journeys.people import new_agent
from tests.journeys.test_participants import add
from tests.policies import PolicyHook, deciding, decisions_in, only_for, result_of
from tests.postgres_server import PostgresServer
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, call, new_talk
from tests.vendors import reply, vendor_provider

pytestmark = pytest.mark.asyncio(loop_scope="session")

FILES = {"ref": "session_file_system"}
RESULTS = {**OUTPUT, "stage": "tool_output"}
CALLS = {**OUTPUT, "stage": "tool_use"}
WEATHER = {
    "type": "client_side",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Server]:
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    folder = tmp_path_factory.mktemp("others")
    environment = {**installed(folder / "site"), "PERDURE_PRIVATE_ADDRESSES": "true"}
    async with Server(folder / "data", database_url=url, environment=environment) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use_simulated_model(http)
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def client(place: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=place.url, timeout=30) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def hook() -> AsyncIterator[PolicyHook]:
    async with deciding() as opened:
        yield opened


def writes(call_id: str, content: str = "x") -> Json:
    return {"tool_calls": [call("write_file", call_id, path="/a", content=content)]}


async def test_what_a_hook_makes_of_arguments_is_bound_by_the_checks(
    client: httpx.AsyncClient, place: Server, hook: PolicyHook
) -> None:
    modified = {"decision": "modify", "arguments": {"path": "/a", "content": f"A {BAD}."}}
    hook.decide = only_for("write_file", modified)
    talk = await guarded_talk(client, CALLS, more=(FILES, hook.ref()))
    await talk.say(hidden(writes("c1"), {"text": "Done."}))
    events = await talk.logged_until("session.idled")
    (decided,) = decisions_in(events)
    assert (decided["decision"], "arguments" in decided) == ("block", False)
    assert decided["failure"] == "a guardrail forbids the answer's `arguments` (reason: bird_name)"
    assert not result_of(events, "c1")["success"]
    assert (await client.get(talk.path("/fs/a"))).status_code == 404
    await assert_nowhere(place, talk)


async def test_a_check_that_asks_asks_about_what_a_hook_has_made_of_a_call(
    client: httpx.AsyncClient, hook: PolicyHook
) -> None:
    hook.decide = lambda question: {"decision": "modify", "arguments": {"path": "/a", "content": "heron"}}
    asks = {"type": "regex", "pattern": "heron", "stage": "tool_use", "action": "ask", "id": "bird"}
    talk = await guarded_talk(client, asks, more=(FILES, hook.ref()))
    await talk.say(hidden(writes("c1"), {"text": "Done."}))
    asked = (await talk.logged_until("tool.call_requested", "session.idled"))[-1]
    assert asked["type"] == "tool.call_requested"
    assert "heron" in json.dumps(asked["data"])


async def test_the_reason_of_a_hook_is_checked_like_the_result_that_it_quotes(
    client: httpx.AsyncClient, place: Server, hook: PolicyHook
) -> None:
    talk = await guarded_talk(client, RESULTS, more=({"ref": "bashkit_shell"}, hook.ref("after_tool")))
    said = call("bash", "c1", command="echo violet cr''ow seven")
    for answer in (
        {"decision": "block", "reason": f"It names the {BAD}."},
        {"decision": "modify", "reason": f"It names the {BAD}.", "result": "A bird."},
    ):
        hook.decide = lambda question, answer=answer: answer  # type: ignore[misc]
        message = await talk.say(hidden({"tool_calls": [said]}, {"text": "Done."}))
        events = await talk.logged_until("session.idled", after=message["sequence"])
        (decided,) = decisions_in(events)
        assert decided["reason"] == "[withheld by a guardrail: bird_name]"
    assert [BAD in each["result"] for each in hook.asked("after_tool")] == [True, True]
    await assert_nowhere(place, talk)


@pytest.mark.parametrize("by", ["client", "callback", "late"])
async def test_results_for_a_participant_are_bound_by_its_agents_checks(
    client: httpx.AsyncClient, place: Server, tmp_path: Path, by: str
) -> None:
    checks = {"ref": "guardrails", "config": {"checks": [RESULTS]}}
    guarded = await new_agent(client, capabilities=[checks])
    talk = await new_talk(
        client,
        harness_name="base",
        agent_id=(await new_agent(client))["id"],
        capabilities=[{"ref": "deferring"}],
        tools=[WEATHER],
    )
    joined = await add(talk, guarded)
    order = call("weather", "c1") if by == "client" else call("order", "c1", desk=str(tmp_path), note="note")
    message = await talk.say(
        hidden({"tool_calls": [order]}, {"text": "Thanks."}), addressed_participant_id=joined["id"]
    )
    if by == "client":
        events = await talk.logged_until("tool.call_requested", after=message["sequence"])
        await talk.answer({"tool_call_id": "c1", "result": f"A {BAD}."})
    else:
        (url,) = await urls_on(tmp_path, "note")
        events = await talk.logged_until("act.completed", after=message["sequence"])
        if by == "late":
            message = await talk.say(hidden({"text": "Go on."}), addressed_participant_id=joined["id"])
            events = await talk.logged_until("session.idled", after=message["sequence"])
        assert (await client.post(url, json=f"A {BAD}.")).status_code == 200
    events = await talk.logged_until("session.idled", after=events[-1]["sequence"])
    assert "withheld by a guardrail" in json.dumps(events)
    await assert_nowhere(place, talk)


async def test_a_service_gets_edited_arguments_without_the_sessions_secrets(
    client: httpx.AsyncClient,
) -> None:
    async with open_vendor() as vendor:
        provider = await vendor_provider(client, vendor)
        asks = {"type": "tool_pattern", "tool": "weather", "stage": "tool_use", "action": "ask"}
        check = {"type": "moderation", "provider_id": provider["id"], "stage": "tool_use"}
        talk = await guarded_talk(client, asks, check, tools=[WEATHER])
        stored = await client.put(talk.path("/storage/secrets"), json={"secrets": {"city": "hunter2-zebra"}})
        assert stored.status_code in (200, 201, 204), stored.text
        for _ in range(3):
            vendor.will(reply({"results": [{"flagged": False}]}))
        await talk.say(hidden({"tool_calls": [call("weather", "c1", city="Rome")]}, {"text": "Done."}))
        await talk.logged_until("tool.call_requested")
        decision = {"tool_call_id": "c1", "decision": "allow", "arguments": {"city": "hunter2-zebra"}}
        await post(client, talk.path("/tool-approvals"), {"decisions": [decision]}, 400)
        assert len(vendor.asked) == 2
        assert "hunter2" not in json.dumps([each.body for each in vendor.asked])
