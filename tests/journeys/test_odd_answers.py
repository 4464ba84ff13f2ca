"""Answers that a turn cannot simply continue with: truncated, filtered, empty."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.conformance.drivers.protocols import Wire
from tests.conformance.drivers.vendor import Reply, Vendor, open_vendor
from tests.talk import Json, call, kinds_of, new_talk, script, text_in
from tests.vendors import CHAT, MESSAGES, RESPONSES, new_model, vendor_provider

CUT = {"name": "write_file", "arguments": '{"path":"/config.yaml","content":"a: 1\\nb: '}
WHOLE = call("write_file", path="/whole.txt", content="all of it")


@pytest_asyncio.fixture
async def vendor() -> AsyncIterator[Vendor]:
    async with open_vendor() as opened:
        yield opened


def results(events: list[Json]) -> list[Json]:
    return [event["data"] for event in events if event["type"] == "tool.completed"]


def failure(events: list[Json]) -> tuple[str, str]:
    data = next(event["data"] for event in events if event["type"] == "turn.failed")
    return data["error_code"], data["error"]


async def scripted(api: httpx.AsyncClient, vendor: Vendor, wire: Wire, *replies: Reply) -> list[Json]:
    vendor.will(*replies)
    model = await new_model(api, await vendor_provider(api, vendor, wire))
    talk = await new_talk(api, harness_name="base", model_id=model["id"])
    await talk.say("Hi")
    return await talk.logged_until("session.idled")


async def test_a_cut_call_is_not_made_and_the_model_is_told_why(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, capabilities=[{"ref": "tool_call_repair"}])
    cut = {
        "tool_calls": [WHOLE, CUT],
        "finish_reason": "length",
        "usage": {"input_tokens": 9, "output_tokens": 1234},
    }
    events = await talk.turn(cut, {"text": "Smaller steps, then."})
    assert events[-2]["type"] == "turn.completed"
    failed, done = results(events)
    assert (done["success"], failed["success"]) == (True, False)
    assert "1,234 tokens" in failed["error"]
    assert "Write less at a time" in failed["error"]
    assert "tool.call_repaired" not in kinds_of(events)
    started = [event["data"]["tool_call"]["id"] for event in events if event["type"] == "tool.started"]
    assert started == [done["tool_call_id"]]
    received = [event["data"]["messages"] for event in events if event["type"] == "llm.generation"][1]
    told = [part for message in received for part in message["content"] if part["type"] == "tool_result"]
    assert [bool(part.get("error")) for part in told] == [False, True]
    assert (await talk.http.get(talk.path("/fs/config.yaml"))).status_code == 404


async def test_the_turn_fails_when_answers_are_cut_again_and_again(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    events = await talk.turn(*[{"tool_calls": [CUT], "finish_reason": "length"}] * 9)
    assert failure(events)[0] == "answer_truncated"
    assert kinds_of(events).count("llm.generation") == len(results(events)) == 3
    assert "output limit" in text_in((await talk.messages())[-1])
    await talk.turn({"text": "Better."})


async def test_a_cut_call_of_the_clients_tool_is_not_sent_to_the_client(api: httpx.AsyncClient) -> None:
    tool = {"type": "client_side", "name": "paint", "description": "Paint.", "parameters": {"type": "object"}}
    talk = await new_talk(api, tools=[tool])
    cut = {"tool_calls": [{"name": "paint", "arguments": '{"colour":'}], "finish_reason": "length"}
    events = await talk.turn(cut, {"text": "I cannot."})
    assert "tool.call_requested" not in kinds_of(events)
    assert events[-2]["type"] == "turn.completed"


async def test_an_answer_that_is_only_long_is_an_answer(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    events = await talk.turn({"text": "Once upon a", "finish_reason": "length"})
    assert events[-2]["type"] == "turn.completed"


@pytest.mark.parametrize("wire", [CHAT, RESPONSES, MESSAGES], ids=lambda wire: wire.provider_type)
async def test_a_filtered_answer_fails_the_turn_and_its_text_is_kept(
    api: httpx.AsyncClient, vendor: Vendor, wire: Wire
) -> None:
    for text in ([], ["Half an ans"]):
        events = await scripted(api, vendor, wire, Reply(wire.answer(text, finish="content_filter")))
        assert failure(events)[0] == "content_filtered"
        said = [event["data"] for event in events if event["type"] == "output.message.completed"]
        assert [text_in(each["message"]) for each in said[:-1]] == text
        assert said[-1]["error_code"] == "content_filtered"
        generation = next(event["data"]["metadata"] for event in events if event["type"] == "llm.generation")
        assert (generation["success"], generation["usage"]["input_tokens"]) == (False, 100)


def empty(wire: Wire, how: str) -> Reply:
    fields: Json = {"nothing": {}, "thought": {"thinking": ["hm"]}, "cut": {"finish": "length"}}
    return Reply(wire.answer(**fields[how]))


@pytest.mark.parametrize("wire", [CHAT, RESPONSES, MESSAGES], ids=lambda wire: wire.provider_type)
@pytest.mark.parametrize("how", ["nothing", "thought", "cut"])
async def test_an_answer_without_content_is_asked_for_once_more(
    api: httpx.AsyncClient, vendor: Vendor, wire: Wire, how: str
) -> None:
    events = await scripted(api, vendor, wire, empty(wire, how), Reply(wire.answer(["Now."])))
    assert events[-2]["type"] == "turn.completed"
    assert events[-2]["data"]["usage"]["input_tokens"] == 200
    assert "Your last answer" in str(vendor.sent)
    events = await scripted(api, vendor, wire, empty(wire, how), empty(wire, how))
    assert failure(events)[0] == "empty_answer"
    assert len(vendor.asked) == 4
    said = [event["data"]["message"] for event in events if event["type"] == "output.message.completed"]
    assert list(map(text_in, said)) == [
        "The model gave no answer, although it was asked twice. Please try again."
    ]


async def test_announced_calls_that_do_not_come_are_asked_for(api: httpx.AsyncClient, vendor: Vendor) -> None:
    announced = Reply(CHAT.answer(["Let me look."], finish="tool_calls"))
    events = await scripted(api, vendor, CHAT, announced, Reply(CHAT.answer(["It is sunny."])))
    assert "Make the calls now" in str(vendor.sent)
    assert text_in(events[-5]["data"]["message"]) == "It is sunny."
    events = await scripted(api, vendor, CHAT, announced, announced)
    assert events[-2]["type"] == "turn.completed"


async def test_the_extra_question_is_not_part_of_the_conversation(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await talk.say(script({"text": " "}))
    events = await talk.logged_until("session.idled")
    assert events[-2]["type"] == "turn.completed"
    assert [message["role"] for message in await talk.messages()] == ["user", "agent"]
