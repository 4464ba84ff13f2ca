"""OpenAI Responses on the wire: input items, encrypted reasoning, settings."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.domain.errors import ModelError
from perdure.domain.messages import ImagePart, Message
from perdure.llm.driver import ModelResponse, ProviderConfig
from perdure.llm.fragment_cache import FragmentCache
from perdure.llm.http import Http
from perdure.llm.openai_common import knows_phases, thinks
from perdure.llm.openai_responses import OpenAiResponsesDriver
from tests.conformance.drivers.conftest import Connect
from tests.conformance.drivers.protocols import Counts, ResponsesWire
from tests.conformance.drivers.vendor import JSON, Reply, Vendor
from tests.unit.llm.talk import CLOCK, WEATHER, Heard, agent, ask, call, kept, result, system, user

TYPE = "openai"
WIRE = ResponsesWire()
PNG = "iVBORw0KGgo="


async def sent(
    vendor: Vendor, connect: Connect, *messages: Any, options: dict[str, Any] | None = None, **fields: Any
) -> Any:
    vendor.will(Reply(WIRE.answer(["ok"])))
    await connect(TYPE, **(options or {})).generate(ask(*messages, **fields), Heard())
    return vendor.sent


async def answered(
    vendor: Vendor, connect: Connect, *events: bytes, heard: Heard | None = None
) -> ModelResponse:
    vendor.will(Reply(events))
    return await connect(TYPE).generate(ask(user("Hi"), tools=(WEATHER, CLOCK)), heard or Heard())


def done(**more: Any) -> bytes:
    return WIRE._event(
        "response.completed", response={"id": "resp-1", "status": "completed", "usage": None, **more}
    )


async def test_a_whole_conversation_is_sent_as_items(vendor: Vendor, connect: Connect) -> None:
    body = await sent(
        vendor,
        connect,
        user("Weather?"),
        agent("Looking.", call("c1", arguments={"city": "Rome"}), call("c2", "clock")),
        result("c1", "sunny"),
        result("c2", None, "broken"),
        system("Be brief."),
        agent("Sunny."),
        user("Thanks"),
        system="You help.",
        tools=(WEATHER,),
    )
    assert body["instructions"] == "You help."
    assert body["store"] is False
    assert body["input"] == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Rome"}'},
        {"type": "function_call", "call_id": "c2", "name": "clock", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"type": "function_call_output", "call_id": "c2", "output": "Error: broken"},
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Sunny."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Thanks"}]},
    ]
    assert body["tools"] == [
        {
            "type": "function",
            "name": "weather",
            "description": WEATHER.description,
            "parameters": WEATHER.parameters,
            "strict": False,
        }
    ]


async def test_only_requested_settings_are_sent(vendor: Vendor, connect: Connect) -> None:
    body = await sent(vendor, connect, user("Hi"), model="gpt-4o")
    assert set(body) == {"model", "stream", "store", "input"}


async def test_settings_are_sent(vendor: Vendor, connect: Connect) -> None:
    body = await sent(
        vendor,
        connect,
        user("Hi"),
        model="gpt-5-mini",
        reasoning_effort="low",
        parallel_tool_calls=True,
        max_output_tokens=99,
        temperature=0.5,
        tools=(CLOCK,),
        cache_key="session_1",
        options={"reasoning_summary": "auto"},
    )
    assert body["reasoning"] == {"effort": "low", "summary": "auto"}
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["parallel_tool_calls"] is True
    assert body["max_output_tokens"] == 99
    assert body["prompt_cache_key"] == "session_1"
    assert "temperature" not in body
    assert (await sent(vendor, connect, user("Hi"), model="gpt-4o", temperature=0.5))["temperature"] == 0.5


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("o3", True),
        ("o4-mini", True),
        ("gpt-5", True),
        ("gpt-5.4-pro", True),
        ("openai/gpt-6-mini", True),
        ("gpt-5-chat-latest", False),
        ("gpt-4o", False),
        ("gpt-4.1", False),
        ("smollm2-135m", False),
        ("custom", False),
    ],
)
async def test_reasoning_models_are_recognized_by_name(
    vendor: Vendor, connect: Connect, model: str, expected: bool
) -> None:
    assert thinks(model) is expected
    assert ("include" in await sent(vendor, connect, user("Hi"), model=model)) is expected
    assert "include" in await sent(vendor, connect, user("Hi"), model=model, options={"reasoning": True})


async def test_encrypted_reasoning_is_sent_back_in_its_position(vendor: Vendor, connect: Connect) -> None:
    events = [
        *WIRE.reasoning(0, ["First."], "one"),
        *WIRE.message(1, ["Let me look."]),
        *WIRE.reasoning(2, ["Then."], "two"),
        *WIRE.call(3, ("c1", "weather", ['{"city":"Rome"}'])),
        *WIRE.reasoning(4, [], "three"),
        *WIRE.call(5, ("c2", "clock", ["{}"])),
        *WIRE.reasoning(6, [], "last"),
        done(),
    ]
    heard = Heard()
    response = await answered(vendor, connect, *events, heard=heard)
    assert response.thinking == heard.joined("thinking") == "First.\n\nThen."
    said = kept(response, TYPE)
    stored = msgspec.json.decode(msgspec.json.encode(said), type=Message)
    body = await sent(vendor, connect, user("Hi"), stored, result("c1", "x"), result("c2", "y"))
    items = body["input"][1:7]
    assert [item["type"] for item in items] == [
        "reasoning",
        "message",
        "reasoning",
        "function_call",
        "reasoning",
        "function_call",
    ]
    assert items[0] == {
        "id": "rs-0",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "First."}],
        "encrypted_content": "one",
    }
    assert [item["encrypted_content"] for item in items if item["type"] == "reasoning"] == [
        "one",
        "two",
        "three",
    ]


async def test_reasoning_is_sent_back_only_to_its_own_provider_type_and_model(
    vendor: Vendor, connect: Connect
) -> None:
    response = await answered(vendor, connect, *WIRE.reasoning(0, ["x"]), *WIRE.message(1, ["ok"]), done())
    for said, model in ((kept(response, "anthropic"), "model-1"), (kept(response, TYPE), "model-2")):
        body = await sent(vendor, connect, user("Hi"), said, user("More"), model=model)
        assert [item["type"] for item in body["input"]] == ["message", "message", "message"]


async def test_reasoning_that_is_only_a_reference_is_not_kept(vendor: Vendor, connect: Connect) -> None:
    events = [*WIRE.reasoning(0, ["x"], ""), *WIRE.message(1, ["ok"]), done()]
    assert (await answered(vendor, connect, *events)).reasoning_items == ()


async def test_reasoning_that_the_vendor_rejects_is_left_out_from_then_on(
    vendor: Vendor, connect: Connect
) -> None:
    driver = connect(TYPE)
    vendor.will(Reply(WIRE.answer(["ok"], thinking=["x"])))
    first = kept(await driver.generate(ask(user("Hi")), Heard()), TYPE)
    no = (
        b'{"error":{"code":"invalid_encrypted_content",'
        b'"message":"The encrypted content could not be verified."}}'
    )
    vendor.will(Reply([no], 400, JSON), Reply(WIRE.answer(["fine"], thinking=["y"])))
    history = (user("Hi"), first, user("More"))
    response = await driver.generate(ask(*history, cache_key="session_1"), Heard())
    assert response.text == "fine"
    assert [item["type"] for item in vendor.asked[-2].body["input"]] == [
        "message",
        "reasoning",
        "message",
        "message",
    ]
    assert [item["type"] for item in vendor.sent["input"]] == ["message", "message", "message"]
    second = kept(response, TYPE)
    vendor.will(Reply(WIRE.answer(["good"])))
    await driver.generate(ask(*history, second, user("And?"), cache_key="session_1"), Heard())
    assert [item["type"] for item in vendor.sent["input"]] == [
        "message",
        "message",
        "message",
        "reasoning",
        "message",
        "message",
    ]
    assert len(vendor.asked) == 4


async def test_an_error_that_is_not_about_reasoning_is_raised(vendor: Vendor, connect: Connect) -> None:
    response = await answered(vendor, connect, *WIRE.reasoning(0, ["x"]), *WIRE.message(1, ["ok"]), done())
    vendor.will(Reply([b'{"error":{"message":"bad tool schema"}}'], 400, JSON))
    with pytest.raises(ModelError) as caught:
        await connect(TYPE).generate(ask(user("Hi"), kept(response, TYPE), user("More")), Heard())
    assert caught.value.message == "bad tool schema"
    assert len(vendor.asked) == 2


async def test_models_that_know_phases_get_them_back(http: Http) -> None:
    driver = OpenAiResponsesDriver(ProviderConfig(TYPE), http, FragmentCache())
    messages = (
        user("Hi"),
        agent("Looking", call("c1"), phase="commentary"),
        result("c1"),
        agent("So", phase="final_answer"),
    )
    for model, expected in (
        ("gpt-5.4", ["commentary", "final_answer"]),
        ("gpt-5", [None, None]),
        ("o3", [None, None]),
    ):
        body = msgspec.json.decode(driver.encoded(ask(*messages, model=model)))
        phases = [item.get("phase") for item in body["input"] if item.get("role") == "assistant"]
        assert phases == expected
        assert knows_phases(model) is (expected[0] is not None)


async def test_images_are_sent_in_messages_and_in_results(vendor: Vendor, connect: Connect) -> None:
    picture = ImagePart(base64=PNG)
    body = await sent(
        vendor,
        connect,
        user("See", ImagePart(url="https://example.com/a.png")),
        agent(call("c1")),
        result("c1", "a picture", None, picture),
    )
    assert body["input"][0]["content"][1] == {
        "type": "input_image",
        "image_url": "https://example.com/a.png",
        "detail": "auto",
    }
    parts = [{"type": "text", "text": "a picture"}, {"type": "image", "base64": PNG}]
    inside = await sent(vendor, connect, user("Hi"), agent(call("c1")), result("c1", parts))
    assert inside["input"][1:] == body["input"][1:]
    assert body["input"][2]["output"] == [
        {"type": "input_text", "text": "a picture"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
    ]


async def test_an_empty_conversation_is_sent_with_a_placeholder(vendor: Vendor, connect: Connect) -> None:
    body = await sent(vendor, connect, agent(), system="Begin.")
    assert body["input"] == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Please continue."}]}
    ]


async def test_names_and_ids_of_other_vendors_are_adapted(vendor: Vendor, connect: Connect) -> None:
    body = await sent(vendor, connect, user("Hi"), agent(call("a:1", "files.read me")), result("a:1", "x"))
    sent_call, output = body["input"][1:]
    assert sent_call["name"] == "files_read_me"
    assert sent_call["call_id"] == output["call_id"] != "a:1"


async def test_missing_results_are_filled_in(vendor: Vendor, connect: Connect) -> None:
    body = await sent(vendor, connect, user("Hi"), agent(call("c1")), user("More"))
    assert body["input"][2] == {
        "type": "function_call_output",
        "call_id": "c1",
        "output": "Error: No result of this call was recorded.",
    }


async def test_servers_that_stream_no_deltas_are_supported(vendor: Vendor, connect: Connect) -> None:
    message = WIRE.message(0, ["whole"])
    events = [message[0], message[-1], WIRE.call(1, ("c1", "clock", ['{"a":1}']))[-1], done()]
    heard = Heard()
    response = await answered(vendor, connect, *events, heard=heard)
    assert response.text == heard.joined("text") == "whole"
    assert response.tool_calls[0].arguments == {"a": 1}


async def test_a_refusal_is_text(vendor: Vendor, connect: Connect) -> None:
    events = [WIRE._event("response.refusal.delta", item_id="m", delta="I won't."), done()]
    assert (await answered(vendor, connect, *events)).text == "I won't."


async def test_readable_reasoning_is_thinking(vendor: Vendor, connect: Connect) -> None:
    events = [
        WIRE._event("response.reasoning_text.delta", item_id="r", delta="a"),
        WIRE._event("response.reasoning_text.delta", item_id="r", delta="b"),
        done(),
    ]
    assert (await answered(vendor, connect, *events)).thinking == "ab"


async def test_an_error_event_is_an_error_in_either_form(vendor: Vendor, connect: Connect) -> None:
    for event in (
        WIRE._event("error", code="server_error", message="oops"),
        WIRE._event("error", error={"type": "server_error", "message": "oops"}),
        WIRE._event("response.failed", response={"status": "failed", "error": None}),
    ):
        with pytest.raises(ModelError) as caught:
            await answered(vendor, connect, event)
        assert (caught.value.code, caught.value.transient) == ("provider_unavailable", True)


async def test_an_answer_without_its_last_event_is_complete_only_with_an_end_mark_after_whole_items(
    vendor: Vendor, connect: Connect
) -> None:
    whole, mark = WIRE.answer(["ok"])[:-1], b"data: [DONE]\n\n"
    assert b"output_item.done" in whole[-1]
    for events in (whole, [*whole[:-1], mark]):  # more items may follow, or more of this one
        with pytest.raises(ModelError) as caught:
            await answered(vendor, connect, *events)
        assert caught.value.code == "provider_bad_response"
    response = await answered(vendor, connect, *whole, mark)
    assert (response.text, response.finish_reason) == ("ok", "stop")


async def test_counts_are_totals(vendor: Vendor, connect: Connect) -> None:
    vendor.will(Reply(WIRE.answer(["ok"], counts=Counts(5, 2, 0))))
    usage = (await connect(TYPE).generate(ask(user("Hi")), Heard())).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (5, 2, 0)
