"""Whatever the author of a tool does wrong fails the call, and neither the turn nor the session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.postgres_server import PostgresServer
from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, call, kinds_of, new_talk, script

TOOLS = Path(__file__).parent / "careless_tools.py"

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[httpx.AsyncClient]:
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    data = tmp_path_factory.mktemp("careless") / "data"
    async with (
        Server(data, database_url=url, environment={"PERDURE_TOOLS": str(TOOLS)}) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        yield http


async def with_tools(http: httpx.AsyncClient, *others: Json) -> Talk:
    return await new_talk(http, harness_name="base", capabilities=[{"ref": "careless_tools"}, *others])


FAILURES = {
    "raise cause": "'order'",
    "raise unmade": "The tool failed: ",
    "raise unreadable": "The tool failed: Unreadable.",
    "raise textless": "The tool failed: ",
    "raise number": "7",
    "raise huge": "xxx",
    "raise group": "The tool failed: BaseExceptionGroup.",
    "files text": "The tool failed: TypeError.",
    "files none": "The tool failed: TypeError.",
    "later timer": "The tool failed: ValueError.",
    "later approval": "cannot defer its result to the kind 'approval'",
    "step deep 150": "nested",
    "step deep 800": "nested",
    "step deep 100000": "The tool failed",
    "step refuse": "refused",
    "step object": "The tool failed: TypeError.",
    "deep 100000": "The tool failed: RecursionError.",
    "itself": "The tool failed: RecursionError.",
}
FINE = ("step deep 90", "step half", "step number", "deep 150", "number")


async def test_a_mistake_ends_its_call_and_nothing_else(api: httpx.AsyncClient) -> None:
    talk = await with_tools(api)
    calls = [call("misbehave", f"c{index}", how=how) for index, how in enumerate((*FAILURES, *FINE))]
    events = await talk.turn({"tool_calls": calls}, {"text": "Done."})
    ended = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert [data["tool_call_id"] for data in ended] == [each["id"] for each in calls]
    for (how, words), data in zip(FAILURES.items(), ended, strict=False):
        assert words in (data.get("error") or ""), (how, data)
        assert len(data["error"]) < 110_000, how
    assert [data["success"] for data in ended[len(FAILURES) :]] == [True] * len(FINE), ended
    assert max(len(str(event)) for event in events if event["type"] == "tool.step") < 220_000
    assert kinds_of(events).count("turn.completed") == 1
    # The log can be read by whoever comes next: the next turn, a copy, a list of messages.
    assert kinds_of(await talk.turn({"text": "Again."}))[-1] == "session.idled"
    assert (await api.post(talk.path("/fork"), json={})).status_code == 201
    assert await talk.messages()


async def test_a_follower_outlives_what_a_tool_shows(api: httpx.AsyncClient) -> None:
    talk = await with_tools(api)
    names = ("half", "bytes", "list", "number", "long", "thread")
    async with talk.follow() as stream:
        await talk.say(
            script({"tool_calls": [call("show", each, how=each) for each in names]}, {"text": "So."})
        )
        seen = await stream.until("session.idled")
    ended = {
        frame.data["data"]["tool_call_id"]: frame.data["data"]
        for frame in seen
        if frame.kind == "tool.completed"
    }
    failed = {"The tool failed: TypeError"}
    assert {name: data["success"] for name, data in ended.items()} == {
        "half": True, "bytes": False, "list": False, "number": False, "long": True, "thread": True,
    }  # fmt: skip
    assert {data["error"].partition(".")[0] for data in ended.values() if not data["success"]} == failed
    lines = [frame.data["data"] for frame in seen if frame.kind == "tool.progress"]
    by_call = {line["tool_call_id"]: line["message"] for line in lines}
    assert by_call["half"] == "half ?\ufffd"
    assert len(by_call["long"]) == 2_000
    assert by_call["thread"].startswith("line ")


async def test_a_call_of_the_tool_that_asks_for_approval_is_one_of_an_unknown_tool(
    api: httpx.AsyncClient,
) -> None:
    talk = await with_tools(api, {"ref": "tool_approval", "config": {"mode": "protective"}})
    calls = [call("approve_tool_call", "c1", tool_call_id="c2"), call("misbehave", "c2", how="raise number")]
    await talk.say(script({"tool_calls": calls}, {"text": "Done."}))
    events = await talk.logged_until("tool.call_requested", "session.idled")
    (ended,) = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert (ended["tool_call_id"], ended["success"]) == ("c1", False)
    assert "There is no tool 'approve_tool_call'" in ended["error"]
    decision = {"decisions": [{"tool_call_id": "c2", "decision": "reject"}]}
    (await api.post(talk.path("/tool-approvals"), json=decision)).raise_for_status()
    events = await talk.logged_until("session.idled")
    ended = [event["data"] for event in events if event["type"] == "tool.completed"][-1]
    assert (ended["tool_call_id"], ended["status"]) == ("c2", "rejected")
    assert kinds_of(events).count("tool.started") == 1
