"""A turn, from message to idle: its events, what clients see of it, and failures of the model."""

from __future__ import annotations

from pathlib import Path

import httpx

from perdure.cli.local_model import MODEL_NAME
from tests.golden.events import check_events
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, call, kinds_of, new_talk, script, text_in

TEXT_TURN = [
    "input.message",
    "session.activated",
    "turn.started",
    "reason.started",
    "output.message.started",
    "output.message.completed",
    "llm.generation",
    "reason.completed",
    "turn.completed",
    "session.idled",
]


async def test_a_text_turn_logs_exactly_these_events(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, harness_name="base")
    await talk.turn(
        {"text": "Two words.", "usage": {"input_tokens": 7, "output_tokens": 2}}, ask="Say two words."
    )
    check_events("text_turn", await talk.events())


async def test_thinking_is_logged_before_the_answer(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    events = await talk.turn({"thinking": "Let me see.", "text": "Four."}, ask="2 + 2?")
    assert kinds_of(events)[5:8] == [
        "reason.thinking.started",
        "reason.thinking.completed",
        "output.message.completed",
    ]
    assert events[6]["data"]["thinking"] == "Let me see."
    assert (await talk.messages())[-1]["thinking"] == "Let me see."


async def test_posting_a_message_returns_its_sequence_in_the_log(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    posted = await talk.say("Hello.", metadata={"ticket": 4711}, tags=["greeting"])
    assert (posted["role"], posted["sequence"], posted["session_id"]) == ("user", 2, talk.id)
    logged = (await talk.logged_until("session.idled"))[1]
    assert logged["id"]
    assert logged["sequence"] == posted["sequence"]
    assert (logged["metadata"], logged["tags"]) == ({"ticket": 4711}, ["greeting"])
    assert (await talk.messages())[0] == posted


async def test_the_messages_are_rebuilt_from_the_log(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await talk.turn(
        {"text": "Let me look.", "tool_calls": [call("get_current_time")]}, {"text": "It is late."}
    )
    messages = await talk.messages()
    assert [message["role"] for message in messages] == ["user", "agent", "tool_result", "agent"]
    assert [message.get("phase") for message in messages] == [None, "commentary", None, "final_answer"]
    assert [text_in(message) for message in messages[1::2]] == ["Let me look.", "It is late."]
    assert messages[2]["content"][0]["tool_call_id"] == messages[1]["content"][1]["id"]


async def test_a_filter_for_a_turn_and_another_trace_matches_no_events(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http)
    turns = [(await talk.turn({"text": "One."}))[0]["context"]["turn_id"] for _ in range(2)]
    both = await talk.events(turn_id=turns[0], trace_id=turns[0])
    assert both
    assert both == await talk.events(turn_id=turns[0]) == await talk.events(trace_id=turns[0])
    assert await talk.events(turn_id=turns[0], trace_id=turns[1]) == []
    assert await talk.events(turn_id=turns[0], trace_id=turns[1], around=both[0]["id"]) == []


async def test_spans_nest_and_the_two_ends_of_each_share_one(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    events = await talk.turn(
        {"tool_calls": [call("get_current_time"), call("get_session_info")]}, {"text": "Done."}
    )
    turn_id = events[0]["context"]["turn_id"]
    assert {event["context"]["trace_id"] for event in events} == {turn_id}
    assert {event["context"]["input_message_id"] for event in events} == {events[0]["data"]["message"]["id"]}
    parent: dict[str, str | None] = {}
    for event in events:
        span = event["context"]["span_id"]
        assert parent.setdefault(span, event["context"].get("parent_span_id")) == event["context"].get(
            "parent_span_id"
        )
    spans = {
        kind: [each["context"]["span_id"] for each in events if each["type"] == kind]
        for kind in kinds_of(events)
    }
    for name in ("turn", "reason", "act"):
        assert spans[f"{name}.started"] == spans[f"{name}.completed"]
    assert spans["tool.started"] == spans["tool.completed"]
    assert spans["output.message.started"] == spans["output.message.completed"] == spans["reason.started"]
    turn_span = spans["turn.started"][0]
    assert parent[turn_span] is None
    assert {parent[span] for span in (*spans["reason.started"], *spans["act.started"])} == {turn_span}
    assert [parent[span] for span in spans["llm.generation"]] == spans["reason.started"]
    assert {parent[span] for span in spans["tool.started"]} == set(spans["act.started"])
    assert len(set(spans["tool.started"])) == 2


async def test_usage_adds_up_over_calls_and_turns_with_what_was_cached(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    first = {"input_tokens": 100, "output_tokens": 10, "cache_creation_tokens": 60}
    second = {"input_tokens": 120, "output_tokens": 5, "cache_read_tokens": 90}
    events = await talk.turn(
        {"tool_calls": [call("get_current_time")], "usage": first}, {"text": "Noon.", "usage": second}
    )
    turn = {"input_tokens": 220, "output_tokens": 15, "cache_read_tokens": 90, "cache_creation_tokens": 60}
    assert events[-2]["data"]["usage"] == events[-1]["data"]["usage"] == turn
    assert (
        events[-2]["data"]["llm_call_count"],
        events[-2]["data"]["tool_call_count"],
        events[-2]["data"]["iterations"],
    ) == (
        2,
        1,
        2,
    )
    await talk.turn({"text": "Yes.", "usage": second})
    assert (await talk.read())["usage"] == {
        "input_tokens": 340,
        "output_tokens": 20,
        "cache_read_tokens": 180,
        "cache_creation_tokens": 60,
    }


async def test_previews_are_truncated_to_200_whole_characters(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await talk.turn({"text": "é🙂" * 150}, ask="漢🙂" * 150)
    await talk.turn({"text": "The last word."}, ask="Another question.")
    session = await talk.read()
    assert session["preview"] == "漢🙂" * 100
    assert session["output_preview"] == "The last word."
    assert (await talk.events(types="turn.completed"))[0]["data"]["final_answer_preview"] == "é🙂" * 100


async def test_every_model_call_is_logged_with_the_messages_that_it_received(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await talk.turn({"text": "One."}, ask="First.")
    events = await talk.turn({"tool_calls": [call("get_session_info")]}, {"text": "Two."}, ask="Second.")
    received = [event["data"]["messages"] for event in events if event["type"] == "llm.generation"]
    assert [message["role"] for message in received[0]] == ["user", "agent", "user"]
    assert [message["role"] for message in received[1]] == ["user", "agent", "user", "agent", "tool_result"]
    known = {message["id"]: message["content"] for message in await talk.messages()}
    assert all(known[message["id"]] == message["content"] for message in received[1])


async def test_a_transient_failure_is_retried_no_earlier_than_the_vendor_asks(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    failure = {"code": "provider_rate_limited", "status": 429, "retry_after": 0.9, "times": 1}
    events = await talk.turn({"text": "At last.", "fail": failure})
    generation = next(event["data"]["metadata"] for event in events if event["type"] == "llm.generation")
    assert generation["success"]
    assert generation["retry"]["attempts"] == 2
    assert 900 <= generation["retry"]["total_wait_ms"] <= generation["duration_ms"]
    assert kinds_of(events) == TEXT_TURN


async def test_a_failure_that_persists_fails_the_turn_after_the_last_attempt(tmp_path: Path) -> None:
    async with (
        Server(tmp_path, environment={"PERDURE_MODEL_ATTEMPTS": "2"}) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        await use_simulated_model(http)
        talk = await new_talk(http)
        events = await talk.turn(
            {"fail": {"code": "provider_unavailable", "message": "503 upstream", "status": 503}}
        )
        generation = next(event["data"]["metadata"] for event in events if event["type"] == "llm.generation")
        assert (generation["success"], generation["retry"]["attempts"], generation["error"]) == (
            False,
            2,
            "503 upstream",
        )
        assert failure_of(events) == ("provider_unavailable", "503 upstream")


async def test_a_permanent_failure_is_not_retried_and_is_explained_to_people(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api, harness_name="base")
    events = await talk.turn(
        {"fail": {"code": "provider_auth", "message": "invalid key", "status": 401}}, ask="Hello?"
    )
    assert failure_of(events) == ("provider_auth", "invalid key")
    assert "credentials" in text_in((await talk.messages())[-1])
    check_events("failed_turn", await talk.events())


async def test_after_a_failed_turn_the_session_accepts_the_next_message(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await talk.turn({"fail": {"code": "content_filtered"}})
    events = await talk.turn({"text": "Better."})
    assert kinds_of(events) == TEXT_TURN
    received = next(event["data"]["messages"] for event in events if event["type"] == "llm.generation")
    assert [message["role"] for message in received] == [
        "user",
        "user",
    ]  # the apology is for people, not for the model


async def test_an_invalid_script_fails_the_turn_and_the_error_names_the_mistake(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    await talk.say('[[sim [{"txt": "typo"}]]]')
    code, message = failure_of(await talk.logged_until("session.idled"))
    assert code == "invalid_model_request"
    assert "txt" in message


async def test_without_a_model_the_turn_fails_and_says_what_to_do(tmp_path: Path) -> None:
    async with Server(tmp_path) as server, httpx.AsyncClient(base_url=server.url) as http:
        talk = await new_talk(http)
        await talk.say("Hello?")
        events = await talk.logged_until("session.idled")
        assert failure_of(events)[0] == "model_not_configured"
        assert "provider" in text_in((await talk.messages())[-1])


async def test_rounds_of_tools_end_at_the_limit_of_model_calls(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, max_iterations=3)
    rounds = [{"tool_calls": [call("get_current_time")]} for _ in range(5)]
    events = await talk.turn(*rounds)
    assert kinds_of(events).count("llm.generation") == kinds_of(events).count("act.completed") == 3
    assert failure_of(events)[0] == "max_iterations"
    assert (await talk.read())["status"] == "idle"


async def test_a_broken_stream_is_retried_and_followers_see_the_text_start_over(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    async with talk.follow() as stream:
        await talk.say(script({"text": "one two three four", "delay_ms": 60, "cut_after": 3, "cut_times": 1}))
        deltas = [
            frame.data["data"] for frame in await stream.until("output.message.completed") if frame.live
        ]
    beginnings = [number for number, delta in enumerate(deltas) if delta["accumulated"] == delta["delta"]]
    assert len(beginnings) == 2, deltas
    first, second = deltas[: beginnings[1]], deltas[beginnings[1] :]
    assert "".join(delta["delta"] for delta in first) == first[-1]["accumulated"]
    assert "".join(delta["delta"] for delta in second) == "one two three four"
    assert first[-1]["accumulated"].startswith("one ")
    generation = (await talk.logged_until("llm.generation"))[-1]["data"]
    assert (generation["metadata"]["retry"]["attempts"], generation["output"]["text"]) == (
        2,
        "one two three four",
    )


async def test_a_real_model_answers_live_and_counts_its_tokens(sqlite_server: Server, llama_url: str) -> None:
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=60) as http:
        model = await real_model(http, llama_url)
        talk = await new_talk(http, model_id=model, harness_name="base")
        async with talk.follow() as stream:
            await talk.say("Say hello in one short sentence.")
            frames = await stream.until("session.idled")
        deltas = [frame.data["data"] for frame in frames if frame.live]
        answer = next(frame.data["data"] for frame in frames if frame.kind == "output.message.completed")
        assert len(deltas) > 1
        assert (
            deltas[-1]["accumulated"]
            == "".join(delta["delta"] for delta in deltas)
            == text_in(answer["message"])
        )
        assert answer["usage"]["input_tokens"] > answer["usage"].get("cache_read_tokens", 0)
        assert answer["usage"]["output_tokens"] > 1
        again = next(event for event in await _second_turn(talk) if event["type"] == "llm.generation")["data"]
        assert [message["role"] for message in again["messages"]] == ["user", "agent", "user"]
        assert again["metadata"]["usage"]["cache_read_tokens"] > 0


async def _second_turn(talk: Talk) -> list[Json]:
    message = await talk.say("And once more.")
    return await talk.logged_until("session.idled", after=message["sequence"] - 1)


async def real_model(http: httpx.AsyncClient, url: str) -> str:
    """Register the tiny real model; returns its id."""
    provider = await post(
        http,
        "/v1/providers",
        {"name": "Local", "provider_type": "openai_completions", "base_url": url, "api_key": "none"},
    )
    model = await post(
        http, f"/v1/providers/{provider['id']}/models", {"model_id": MODEL_NAME, "display_name": "SmolLM2"}
    )
    return str(model["id"])


def failure_of(events: list[Json]) -> tuple[str, str]:
    """The code and message of the failure that ends these events, after the message for people."""
    assert kinds_of(events)[-3:] == ["output.message.completed", "turn.failed", "session.idled"]
    assert events[-3]["data"]["error_code"] == events[-2]["data"]["error_code"]
    return events[-2]["data"]["error_code"], events[-2]["data"]["error"]
