"""`POST /mcp`: the official client works with agents, in both eras of its protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from perdure.client import Client
from perdure.domain.inbox import MAX_SHOWN
from perdure.domain.session_answers import MAX_ANSWER
from tests.journeys.people import fresh, new_agent
from tests.mcp_client import (
    MODES,
    STATELESS,
    OfficialClient,
    envelope,
    messages_in,
    official_client,
    rpc,
    use_tool,
)
from tests.server import Server, use_simulated_model
from tests.talk import PATIENCE, Json, Talk, call, script, text_in

GENERAL = {
    "list_agents", "start_session", "send_message", "read_answer", "list_sessions", "list_approvals",
    "decide_approval", "answer_questions", "cancel_turn",
}  # fmt: skip
SLOW = {"text": "At last.", "first_ms": 60_000}
CAREFUL = [{"ref": "tool_approval", "config": {"mode": "normal"}}]
DANGER = script(
    {"tool_calls": [call("bash", "call_1", command="echo gone > /workspace/a")]}, {"text": "It is done."}
)


@pytest.mark.parametrize("mode", MODES)
async def test_the_official_client_works_with_agents(
    api: httpx.AsyncClient, shared_server: Server, mode: str
) -> None:
    agent = await new_agent(api, description="Answers questions about orders.", expose_mcp=True)
    careful = await new_agent(api, capabilities=CAREFUL)
    async with official_client(shared_server.url, mode) as client:
        assert client.revision == (STATELESS if mode == STATELESS else "2025-11-25")
        tools = await client.tools()
        own = tools[f"agent_{agent['name']}"]
        assert set(tools) >= GENERAL | {own["name"]}
        assert f"agent_{careful['name']}" not in tools
        assert own["description"] == "Answers questions about orders."
        assert tools["read_answer"]["annotations"]["readOnlyHint"] is True
        await _asks_the_agent(client, own["name"], agent)
        await _decides_an_approval(client, api, careful)
        await _waits_again(client, agent)
        await _cancels(client, agent)
        wrong = await client.ask({"tool": "send_message", "arguments": {"session_id": "x", "message": "Hi"}})
        assert wrong["error"] is True
        assert wrong["text"].startswith("invalid_")
        assert "refused" in await client.ask({"tool": "no_such_tool", "arguments": {}})


async def _asks_the_agent(client: OfficialClient, tool: str, agent: Json) -> None:
    """Ask the agent by its own tool, continue the session by that and by the general one."""
    first = await client.call(tool, message=script({"text": "Sun."}))
    assert (first["status"], first["answer"]) == ("idle", "Sun.")
    again = await client.call(tool, message=script({"text": "Rain."}), session_id=first["session_id"])
    assert (again["session_id"], again["answer"]) == (first["session_id"], "Rain.")
    said = {"session_id": first["session_id"], "message": script({"text": "Fog."}), "client_message_id": "m1"}
    assert (await client.call("send_message", **said))["answer"] == "Fog."
    assert (await client.call("send_message", **said))["answer"] == "Fog."
    listed = await client.call("list_agents", search=agent["name"])
    assert [(each["id"], each["tool"]) for each in listed["agents"]] == [(agent["id"], tool)]
    sessions = (await client.call("list_sessions"))["sessions"]
    assert any(each["session_id"] == first["session_id"] for each in sessions)


async def _decides_an_approval(client: OfficialClient, api: httpx.AsyncClient, careful: Json) -> None:
    waits = await client.call("start_session", agent=careful["name"], message=DANGER)
    assert waits["status"] == "waiting_for_tool_results"
    (wanted,) = waits["approvals"]
    assert (wanted["tool_name"], wanted["arguments"]) == ("bash", {"command": "echo gone > /workspace/a"})
    session_id = waits["session_id"]
    assert (await client.call("list_approvals", session_id=session_id))["approvals"] == [wanted]
    assert wanted in (await client.call("list_approvals"))["approvals"]
    decided = await client.call(
        "decide_approval", session_id=session_id, tool_call_id="call_1", decision="allow"
    )
    assert decided == {"accepted": 1, "status": "active"}
    done = await client.call("read_answer", session_id=session_id, wait_seconds=30)
    assert (done["status"], done["answer"]) == ("idle", "It is done.")
    file = await api.get(f"/v1/sessions/{session_id}/fs/a")
    assert file.json()["content"] == "gone\n"


async def _waits_again(client: OfficialClient, agent: Json) -> None:
    """A turn takes longer than a call waits; a client that waits is told what the turn does."""
    look = {"tool_calls": [call("get_current_time", "call_1")]}
    slow = script(look, {"text": "Noon.", "first_ms": 4_000})
    begun = await client.call("start_session", agent=agent["id"], message=slow, wait_seconds=1)
    assert begun["status"] == "active"
    done = await client.call("read_answer", session_id=begun["session_id"], wait_seconds=60)
    assert (done["status"], done["answer"]) == ("idle", "Noon.")
    said = {"session_id": done["session_id"], "message": script(look, {"text": "One.", "first_ms": 1_500})}
    told = await client.ask({"tool": "send_message", "arguments": said})
    assert told["structured"]["answer"] == "One."
    assert told["told"] == ["get_current_time: started", "get_current_time: success"]


async def _cancels(client: OfficialClient, agent: Json) -> None:
    begun = await client.call("start_session", agent=agent["name"], message=script(SLOW), wait_seconds=0)
    session_id = begun["session_id"]
    assert "answer" not in begun
    assert (await client.call("cancel_turn", session_id=session_id))["status"] == "cancelled"
    ended = await client.call("read_answer", session_id=session_id, wait_seconds=30)
    assert (ended["status"], ended["error"]["code"]) == ("idle", "turn_cancelled")


@pytest.fixture
async def agent(api: httpx.AsyncClient) -> Json:
    return await new_agent(api, expose_mcp=True, capabilities=[{"ref": "current_time"}])


async def test_a_session_without_a_message_waits_for_one(api: httpx.AsyncClient, agent: Json) -> None:
    begun = await use_tool(api, "start_session", harness="generic", title="Later")
    assert begun == {"session_id": begun["session_id"], "status": "started"}
    talk = Talk(api, begun["session_id"])
    assert (await talk.read())["title"] == "Later"
    said = await use_tool(api, "send_message", session_id=talk.id, message=script({"text": "Now."}))
    assert said["answer"] == "Now."
    other = await use_tool(
        api, f"agent_{agent['name']}", message="Hi", session_id=talk.id
    )  # a session of no agent
    assert other["failed"].startswith("invalid_request: ")


async def test_long_answers_and_arguments_are_cut(api: httpx.AsyncClient) -> None:
    long = await use_tool(api, "start_session", message=script({"tokens": MAX_ANSWER // 4}))
    assert (len(long["answer"]), long["truncated"]) == (MAX_ANSWER, True)
    careful = await new_agent(api, capabilities=CAREFUL)
    command = "echo " + "x" * MAX_SHOWN
    asks = script({"tool_calls": [call("bash", "call_1", command=command)]})
    waits = await use_tool(api, "start_session", agent=careful["name"], message=asks)
    (wanted,) = waits["approvals"]
    assert wanted["arguments"].startswith('{"command":"echo xxx')
    assert len(wanted["arguments"]) == MAX_SHOWN
    await Talk(api, waits["session_id"]).cancel()


async def test_a_failed_turn_is_told_as_an_error(api: httpx.AsyncClient) -> None:
    failing = {"fail": {"code": "provider_auth_failed", "message": "no such key", "transient": False}}
    found = await use_tool(api, "start_session", message=script(failing))
    assert found["status"] == "idle"
    assert found["error"]["code"]
    assert "answer" not in found


async def test_while_a_turn_runs_its_newest_text_is_shown_and_the_last_turns_answer_is_not(
    api: httpx.AsyncClient, agent: Json
) -> None:
    begun = await use_tool(api, "start_session", agent=agent["name"], message=script({"text": "Old."}))
    talk = Talk(api, begun["session_id"])
    steps = ({"text": "Let me look.", "tool_calls": [call("get_current_time")]}, SLOW)
    active = await use_tool(api, "send_message", session_id=talk.id, message=script(*steps), wait_seconds=0)
    assert active.get("answer") != "Old."
    await talk.logged_until("tool.completed")
    now = await use_tool(api, "read_answer", session_id=talk.id)
    assert (now["status"], now["answer"]) == ("active", "Let me look.")
    await talk.cancel()


async def test_a_client_that_leaves_stops_the_waiting_and_not_the_turn(
    api: httpx.AsyncClient, shared_server: Server, agent: Json
) -> None:
    talk = Talk(api, (await use_tool(api, "start_session", agent=agent["name"]))["session_id"])
    steps = ({"tool_calls": [call("get_current_time")], "first_ms": 500}, {"text": "Noon.", "first_ms": 500})
    async with talk.follow() as stream, httpx.AsyncClient(base_url=shared_server.url) as leaving:
        waiting = asyncio.create_task(
            use_tool(leaving, "send_message", session_id=talk.id, message=script(*steps))
        )
        await stream.until("input.message")
        waiting.cancel()
        await asyncio.wait({waiting})
        await stream.until("session.idled")
    assert text_in((await talk.messages())[-1]) == "Noon."
    assert "Traceback" not in shared_server.log.read_text()


async def test_an_answer_outlives_the_server_that_was_asked_for_it(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        talk = Talk(http, (await use_tool(http, "start_session"))["session_id"])
        async with talk.follow() as stream:
            message = script({"text": "Still here.", "first_ms": 1_000})
            waiting = asyncio.create_task(use_tool(http, "send_message", session_id=talk.id, message=message))
            await stream.until("turn.started")
        await server.restart()
        with pytest.raises(httpx.TransportError):
            await waiting
        found = await use_tool(http, "read_answer", session_id=talk.id, wait_seconds=60)
        assert (found["status"], found["answer"]) == ("idle", "Still here.")


@pytest.mark.parametrize("stateless", [False, True])
async def test_progress_comes_as_events_before_the_response(
    api: httpx.AsyncClient, agent: Json, *, stateless: bool
) -> None:
    steps = ({"tool_calls": [call("get_current_time")]}, {"text": "Noon.", "first_ms": 1_500})
    arguments = {"message": script(*steps)}
    params = {"name": f"agent_{agent['name']}", "arguments": arguments, "_meta": {"progressToken": 0}}
    body, headers = envelope("tools/call", params, stateless=stateless, number="one")
    answer = await api.post("/mcp", json=body, headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *told, last = messages_in(answer.text)
    assert [(each["method"], each["params"]["progressToken"]) for each in told] == [
        ("notifications/progress", 0),
        ("notifications/progress", 0),
    ]
    assert [each["params"]["progress"] for each in told] == [1, 2]
    assert (last["id"], last["result"]["structuredContent"]["answer"]) == ("one", "Noon.")
    assert ("resultType" in last["result"]) is stateless
    # A client that reads no streams waits for the same in silence.
    quiet = await api.post("/mcp", json=body, headers={**headers, "accept": "application/json"})
    assert quiet.json()["result"]["structuredContent"]["answer"] == "Noon."


@pytest.fixture
def environment() -> dict[str, str]:
    return {"PERDURE_DRAIN_SECONDS": "1"}


async def test_a_server_that_stops_answers_who_waits(any_server: Server, http: httpx.AsyncClient) -> None:
    begun = await use_tool(http, "start_session")
    talk = Talk(http, begun["session_id"])
    async with talk.follow() as stream:
        waiting = asyncio.create_task(
            use_tool(http, "send_message", session_id=talk.id, message=script(SLOW), wait_seconds=300)
        )
        await stream.until("turn.started")
        stopping = asyncio.create_task(any_server.stop())
        found = await waiting
    assert (found["session_id"], found["status"]) == (talk.id, "active")
    assert await stopping == 0
    assert "Traceback" not in any_server.log.read_text()


async def test_agents_are_tools_while_they_are_active_and_marked(api: httpx.AsyncClient) -> None:
    name = fresh("marked")
    path = f"/v1/agents/{name}"

    async def named() -> Any:
        return {each["name"]: each for each in (await rpc(api, "tools/list"))["tools"]}.get(f"agent_{name}")

    async with Client(str(api.base_url)) as client:
        created = await client.create_agent(name=name, system_prompt="Help.", expose_mcp=True)
    assert created.expose_mcp
    assert (await named())["description"] == "Send a message to this agent and wait for its answer."
    assert (await api.patch(path, json={"expose_mcp": False, "description": "New."})).status_code == 200
    assert await named() is None
    assert "expose_mcp" not in (await api.get(path)).json()
    versions = (await api.get(f"{path}/versions")).json()
    back = await api.post(f"{path}/versions/{versions[-1]['id']}/rollback", json={})
    assert back.json()["expose_mcp"] is True
    assert await named() is not None
    exported = (await api.get(f"{path}/export")).text
    assert "expose_mcp: true" in exported
    assert (await api.delete(path)).status_code == 204
    assert await named() is None
    params = {"name": f"agent_{name}", "arguments": {"message": "Hi"}}
    gone = await api.post("/mcp", json=envelope("tools/call", params, stateless=False)[0])
    assert gone.json()["error"]["code"] == -32602
    imported = await api.post(
        "/v1/agents/import", content=exported, headers={"content-type": "text/markdown"}
    )
    assert imported.json()["expose_mcp"] is True


async def test_what_a_waiting_client_may_see_ends_with_its_session(api: httpx.AsyncClient) -> None:
    begun = await use_tool(api, "start_session", message=script(SLOW), wait_seconds=0)
    waiting = asyncio.create_task(
        use_tool(api, "read_answer", session_id=begun["session_id"], wait_seconds=300)
    )
    assert (await api.delete(f"/v1/sessions/{begun['session_id']}")).status_code == 204
    assert (await asyncio.wait_for(waiting, PATIENCE))["failed"] == "session_not_found: no such session"
