"""Traces over OTLP: what a collector gets of turns, with which ids, and what it never gets."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from perdure.store.database import Tx
from tests.collector import Collector, GotSpan, collecting, has_turn, root_of, tree_of
from tests.conformance.places import open_database
from tests.journeys.family import begin, calls, new_parent
from tests.journeys.people import new_agent
from tests.mcp_stub import McpStub, tool
from tests.server import Server, use_simulated_model
from tests.sites import Site
from tests.stub_model import use_model_at
from tests.talk import Json, Talk, body_of, call, new_talk, script, when

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=a:b, other=1"}
SECRET = "correct-horse-battery"
CONTENT = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
ASK = {"type": "client_side", "name": "ask", "description": "Ask.", "parameters": {"type": "object"}}


@pytest_asyncio.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as opened:
        yield opened


@pytest.fixture
def environment(collector: Collector, request: pytest.FixtureRequest) -> dict[str, str]:
    return {
        **collector.environment,
        "OTEL_SERVICE_NAME": "desk",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test,note=a%20b",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=s3cret%2Fkey",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "PERDURE_PRIVATE_ADDRESSES": "true",
        **getattr(request, "param", {}),
    }


def turn_in(events: list[Json]) -> str:
    (turn,) = {event["data"]["turn_id"] for event in events if event["type"] == "turn.started"}
    return str(turn)


async def traced(collector: Collector, events: list[Json]) -> tuple[list[GotSpan], GotSpan]:
    """The spans that came, and the turn's own."""
    turn = turn_in(events)
    spans = await collector.until(has_turn(turn))
    return spans, root_of(spans, turn)


async def say(talk: Talk, text: str, headers: dict[str, str]) -> list[Json]:
    """Post a message with headers, and wait for the end of its turn."""
    answer = await talk.http.post(talk.path("/messages"), json=body_of(text), headers=headers)
    assert answer.status_code == 201, answer.text
    return await talk.logged_until("session.idled", after=answer.json()["sequence"] - 1)


async def test_a_turn_is_a_trace_of_its_agent_model_calls_and_tools(
    http: httpx.AsyncClient, collector: Collector
) -> None:
    agent = await new_agent(http, name="helper", capabilities=[{"ref": "current_time"}])
    talk = await new_talk(http, agent_id=agent["id"])
    events = await talk.turn(
        {"tool_calls": [call("get_current_time", "one"), call("no_such_tool", "two")]}, {"text": "Noon."}
    )
    spans, root = await traced(collector, events)
    turn = turn_in(events)
    assert tree_of(spans, root) == [
        "invoke_agent helper",
        "  chat simulated",
        *(f"  execute_tool {name}" for name in ("get_current_time", "no_such_tool")),
        "  chat simulated",
    ]
    assert (root.trace_id, root.span_id, root.parent_id) == (turn[-32:], turn[-16:], "")
    assert {span.trace_id for span in spans} == {turn[-32:]}
    assert root.attributes["gen_ai.conversation.id"] == talk.id
    assert root.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert (root.attributes["gen_ai.agent.id"], root.attributes["gen_ai.agent.name"]) == (
        agent["id"],
        "helper",
    )
    assert (root.attributes["perdure.turn.status"], root.failed) == ("completed", False)
    ended = next(event for event in events if event["type"] == "turn.completed")
    assert root.attributes["gen_ai.usage.input_tokens"] == ended["data"]["usage"]["input_tokens"]
    chat = [span for span in spans if span.name.startswith("chat")]
    assert (
        sum(span.attributes["gen_ai.usage.output_tokens"] for span in chat)
        == (root.attributes["gen_ai.usage.output_tokens"])
    )
    assert all(span.attributes["gen_ai.request.model"] == "simulated" and span.kind == 3 for span in chat)
    logged = {(event["context"].get("span_id"), event["type"]) for event in events}
    assert {(span.span_id, "llm.generation") for span in chat} <= logged
    good, bad = (
        next(s for s in spans if s.attributes.get("gen_ai.tool.call.id") == each) for each in ("one", "two")
    )
    assert (good.failed, bad.failed, bad.attributes["error.type"]) == (False, True, "error")
    assert all(root.start <= span.start <= span.end <= root.end for span in spans)
    assert collector.resource == {"service.name": "desk", "deployment.environment": "test", "note": "a b"}
    assert collector.headers["x-api-key"] == "s3cret/key"
    texts = [str(value) for span in spans for value in span.attributes.values()]
    assert not any("Noon" in text or "[[sim" in text for text in texts)


@pytest.mark.parametrize("environment", [CONTENT], indirect=True)
async def test_content_is_exported_only_if_enabled_and_without_secrets(
    http: httpx.AsyncClient, collector: Collector
) -> None:
    talk = await new_talk(http, tools=[ASK])
    await http.put(talk.path("/storage/secrets"), json={"secrets": {"TOKEN": SECRET}})
    told = script(
        {"tool_calls": [call("ask", "one", what=SECRET)]}, {"text": f"It is {SECRET}."}, ask=f"Keep {SECRET}."
    )
    message = await talk.say(told)
    await talk.logged_until("tool.call_requested")
    await talk.answer({"tool_call_id": "one", "result": f"blue {SECRET}"})
    events = await talk.logged_until("session.idled", after=message["sequence"] - 1)
    spans, root = await traced(collector, events)
    (asked,) = [span for span in spans if span.name == "execute_tool ask"]
    assert "blue" in asked.attributes["gen_ai.tool.call.result"]
    assert '"what"' in asked.attributes["gen_ai.tool.call.arguments"]
    assert "Keep" in root.attributes["gen_ai.input.messages"]
    assert "It is" in root.attributes["gen_ai.output.messages"]
    last = max((span for span in spans if span.name.startswith("chat")), key=lambda span: span.end)
    assert last.attributes["gen_ai.output.messages"] == root.attributes["gen_ai.output.messages"]
    assert SECRET.encode() not in collector.raw


async def test_a_turn_is_a_child_of_the_request_that_sent_its_message(
    http: httpx.AsyncClient, collector: Collector
) -> None:
    talk = await new_talk(http)
    events = await say(talk, script({"text": "Yes."}), PARENT)
    (message,) = [event for event in events if event["type"] == "input.message"]
    assert message["data"]["trace"] == {
        "trace_id": TRACE, "span_id": SPAN, "sampled": True, "tracestate": "vendor=a:b,other=1",
    }  # fmt: skip
    spans, root = await traced(collector, events)
    assert (root.trace_id, root.parent_id, root.state) == (TRACE, SPAN, "vendor=a:b,other=1")
    assert {span.trace_id for span in spans} == {TRACE}
    # A caller that does not record its trace gets no part of it, and a header that is not valid is nobody's.
    unrecorded = await say(talk, script({"text": "No."}), {"traceparent": f"00-{TRACE}-{SPAN}-00"})
    for odd in ("00-1-1-01", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", "x" * 5000):
        events = await say(talk, script({"text": "Odd."}), {"traceparent": odd, "tracestate": "a=b"})
        assert not any("trace" in event["data"] for event in events)
        spans, root = await traced(collector, events)
        assert (root.trace_id, root.parent_id, root.state) == (turn_in(events)[-32:], "", "")
    assert not has_turn(turn_in(unrecorded))(spans)


async def test_the_turns_of_a_sub_agent_are_children_of_the_call_that_began_it(
    http: httpx.AsyncClient, collector: Collector
) -> None:
    talk = await new_parent(http)
    events = await talk.turn(calls(begin("one", {"text": "First."}, _id="a")), {"text": "Done."})
    turn = turn_in(events)
    await collector.until(lambda spans: sum(span.name == "invoke_agent" for span in spans) == 2)
    spans = await collector.until(has_turn(turn))
    assert tree_of(spans, root_of(spans, turn)) == [
        "invoke_agent",
        "  chat simulated",
        "  execute_tool spawn_agent",
        "    invoke_agent",
        "      chat simulated",
        "  chat simulated",
    ]
    assert {span.trace_id for span in spans} == {turn[-32:]}


async def test_calls_of_models_tools_and_mcp_servers_carry_the_trace(
    any_server: Server, http: httpx.AsyncClient, collector: Collector, site: Site
) -> None:
    seen: list[tuple[str, str]] = []

    async def answer(request: Any) -> Any:
        from aiohttp import web

        seen.append((request.headers["traceparent"], request.headers["tracestate"]))
        return web.Response(text=STREAMS[min(len(seen), 2) - 1], content_type="text/event-stream")

    site.answers["/v1/chat/completions"] = answer
    async with McpStub([tool("order", "Orders.")]) as stub:
        model = await use_model_at(http, site.url("/v1"))
        talk = await new_talk(http, model_id=model, mcpServers={"Shop": {"url": stub.url}})
        events = await say(talk, "Order tea.", PARENT)
    spans, root = await traced(collector, events)
    chats = sorted((span for span in spans if span.name == "chat stub"), key=lambda span: span.start)
    assert seen == [(f"00-{TRACE}-{span.span_id}-01", "vendor=a:b,other=1") for span in chats]
    (ordered,) = [span for span in spans if span.name.startswith("execute_tool")]
    expected = f"00-{TRACE}-{ordered.span_id}-01"
    assert len(stub.calls) == 1, [e["data"].get("error") for e in events if e["type"] == "tool.completed"]
    (made,) = stub.calls
    headers = {name.lower(): value for name, value in made.headers.items()}
    assert (headers["traceparent"], made.meta["traceparent"]) == (expected, expected)
    assert root.trace_id == TRACE


def _chunk(delta: Json, reason: str | None = None) -> str:
    import json

    chunk = {"id": "r", "model": "stub", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return f"data: {json.dumps(chunk)}\n\n"


_CALL = {
    "index": 0,
    "id": "c1",
    "type": "function",
    "function": {"name": "mcp_shop__order", "arguments": "{}"},
}
STREAMS = (
    _chunk({"tool_calls": [_CALL]}, "tool_calls") + "data: [DONE]\n\n",
    _chunk({"content": "Done."}, "stop") + "data: [DONE]\n\n",
)


async def test_a_collector_that_is_down_holds_up_no_turn_and_gets_everything_later(
    any_server: Server, http: httpx.AsyncClient, collector: Collector
) -> None:
    collector.down = True
    talk = await new_talk(http)
    turns = [turn_in(await talk.turn({"text": f"Number {number}."})) for number in range(3)]
    await collector.asked(2)
    assert collector.spans == []
    collector.down = False
    for turn in turns:
        await collector.until(has_turn(turn))
    # One that takes a request and does not answer holds up no turn either.
    collector.open.clear()
    events = [await talk.turn({"text": "More."}) for _ in range(2)]
    collector.open.set()
    for each in events:
        await traced(collector, each)
    log = any_server.log.read_text()
    assert len(re.findall("traces cannot be exported, and wait: the collector answered 503", log)) == 1
    assert "traces are exported again" in log
    assert "s3cret" not in log


async def test_what_a_collector_refuses_holds_up_no_other_trace(
    any_server: Server, http: httpx.AsyncClient, collector: Collector
) -> None:
    collector.refuses = "invoke_agent refused"
    collector.down = True
    bad = await new_talk(http, agent_id=(await new_agent(http, name="refused"))["id"])
    refused = turn_in(await bad.turn({"text": "No."}))
    good = await new_talk(http)
    events = await good.turn({"text": "Yes."})
    collector.down = False
    spans, _ = await traced(collector, events)
    assert not has_turn(refused)(spans)

    async def said() -> bool:
        return f"the trace of turn {refused}" in any_server.log.read_text()

    await when(said)


@pytest.mark.parametrize("environment", [{"OTEL_SDK_DISABLED": "true"}], indirect=True)
async def test_without_export_nothing_is_noted_or_sent(
    any_server: Server, http: httpx.AsyncClient, collector: Collector
) -> None:
    talk = await new_talk(http)
    await say(talk, script({"text": "Yes."}), PARENT)
    assert collector.requests == 0
    assert await waiting_in(any_server) == 0


async def waiting_in(server: Server) -> int:
    """The number of turns that wait for their export."""
    place = server.database_url or str(server.data / "perdure.db")
    database = await open_database(place)
    try:

        async def count(tx: Tx) -> int:
            row = await tx.one("SELECT COUNT(*) FROM trace_turns")
            return 0 if row is None else int(row[0])

        return await database.read(count)
    finally:
        await database.close()


async def test_a_server_that_is_killed_loses_no_span(
    database_url: str, tmp_path: Path, collector: Collector, environment: dict[str, str]
) -> None:
    server = Server(tmp_path / "data", database_url=database_url, environment=environment)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        talk = await new_talk(http)
        collector.open.clear()
        first = turn_in(await talk.turn({"text": "First."}))
        await collector.asked(1)  # the collector has the spans, and the server does not know it
        second = turn_in(await talk.turn({"text": "Second."}))
        await server.kill()
        collector.open.set()
        if database_url:  # another process may be alive: what the dead one has taken is free after a minute
            database = await open_database(database_url)
            await database.write(lambda tx: tx.run("UPDATE trace_turns SET taken_until = 1"))
            await database.close()
        await server.start()
        await collector.until(has_turn(first))
        spans = await collector.until(has_turn(second))
        assert sum(span.attributes.get("perdure.turn.id") == first for span in collector.spans) == 2
        assert len(spans) == 4

        async def exported() -> bool:
            return await waiting_in(server) == 0

        await when(exported)


async def test_waits_retries_failures_and_cancels_are_in_the_trace(
    http: httpx.AsyncClient, collector: Collector
) -> None:
    talk = await new_talk(http, tools=[ASK])
    first = await talk.say(script({"tool_calls": [call("ask", "one")]}, {"text": "Never."}))
    await talk.logged_until("tool.call_requested")
    queued = {**body_of(script({"fail": {"code": "provider_auth"}})), "controls": {"when_busy": "queue"}}
    answer = await http.post(talk.path("/messages"), json=queued, headers=PARENT)
    assert answer.status_code == 201, answer.text
    await talk.cancel()
    await talk.logged_until("turn.failed")
    log = await talk.events()
    cancelled, failed = [event["data"]["turn_id"] for event in log if event["type"] == "turn.started"]
    spans = await collector.until(has_turn(failed))
    root = root_of(spans, cancelled)
    assert (root.attributes["perdure.turn.status"], root.failed) == ("cancelled", False)
    (asked,) = [span for span in spans if span.name == "execute_tool ask"]
    assert (asked.parent_id, asked.failed) == (root.span_id, True)
    root = root_of(spans, failed)
    assert (root.trace_id, root.parent_id, root.failed) == (TRACE, SPAN, True)
    assert root.attributes["error.type"] == "provider_auth"
    assert first["id"]
    events = await talk.turn({"fail": {"code": "provider_unavailable", "times": 1}, "text": "At last."})
    spans, root = await traced(collector, events)
    (chat,) = [span for span in spans if span.parent_id == root.span_id]
    assert [name for name, _ in chat.events] == ["model.retried"]
    assert chat.attributes["perdure.model.attempts"] == 2
