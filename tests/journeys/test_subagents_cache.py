"""Warm caches: sub-agents and forks send their model the same bytes first as their parents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from tests.conformance.drivers.protocols import ChatWire
from tests.conformance.drivers.vendor import Reply, open_vendor
from tests.journeys.family import begin, calls, child_of, end_in, new_parent
from tests.journeys.people import new_agent
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, call

FILE = '''
from perdure.tools import tool


@tool(deferred=True, read_only=True)
async def moon_phase(day: str) -> str:
    """Tell the phase of the moon on a day."""
    return "full"
'''
CAPABILITIES = ["session_storage", "session_sql_database", "stateless_todo_list", "agent_instructions"]


async def with_model(http: httpx.AsyncClient, kind: str, name: str, **more: Any) -> str:
    provider = await post(http, "/v1/providers?check=false", {"name": name, "provider_type": kind, **more})
    model = {"model_id": name, "display_name": name}
    return str((await post(http, f"/v1/providers/{provider['id']}/models", model))["id"])


async def cached(talk: Talk) -> list[int]:
    """The cached tokens of a session's model calls."""
    generations = await talk.events(types="llm.generation")
    return [event["data"]["metadata"]["usage"].get("cache_read_tokens", 0) for event in generations]


async def test_what_a_parent_sent_is_in_the_cache_for_its_sub_agents_and_forks(tmp_path: Path) -> None:
    file = tmp_path / "sky.py"
    file.write_text(FILE)
    environment = {"PERDURE_TOOLS": str(file)}
    async with (
        Server(tmp_path / "data", environment=environment) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        model = await with_model(http, "llmsim", "sim-cached")
        agent = await new_agent(
            http, variables={"who": {"default": "all"}}, system_prompt="You help {{who}}."
        )
        refs = [{"ref": each} for each in (*CAPABILITIES, "sky")]
        talk = await new_parent(http, model_id=model, agent_id=agent["id"], capabilities=refs,
                                system_prompt="Be brief.", variables={"who": "Ada"})  # fmt: skip
        # The tool that the parent finds is in its list of tools from then on, and in those of its sub-agents.
        inner = begin("inner", {"text": "Inner."})
        events = await talk.turn(
            calls(call("tool_search", query="phases of the moon")),
            calls(
                begin("outer", calls(inner), {"text": "Outer."}),
                begin("copy", {"text": "Copy."}, files="fork"),
            ),
            {"text": "Done."},
        )
        outer, copy = (child_of(talk, end_in(events, name)) for name in ("outer", "copy"))
        grandchild = child_of(outer, end_in(await outer.events(), "inner"))
        system = await system_words(talk)
        assert system > 20
        assert (await cached(talk))[0] == 0
        for each in (outer, copy, grandchild):
            assert (await cached(each))[0] == system, (await each.read())["title"]
            loaded = await each.events(types="tools.loaded")
            assert [event["data"]["tool_names"] for event in loaded] == [["moon_phase"]]
        fork = Talk(http, (await post(http, talk.path("/fork"), {}))["id"])
        await fork.turn({"text": "On."})
        # All messages of the parent are in the cache, besides its instructions.
        assert (await cached(fork))[-1] > (await cached(talk))[-1] > system


async def system_words(talk: Talk) -> int:
    """The words of the system prompt, as the simulated model counts them."""
    report = (await talk.http.get(talk.path("/context-report"))).json()
    assert report["sections"]
    first = (await talk.events(types="llm.generation"))[0]["data"]
    asked = len(first["messages"][0]["content"][0]["text"].split())
    return int(first["metadata"]["usage"]["input_tokens"]) - asked


async def test_a_vendor_receives_the_same_tools_and_instructions_at_every_depth(
    api: httpx.AsyncClient,
) -> None:
    async with open_vendor() as vendor:
        model = await with_model(
            api, "openai_completions", "watched", base_url=f"{vendor.url}/v1", api_key="key"
        )
        talk = await new_parent(api, model_id=model, capabilities=[{"ref": each} for each in CAPABILITIES])
        begins: Json = {"name": "deeper", "instructions": "Go on."}
        one = ("call_1", "spawn_agent", [json.dumps(begins)])
        for reply in ([], []):
            vendor.will(Reply(ChatWire().answer(reply, [one])))
        for text in ("Bottom.", "Middle.", "Top."):
            vendor.will(Reply(ChatWire().answer([text])))
        await talk.say("Begin.")
        events = await talk.logged_until("session.idled")
        assert end_in(events, "deeper")["summary"] == "Middle."
        bodies = [asked.body for asked in vendor.asked]
        assert [len(body["messages"]) for body in bodies] == [2, 2, 2, 4, 4]
        for body in bodies[1:]:
            assert body["tools"] == bodies[0]["tools"]
            assert body["messages"][0] == bodies[0]["messages"][0]
