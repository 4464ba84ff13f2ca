"""The Python client against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from perdure.client import (
    ApiError,
    CapabilityRef,
    Client,
    ClientSideTool,
    Conflict,
    NotFound,
    TextPart,
    ToolCallResult,
    TurnFailed,
    WireEvent,
    data_of,
    is_live,
)
from perdure.domain.events import ENDED_TURN
from perdure.domain.ids import new_id
from tests.server import Server

CLOCK = {"tool_calls": [{"name": "get_current_time", "arguments": {}}]}
WEATHER = ClientSideTool(
    "weather", "The weather in a city.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


def script(*steps: dict[str, Any]) -> str:
    return f"Please. [[sim {json.dumps(steps)}]]"


async def with_simulated_model(client: Client) -> Client:
    provider = await client.create_provider(name="Simulated", provider_type="llmsim")
    await client.create_model(provider.id, model_id="simulated", display_name="Simulated")
    return client


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as made:
        yield await with_simulated_model(made)


async def test_a_session_is_created_changed_found_pinned_and_deleted(client: Client) -> None:
    session = await client.create_session(title="Order 4711", tags=("support", "eu"))
    assert (session.status, session.title, session.tags) == ("started", "Order 4711", ("support", "eu"))
    same = await client.update_session(session.id)
    assert same.updated_at == session.updated_at
    changed = await client.update_session(session.id, tags=("done",))
    assert (changed.title, changed.tags) == ("Order 4711", ("done",))
    assert (await client.update_session(session.id, title=None)).title is None
    await client.pin_session(session.id)
    await client.create_session(title="Another")
    found = await client.list_sessions(tags=("done",), pinned=True)
    assert ([one.id for one in found.data], found.total) == ([session.id], 1)
    assert len([one async for one in client.iterate_sessions(limit=1)]) == 2
    await client.unpin_session(session.id)
    await client.delete_session(session.id)
    with pytest.raises(NotFound, match="no such session"):
        await client.get_session(session.id)


async def test_agents_harnesses_providers_and_models_can_be_managed(client: Client) -> None:
    (model,) = await client.list_models()
    agent = await client.create_agent(name="helper", system_prompt="Help.", default_model_id=model.id)
    assert (await client.create_agent(name="helper", system_prompt="Help well.")).id == agent.id
    assert (await client.update_agent(agent.id, description="Helps")).system_prompt == "Help well."
    assert [one.name for one in (await client.list_agents()).data] == ["helper"]
    assert {"base", "generic"} <= {one.name for one in await client.list_harnesses()}
    harness = await client.create_harness(name="mine", capabilities=(CapabilityRef("session"),))
    assert (await client.get_harness(harness.id)).name == "mine"
    assert "current_time" in {one.id for one in (await client.list_capabilities()).data}
    (provider,) = await client.list_providers()
    changed = await client.update_provider(provider.id, api_key="secret-key")
    assert changed.api_key_set
    assert (await client.get_provider(provider.id)).name == "Simulated"
    assert (await client.update_model(model.id, display_name="Renamed")).display_name == "Renamed"
    assert [one.id for one in await client.list_provider_models(provider.id)] == [
        (await client.get_model(model.id)).id
    ]
    await client.delete_agent(agent.id)
    assert (await client.list_agents()).data == ()
    await client.delete_model(model.id)
    await client.delete_provider(provider.id)
    assert await client.list_providers() == await client.list_models() == ()


async def test_asking_gives_the_answer(client: Client) -> None:
    session = await client.create_session()
    assert await client.ask(session.id, script({"text": "Sure."})) == "Sure."
    assert await client.ask(session.id, [TextPart("Well? "), TextPart(script({"text": "Yes."}))]) == "Yes."
    assert [message.role for message in await client.list_messages(session.id)] == [
        "user",
        "agent",
        "user",
        "agent",
    ]


async def test_a_run_shows_the_text_as_it_is_written_and_the_tools_as_they_run(client: Client) -> None:
    session = await client.create_session()
    events = [
        one
        async for one in client.run(session.id, script(CLOCK, {"text": "It is late. " * 5, "delay_ms": 10}))
    ]
    kinds = [one.type for one in events]
    assert kinds[0] == "input.message"
    assert kinds[-1] == "turn.completed"
    assert kinds.index("tool.started") < kinds.index("tool.completed") < kinds.index("output.message.delta")
    shown = "".join(data_of(one).delta for one in events if one.type == "output.message.delta")
    assert shown == data_of(events[-1]).final_answer_preview + " "


async def test_a_message_with_a_known_key_is_accepted_once(client: Client) -> None:
    session = await client.create_session()
    first = await client.send_message(session.id, script({"text": "Once."}), idempotency_key="question-1")
    again = await client.send_message(session.id, script({"text": "Once."}), idempotency_key="question-1")
    assert again.id == first.id
    with pytest.raises(Conflict):
        await client.send_message(session.id, "Something else", idempotency_key="question-1")
    assert len(await client.list_events(session.id, types=("input.message",))) == 1


async def test_client_side_tools_are_answered_from_within_the_loop(client: Client) -> None:
    session = await client.create_session(tools=(WEATHER,))
    calls = {"tool_calls": [{"name": "weather", "arguments": {"city": city}} for city in ("Rome", "Oslo")]}
    kinds = []
    async for event in client.run(session.id, script(calls, {"text": "Sun."})):
        kinds.append(event.type)
        if event.type == "tool.call_requested":
            rome, oslo = data_of(event).tool_calls
            with pytest.raises(ApiError) as caught:
                await client.submit_tool_results(session.id, [ToolCallResult(rome.id, result="sun")])
            assert caught.value.code == "missing_tool_call"
            results = [
                ToolCallResult(rome.id, result={"sky": "clear"}),
                ToolCallResult(oslo.id, error="no idea"),
            ]
            assert (await client.submit_tool_results(session.id, results)).accepted == 2
    assert kinds[-1] == "turn.completed"
    with pytest.raises(Conflict):
        await client.submit_tool_results(session.id, [ToolCallResult(rome.id, result=1)])


async def test_a_turn_that_fails_or_is_cancelled_says_so(client: Client) -> None:
    session = await client.create_session()
    with pytest.raises(TurnFailed) as caught:
        await client.ask(session.id, script({"fail": {"code": "provider_auth", "message": "bad key"}}))
    assert (caught.value.ended_by, caught.value.code) == ("turn.failed", "provider_auth")
    async for event in client.run(session.id, script({"tokens": 500, "delay_ms": 20})):
        if event.type == "output.message.delta":
            await client.cancel(session.id)
    assert event.type == "turn.cancelled"
    assert (await client.cancel(session.id)).status == "no_op"


async def test_a_message_steers_a_running_turn_and_both_runs_end_with_it(client: Client) -> None:
    session = await client.create_session()
    first = asyncio.create_task(
        client.ask(session.id, script({"tokens": 30, "delay_ms": 20}, {"text": "Never said."}))
    )
    async with aclosing(client.follow(session.id, types=("output.message.delta",))) as events:
        async for _ in events:
            break
    assert await client.ask(session.id, script({"text": "Steered."})) == "Steered."
    assert await first == "Steered."


async def test_malformed_ids_and_unknown_ids_are_distinct_errors(client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        await client.get_session("session_1")
    assert (caught.value.status, caught.value.code) == (400, "invalid_id")
    with pytest.raises(NotFound):
        await client.get_session(new_id("session"))
    with pytest.raises(NotFound):
        await take_until_idle(client, new_id("session"))


async def test_the_api_prefix_works_too(server: Server, client: Client) -> None:
    async with Client(f"{server.url}/api") as other:
        session = await other.create_session()
        assert (await client.get_session(session.id)).id == session.id
        assert (await other.health())["status"] == "ok"


# --- following -----------------------------------------------------------------


async def take_until_idle(client: Client, session_id: str, **options: Any) -> list[WireEvent]:
    taken: list[WireEvent] = []
    async with aclosing(client.follow(session_id, **options)) as events:
        async for event in events:
            taken.append(event)
            if event.type == "session.idled":
                break
    return taken


def logged(events: list[WireEvent]) -> list[int | None]:
    return [event.sequence for event in events if not is_live(event)]


async def test_a_follower_survives_a_killed_server_and_misses_nothing(
    any_server: Server,
) -> None:
    async with Client(any_server.url) as client:
        await with_simulated_model(client)
        session = await client.create_session()
        events: list[WireEvent] = []
        killed = False
        async with aclosing(client.follow(session.id)) as stream:
            await client.send_message(session.id, script(CLOCK, {"tokens": 200, "delay_ms": 10}))
            async for event in stream:
                events.append(event)
                if event.type == "output.message.delta" and not killed:
                    killed = True
                    await any_server.restart()
                if event.type == "session.idled":
                    break
        assert killed
        assert logged(events) == list(range(1, len(logged(events)) + 1))
        assert [event.type for event in events if event.type in ENDED_TURN] == ["turn.completed"]
        whole = await client.list_events(session.id, limit=1000)
        assert [event.id for event in whole] == [event.id for event in events if not is_live(event)]


async def test_a_run_ends_with_its_turn_although_the_server_was_killed(
    server: Server, client: Client
) -> None:
    session = await client.create_session()
    kills = 0
    async for event in client.run(session.id, script({"tokens": 300, "delay_ms": 10})):
        if event.type == "output.message.delta" and kills < 2:
            kills += 1
            await server.restart()
    assert kills == 2
    assert event.type == "turn.completed"


async def test_a_message_to_a_restarting_server_is_accepted_once(server: Server, client: Client) -> None:
    session = await client.create_session()
    await server.kill()
    async with Client(server.url, retries=10) as patient:
        sending = asyncio.create_task(patient.send_message(session.id, script({"text": "Here."})))
        await server.start()
        message = await sending
    events = await take_until_idle(client, session.id, types=("input.message", "session.idled"))
    assert [data_of(event).message.id for event in events if event.type == "input.message"] == [message.id]


async def test_cycled_connections_make_no_difference(tmp_path: Path) -> None:
    async with (
        Server(tmp_path / "data", environment={"PERDURE_STREAM_CYCLE_SECONDS": "0.2"}) as server,
        Client(server.url) as client,
    ):
        await with_simulated_model(client)
        session = await client.create_session()
        await client.send_message(session.id, script({"tokens": 100, "delay_ms": 10}))
        events = await take_until_idle(client, session.id)
    assert logged(events) == list(range(1, len(logged(events)) + 1))
    # Each connection begins with the whole text so far, so the live text never goes back.
    lengths = [len(data_of(event).accumulated) for event in events if event.type == "output.message.delta"]
    assert lengths == sorted(lengths)


async def test_a_follower_starts_at_its_cursor_and_gets_only_the_requested_types(client: Client) -> None:
    session = await client.create_session()
    await client.ask(session.id, script({"text": "One."}))
    since = await client.last_event_id(session.id)
    await client.ask(session.id, script({"text": "Two."}))
    events = await take_until_idle(
        client, session.id, since_id=since, exclude=("output.message.delta", "llm.generation")
    )
    assert data_of(events[0]).message.content[0].text == script({"text": "Two."})
    assert not {"llm.generation", "output.message.delta"} & {event.type for event in events}
    with pytest.raises(ApiError) as caught:
        await take_until_idle(client, session.id, types=("no.such.type",))
    assert caught.value.code == "unknown_event_type"
