"""Tools that the client runs.

The session parks, which holds no resources, and continues with the answer or after the timeout.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from perdure.domain.ids import new_id
from tests.golden.events import check_events
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, call, kinds_of, new_talk, script

WEATHER = {
    "type": "client_side",
    "name": "weather",
    "display_name": "Weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


async def waiting(http: httpx.AsyncClient, *calls: Json, then: Json | None = None) -> Talk:
    """A session that waits for the results of these calls."""
    talk = await new_talk(http, harness_name="base", tools=[WEATHER])
    await talk.say(script({"tool_calls": list(calls)}, then or {"text": "Thank you."}))
    await talk.logged_until("tool.call_requested")
    assert (await talk.read())["status"] == "waiting_for_tool_results"
    return talk


def answer(call_id: str = "call_1", **fields: object) -> Json:
    return {"tool_call_id": call_id, **(fields or {"result": "sun"})}


async def test_a_client_side_call_logs_exactly_these_events(api: httpx.AsyncClient) -> None:
    usage = {"input_tokens": 20, "output_tokens": 4}
    talk = await new_talk(api, harness_name="base", tools=[WEATHER])
    steps = (
        {"tool_calls": [call("weather", city="Rome")], "usage": usage},
        {"text": "Sunny.", "usage": usage},
    )
    await talk.say(script(*steps, ask="Rome?"))
    requested = (await talk.logged_until("tool.call_requested"))[-1]["data"]["tool_calls"]
    assert [(each["name"], each["arguments"]) for each in requested] == [("weather", {"city": "Rome"})]
    accepted = await talk.answer(answer(requested[0]["id"], result={"sky": "clear", "celsius": 21.5}))
    assert accepted == {"accepted": 1, "status": "active"}
    await talk.logged_until("session.idled")
    check_events("client_tool_round", await talk.events())


async def test_the_model_receives_results_and_errors_as_the_client_sent_them(api: httpx.AsyncClient) -> None:
    calls = [call("weather", f"call_{number}") for number in range(1, 5)]
    talk = await waiting(api, *calls)
    await talk.answer(
        answer("call_4", error="no such city"),
        answer("call_2", result={"sky": ["clear", None]}),
        answer("call_1", result="sun"),
        answer("call_3", result=None),
    )
    events = await talk.logged_until("session.idled")
    received = [event["data"]["messages"] for event in events if event["type"] == "llm.generation"][-1]
    parts = [message["content"][0] for message in received if message["role"] == "tool_result"]
    assert [(part["tool_call_id"], part.get("result"), part.get("error")) for part in parts] == [
        ("call_1", "sun", None),
        ("call_2", '{"sky":["clear",null]}', None),
        ("call_3", "null", None),
        ("call_4", None, "no such city"),
    ]


async def test_invalid_arguments_are_an_error_for_the_model_and_the_client_is_not_asked(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api, harness_name="base", tools=[WEATHER])
    wrong, broken = (
        call("weather", "call_1", city=7),
        {"id": "call_3", "name": "weather", "arguments": '{"city": '},
    )
    await talk.say(
        script({"tool_calls": [wrong, call("weather", "call_2", city="Rome"), broken]}, {"text": "Once."})
    )
    events = await talk.logged_until("tool.call_requested")
    assert [each["id"] for each in events[-1]["data"]["tool_calls"]] == ["call_2"]
    refused = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert [(each["tool_call_id"], each["success"]) for each in refused] == [
        ("call_1", False),
        ("call_3", False),
    ]
    assert "city: " in refused[0]["error"]
    assert "not valid JSON" in refused[1]["error"]
    await talk.answer(answer("call_2"))
    events = await talk.logged_until("session.idled")
    received = [event["data"]["messages"] for event in events if event["type"] == "llm.generation"][-1]
    parts = [message["content"][0] for message in received if message["role"] == "tool_result"]
    assert [(part["tool_call_id"], "error" in part) for part in parts] == [
        ("call_1", True),
        ("call_2", False),
        ("call_3", True),
    ]


async def test_a_turn_whose_client_calls_are_all_invalid_continues_by_itself(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, harness_name="base", tools=[WEATHER])
    events = await talk.turn({"tool_calls": [call("weather", city=7)]}, {"text": "I was wrong."})
    assert "tool.call_requested" not in kinds_of(events)
    assert (await talk.read())["output_preview"] == "I was wrong."


async def test_the_servers_own_calls_of_the_same_answer_run_first(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, tools=[WEATHER])
    await talk.say(
        script(
            {"tool_calls": [call("weather", "call_1"), call("get_current_time", "call_2")]}, {"text": "Both."}
        )
    )
    events = await talk.logged_until("tool.call_requested")
    requested = events[-1]["data"]["tool_calls"]
    assert [each["id"] for each in requested] == ["call_1"]
    done = [event["data"]["tool_call_id"] for event in events if event["type"] == "tool.completed"]
    assert done == ["call_2"]
    await talk.answer(answer())
    events = await talk.logged_until("session.idled")
    received = [event["data"]["messages"] for event in events if event["type"] == "llm.generation"][-1]
    results = [
        message["content"][0]["tool_call_id"] for message in received if message["role"] == "tool_result"
    ]
    assert results == ["call_1", "call_2"]


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([answer("call_9")], "unknown_tool_call"),
        ([answer("call_1"), answer("call_2"), answer("call_9")], "unknown_tool_call"),
        ([answer("call_1")], "missing_tool_call"),
        ([answer("call_1"), answer("call_2"), answer("call_1")], "repeated_tool_call"),
        ([], "invalid_request"),
        ([{"result": "sun"}], "invalid_request"),
    ],
    ids=["unknown", "one unknown", "missing", "repeated", "none", "no id"],
)
async def test_results_that_do_not_match_the_pending_calls_are_rejected_and_change_nothing(
    api: httpx.AsyncClient, results: list[Json], code: str
) -> None:
    talk = await waiting(api, call("weather", "call_1"), call("weather", "call_2"))
    before = await talk.events()
    assert (await talk.answer(*results, status=400))["code"] == code
    assert await talk.events() == before
    await talk.answer(answer("call_2"), answer("call_1"))
    assert (await talk.logged_until("session.idled"))[-2]["type"] == "turn.completed"


async def test_a_result_of_100_kb_is_accepted_and_a_longer_one_is_rejected(api: httpx.AsyncClient) -> None:
    talk = await waiting(api, call("weather", "call_1"))
    limit = 100 * 1024
    assert (await talk.answer(answer(result="x" * (limit - 1)), status=413))[
        "code"
    ] == "tool_result_too_large"
    await talk.answer(answer(result="x" * (limit - 2)))
    assert (await talk.logged_until("session.idled"))[-2]["type"] == "turn.completed"


async def test_a_session_that_does_not_wait_rejects_results(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, tools=[WEATHER])
    assert (await talk.answer(answer(), status=409))["code"] == "not_waiting_for_tool_results"
    await talk.turn({"text": "No tools needed."})
    assert (await talk.answer(answer(), status=409))["code"] == "not_waiting_for_tool_results"


async def test_one_of_several_concurrent_answers_is_accepted(api: httpx.AsyncClient) -> None:
    talk = await waiting(api, call("weather", "call_1"))
    body = {"tool_results": [answer()]}
    answers = await asyncio.gather(*(api.post(talk.path("/tool-results"), json=body) for _ in range(4)))
    assert sorted(each.status_code for each in answers) == [200, 409, 409, 409]
    assert kinds_of(await talk.logged_until("session.idled")).count("tool.completed") == 1


@pytest.mark.parametrize(
    "names",
    [("weather", "weather"), ("write_file",), ("get_order",)],
    ids=["its own", "a capability's", "the agent's"],
)
async def test_a_tool_name_that_is_in_use_is_rejected(api: httpx.AsyncClient, names: tuple[str, ...]) -> None:
    agent = {
        "name": f"clerk-{new_id('agent')[-8:]}",
        "system_prompt": "Help.",
        "tools": [{**WEATHER, "name": "get_order"}],
    }
    agent_id = (await post(api, "/v1/agents", agent))["id"]
    tools = [{**WEATHER, "name": name} for name in names]
    refused = await api.post("/v1/sessions", json={"agent_id": agent_id, "tools": tools})
    assert (refused.status_code, refused.json()["code"]) == (400, "duplicate_tool")


async def test_a_call_without_an_answer_becomes_an_error_and_the_turn_continues(
    database_url: str, tmp_path: Path
) -> None:
    environment = {"PERDURE_CLIENT_TOOL_TIMEOUT_SECONDS": "0.3"}
    async with (
        Server(tmp_path, database_url=database_url, environment=environment) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        await use_simulated_model(http)
        talk = await new_talk(http, tools=[WEATHER])
        await talk.say(
            script(
                {"tool_calls": [call("weather", "call_1"), call("weather", "call_2")]}, {"text": "No answer."}
            )
        )
        events = await talk.logged_until("session.idled")
        results = [event["data"] for event in events if event["type"] == "tool.completed"]
        assert [(each["tool_call_id"], each["status"]) for each in results] == [
            ("call_1", "timeout"),
            ("call_2", "timeout"),
        ]
        assert events[-2]["type"] == "turn.completed"
        assert (await talk.answer(answer(), answer("call_2"), status=409))[
            "code"
        ] == "not_waiting_for_tool_results"
