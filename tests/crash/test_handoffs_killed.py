"""kill -9 between a handoff and its result: the session is handed off once, and the turn goes on."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.crash.effects import EffectsServer
from tests.server import post, use_simulated_model
from tests.talk import Json, Talk, call, new_talk, script, text_in, when


async def _agents(http: httpx.AsyncClient, history: str) -> tuple[Json, Json]:
    """An agent that hands off, and the one to which it does."""
    to = {"name": f"billing-{history}", "system_prompt": "You are billing."}
    config = {"agents": [to["name"]], "history": history}
    refs = [{"ref": "effects"}, {"ref": "handoff", "config": config}]
    host = {"name": f"triage-{history}", "system_prompt": "You are triage.", "capabilities": refs}
    return await post(http, "/v1/agents", host), await post(http, "/v1/agents", to)


async def _begin(http: httpx.AsyncClient, history: str) -> tuple[Talk, Json, Json]:
    """A session that is handed off, in an answer whose first call hangs, so that no result is in the log."""
    host, billing = await _agents(http, history)
    talk = await new_talk(http, harness_name="base", agent_id=host["id"])
    hands = call("handoff_to_agent", "handoff", agent=billing["name"], summary="They owe three.")
    hangs = call("charge", f"hanging_{history}", hang="after", how="")
    await talk.say(script({"tool_calls": [hangs, hands]}, {"text": "You owe three."}))
    return talk, host, billing


async def test_a_handoff_whose_server_is_killed_before_its_result_happens_once(
    database_url: str, tmp_path: Path
) -> None:
    server = EffectsServer(tmp_path / "data", database_url=database_url)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        begun = [await _begin(http, history) for history in ("full", "summary")]
        for talk, _, _ in begun:
            await talk.logged_until("session.handed_off")

        async def all_hang() -> bool:
            return server.hanging() == {"hanging_full", "hanging_summary"}

        await when(all_hang)
        assert [await talk.events(types="tool.completed") for talk, _, _ in begun] == [[], []]
        await server.restart()
        for talk, host, billing in begun:
            events = await talk.logged_until("session.idled")
            ends = [each["data"] for each in events if each["type"] == "tool.completed"]
            assert [each["status"] for each in ends] == ["interrupted", "success"]
            assert len([each for each in events if each["type"] == "session.handed_off"]) == 1
            calls = [each["data"]["agent_id"] for each in events if each["type"] == "reason.started"]
            assert calls == [host["id"], billing["id"]]
            answer = (await talk.messages())[-1]
            assert (await talk.read())["agent_id"] == answer["author"]["agent_id"] == billing["id"]
        full, summary = [(await talk.events(types="llm.generation"))[-1]["data"] for talk, _, _ in begun]
        assert text_in(full["messages"][0]).startswith("Please.")
        assert "They owe three." in text_in(summary["messages"][0])
