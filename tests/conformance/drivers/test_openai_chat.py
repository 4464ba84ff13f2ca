"""Chat Completions on the wire, and the ways in which servers differ."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.domain.errors import ModelError
from perdure.domain.messages import ImageFilePart, ImagePart, TextPart, ToolCallPart
from perdure.llm.driver import ListedModel, ProviderConfig
from perdure.llm.fragment_cache import FragmentCache
from perdure.llm.http import Http
from perdure.llm.openai_chat import OpenAiChatDriver
from tests.conformance.drivers.conftest import Connect
from tests.conformance.drivers.protocols import ChatWire, sse
from tests.conformance.drivers.vendor import JSON, Reply, Vendor
from tests.unit.llm.talk import CLOCK, WEATHER, Heard, agent, ask, call, kept, result, system, user

TYPE = "openai_completions"
WIRE = ChatWire()
PNG = "iVBORw0KGgo="


async def sent(
    vendor: Vendor, connect: Connect, *messages: Any, options: dict[str, Any] | None = None, **fields: Any
) -> Any:
    vendor.will(Reply(WIRE.answer(["ok"])))
    await connect(TYPE, **(options or {})).generate(ask(*messages, **fields), Heard())
    return vendor.sent


def driver_at(base: str, http: Http, **options: Any) -> OpenAiChatDriver:
    return OpenAiChatDriver(ProviderConfig(TYPE, base, "key", options), http, FragmentCache())


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    return sse({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more})


async def answered(vendor: Vendor, connect: Connect, *events: bytes, messages: tuple[Any, ...] = ()) -> Any:
    vendor.will(Reply(events))
    return await connect(TYPE).generate(ask(user("Hi"), *messages, tools=(WEATHER, CLOCK)), Heard())


async def test_a_whole_conversation_is_sent_in_the_vendors_form(vendor: Vendor, connect: Connect) -> None:
    body = await sent(
        vendor,
        connect,
        user("Weather?"),
        agent("Looking.", call("c1", arguments={"city": "Rome"}), call("c2", "clock")),
        result("c1", "sunny"),
        result("c2", {"hour": 12}),
        system("Be brief."),
        agent("Sunny at 12."),
        user("Thanks"),
        system="You help.",
        tools=(WEATHER, CLOCK),
    )
    assert body["messages"] == [
        {"role": "system", "content": "You help."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
                },
                {"id": "c2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c2", "content": '{"hour":12}'},
        {"role": "user", "content": "<system>\nBe brief.\n</system>"},
        {"role": "assistant", "content": "Sunny at 12."},
        {"role": "user", "content": "Thanks"},
    ]
    assert body["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": WEATHER.description,
                "parameters": WEATHER.parameters,
            },
        },
        {
            "type": "function",
            "function": {
                "name": "clock",
                "description": CLOCK.description,
                "parameters": {"type": "object", "properties": {}},
            },
        },
    ]
    assert body["stream_options"] == {"include_usage": True}


async def test_only_requested_settings_are_sent(vendor: Vendor, connect: Connect) -> None:
    body = await sent(vendor, connect, user("Hi"))
    assert set(body) == {"model", "stream", "stream_options", "messages"}


async def test_settings_are_sent(vendor: Vendor, connect: Connect) -> None:
    fields: dict[str, Any] = {
        "reasoning_effort": "high",
        "parallel_tool_calls": False,
        "max_output_tokens": 99,
        "temperature": 0.5,
        "tools": (CLOCK,),
        "cache_key": "session_1",
    }
    body = await sent(vendor, connect, user("Hi"), **fields)
    assert body["reasoning_effort"] == "high"
    assert body["parallel_tool_calls"] is False
    assert body["max_tokens"] == 99
    assert body["temperature"] == 0.5
    assert "prompt_cache_key" not in body
    body = await sent(
        vendor, connect, user("Hi"), options={"include_usage": False, "max_tokens_field": "n"}, **fields
    )
    assert body["n"] == 99
    assert "stream_options" not in body


async def test_only_openais_own_hosts_get_openais_own_fields(http: Http) -> None:
    driver = driver_at("https://api.openai.com/v1/", http)
    request = ask(user("Hi"), model="gpt-5-mini", max_output_tokens=9, temperature=0.5, cache_key="k" * 70)
    body = msgspec.json.decode(driver.encoded(request))
    assert body["max_completion_tokens"] == 9
    assert body["prompt_cache_key"] == "k" * 64
    assert "max_tokens" not in body
    assert "temperature" not in body


async def test_images_are_sent_by_url_and_inline(vendor: Vendor, connect: Connect) -> None:
    pictures = (
        ImagePart(url="https://example.com/a.png"),
        ImagePart(base64="UklGRg==", media_type="image/webp"),
        ImagePart(base64="/9j/AAAA"),
    )
    body = await sent(vendor, connect, user("See", *pictures))
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "See"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/webp;base64,UklGRg=="}},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/AAAA"}},
    ]


@pytest.mark.parametrize("provider_type", ["openai", "openai_completions", "anthropic"])
async def test_images_that_cannot_be_sent_are_refused_before_the_call(
    vendor: Vendor, connect: Connect, provider_type: str
) -> None:
    for part in (ImageFilePart("image_1"), ImagePart()):
        with pytest.raises(ModelError) as caught:
            await connect(provider_type).generate(ask(user("See", part)), Heard())
        assert (caught.value.code, caught.value.transient) == ("invalid_model_request", False)
    assert not vendor.asked


async def test_images_from_a_tool_follow_after_all_results(vendor: Vendor, connect: Connect) -> None:
    body = await sent(
        vendor,
        connect,
        user("Hi"),
        agent(call("c1"), call("c2")),
        result("c1", "see", None, ImagePart(base64=PNG)),
        result("c2", "x"),
    )
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool", "tool", "user"]
    inside = await sent(
        vendor,
        connect,
        user("Hi"),
        agent(call("c1"), call("c2")),
        result("c1", [{"type": "text", "text": "see"}, {"type": "image", "base64": PNG}]),
        result("c2", "x"),
    )
    assert inside["messages"][1:] == body["messages"][1:]
    assert body["messages"][4]["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    ]


async def test_errors_and_empty_results_are_sent_as_text(vendor: Vendor, connect: Connect) -> None:
    body = await sent(
        vendor,
        connect,
        user("Hi"),
        agent(call("c1"), call("c2"), call("c3")),
        result("c1", None, "no such city"),
        result("c2", {"a": 1}, "half done"),
        result("c3"),
    )
    assert [message["content"] for message in body["messages"][2:]] == [
        "Error: no such city",
        'Error: half done\n{"a":1}',
        "(no content)",
    ]
    assert body["messages"][1]["content"] is None


async def test_a_message_during_a_tool_run_moves_behind_the_results(vendor: Vendor, connect: Connect) -> None:
    body = await sent(
        vendor,
        connect,
        user("Hi"),
        agent(call("c1"), call("c2")),
        result("c2", "two"),
        user("Hurry up"),
        result("c1", "one"),
        agent("Done"),
        user("Ok"),
    )
    assert [message["content"] for message in body["messages"]] == [
        "Hi",
        None,
        "two",
        "one",
        "Hurry up",
        "Done",
        "Ok",
    ]


async def test_broken_histories_are_repaired(vendor: Vendor, connect: Connect) -> None:
    body = await sent(
        vendor,
        connect,
        result("lost", "x"),
        user("Hi"),
        agent(call("c1"), call("c2")),
        result("c1", "one"),
        user("Go"),
    )
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool", "tool", "user"]
    assert body["messages"][3] == {
        "role": "tool",
        "tool_call_id": "c2",
        "content": "Error: No result of this call was recorded.",
    }


async def test_invalid_arguments_are_sent_back_as_an_object(vendor: Vendor, connect: Connect) -> None:
    body = await sent(
        vendor, connect, user("Hi"), agent(call("c1", arguments='{"ci')), result("c1", None, "not JSON")
    )
    sent_call = body["messages"][1]["tool_calls"][0]["function"]
    assert sent_call["arguments"] == '{"invalid_arguments":"{\\"ci"}'


async def test_ids_of_other_vendors_are_adapted_alike_in_call_and_result(
    vendor: Vendor, connect: Connect
) -> None:
    body = await sent(
        vendor,
        connect,
        user("Hi"),
        agent(call("x" * 64), call("functions.f:0")),
        result("x" * 64, "a"),
        result("functions.f:0", "b"),
    )
    first, second = (one["id"] for one in body["messages"][1]["tool_calls"])
    assert len(first) <= 40
    assert second == "functions.f:0"
    assert [message["tool_call_id"] for message in body["messages"][2:]] == [first, second]


async def test_thinking_is_not_sent_back_unless_the_server_needs_it(vendor: Vendor, connect: Connect) -> None:
    history = (
        user("Hi"),
        agent(call("c1"), thinking="hm"),
        result("c1", "x"),
        agent(call("c2")),
        result("c2", "y"),
        agent("Done", thinking="so"),
        user("Ok"),
    )
    body = await sent(vendor, connect, *history)
    assert not any("reasoning_content" in message for message in body["messages"])
    body = await sent(vendor, connect, *history, options={"reasoning_content": True})
    assert [message.get("reasoning_content") for message in body["messages"]] == [
        None,
        "hm",
        None,
        "(no reasoning was recorded)",
        None,
        None,
        None,
    ]


async def test_the_vendors_extra_content_is_sent_back_with_its_tool_call(
    vendor: Vendor, connect: Connect
) -> None:
    extra = {"google": {"thought_signature": "abc"}}
    head = {"index": 0, "id": "c1", "function": {"name": "clock", "arguments": "{}"}, "extra_content": extra}
    response = await answered(
        vendor, connect, chunk({"tool_calls": [head]}, "tool_calls"), b"data: [DONE]\n\n"
    )
    body = await sent(vendor, connect, user("Hi"), kept(response, TYPE), result("c1", "x"))
    assert body["messages"][1]["tool_calls"][0]["extra_content"] == extra
    body = await sent(vendor, connect, user("Hi"), kept(response, TYPE), result("c1", "x"), model="another")
    assert "extra_content" not in body["messages"][1]["tool_calls"][0]


async def test_servers_that_number_every_call_zero_are_supported(vendor: Vendor, connect: Connect) -> None:
    calls = [
        {"index": 0, "id": one, "function": {"name": "clock", "arguments": f'{{"n":"{one}"}}'}}
        for one in ("a", "b")
    ]
    response = await answered(
        vendor, connect, *(chunk({"tool_calls": [one]}) for one in calls), chunk({}, "stop")
    )
    assert [(one.id, one.arguments) for one in response.tool_calls] == [("a", {"n": "a"}), ("b", {"n": "b"})]
    assert response.finish_reason == "tool_calls"


async def test_servers_that_number_no_call_are_supported(vendor: Vendor, connect: Connect) -> None:
    events = [
        chunk({"tool_calls": [{"id": "a", "function": {"name": "clock", "arguments": '{"n"'}}]}),
        chunk({"tool_calls": [{"function": {"arguments": ": 1}"}}]}),
        chunk(
            {"tool_calls": [{"id": "b", "function": {"name": "clock", "arguments": {"n": 2}}}]}, "tool_calls"
        ),
    ]
    response = await answered(vendor, connect, *events)
    assert [(one.id, one.arguments) for one in response.tool_calls] == [("a", {"n": 1}), ("b", {"n": 2})]


async def test_ids_of_earlier_answers_are_not_reused(vendor: Vendor, connect: Connect) -> None:
    head = {"index": 0, "id": "call_0", "function": {"name": "clock", "arguments": "{}"}}
    messages = (agent(call("call_0")), result("call_0", "x"))
    response = await answered(vendor, connect, chunk({"tool_calls": [head]}, "tool_calls"), messages=messages)
    assert response.tool_calls[0].id not in {"", "call_0"}


async def test_a_refusal_is_text(vendor: Vendor, connect: Connect) -> None:
    response = await answered(vendor, connect, chunk({"refusal": "I won't."}), chunk({}, "stop"))
    assert response.text == "I won't."


async def test_reasoning_under_other_names_is_thinking(vendor: Vendor, connect: Connect) -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "b"}]},
        {"type": "text", "text": "c"},
        "odd",
    ]
    response = await answered(
        vendor,
        connect,
        chunk({"reasoning": "a"}),
        chunk({"content": parts}),
        chunk({"content": 7}),
        chunk({}, "stop"),
    )
    assert (response.thinking, response.text) == ("ab", "codd7")


async def test_a_stream_without_a_finish_reason_must_end_with_done(vendor: Vendor, connect: Connect) -> None:
    response = await answered(vendor, connect, chunk({"content": "a"}), b"data: [DONE]")
    assert (response.text, response.finish_reason, response.usage) == ("a", "stop", None)
    with pytest.raises(ModelError):
        await answered(vendor, connect, b"data: [DONE]\n\n")


async def test_cache_counts_of_other_servers_are_read(vendor: Vendor, connect: Connect) -> None:
    usage: dict[str, Any] = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 4}
    response = await answered(
        vendor, connect, chunk({"content": "a"}, "stop", usage=usage), chunk({}, usage=None)
    )
    assert (response.usage.input_tokens, response.usage.cache_read_tokens) == (9, 4)
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cache_write_tokens": 5}}
    response = await answered(vendor, connect, chunk({"content": "a"}, "stop", usage=usage))
    assert response.usage.cache_creation_tokens == 5


async def test_an_error_whose_code_is_a_status_is_classified_by_the_status(
    vendor: Vendor, connect: Connect
) -> None:
    for code, expected in (
        (429, "provider_rate_limited"),
        ("502", "provider_unavailable"),
        (400, "invalid_model_request"),
    ):
        with pytest.raises(ModelError) as caught:
            await answered(vendor, connect, sse({"error": {"code": code, "message": "upstream"}}))
        assert caught.value.code == expected


async def test_models_are_listed_with_the_servers_facts_about_them(vendor: Vendor, connect: Connect) -> None:
    data = [
        {"id": "a", "context_length": 5},
        {"id": "b", "name": "B", "max_model_len": 6},
        {"id": "c", "meta": {"n_ctx": 7}},
        {"nothing": 1},
        "odd",
    ]
    vendor.will(Reply([msgspec.json.encode({"object": "list", "data": data})], headers=JSON))
    assert await connect(TYPE).list_models() == [
        ListedModel("a", None, 5),
        ListedModel("b", "B", 6),
        ListedModel("c", None, 7),
    ]
    assert (vendor.asked[-1].method, vendor.asked[-1].path) == ("GET", "/v1/models")


@pytest.mark.parametrize(
    ("base", "url"),
    [
        (None, "https://api.openai.com/v1/chat/completions"),
        ("http://h", "http://h/v1/chat/completions"),
        ("http://h/", "http://h/v1/chat/completions"),
        ("http://h/v1", "http://h/v1/chat/completions"),
        ("http://h/api/v1/", "http://h/api/v1/chat/completions"),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai/chat/completions"),
        ("https://h/openai", "https://h/openai/chat/completions"),
        ("https://h/v1?api-version=7", "https://h/v1/chat/completions?api-version=7"),
    ],
)
async def test_base_urls_may_omit_the_version(http: Http, base: str | None, url: str) -> None:
    driver = OpenAiChatDriver(ProviderConfig(TYPE, base), http, FragmentCache())
    assert str(driver._endpoint.url("/chat/completions")) == url


async def test_without_a_key_no_credentials_are_sent(vendor: Vendor, http: Http) -> None:
    vendor.will(Reply(WIRE.answer(["ok"])))
    driver = OpenAiChatDriver(
        ProviderConfig(TYPE, vendor.url, None, {"headers": {"X-Title": "t"}}), http, FragmentCache()
    )
    await driver.generate(ask(user("Hi")), Heard())
    assert "authorization" not in vendor.asked[-1].headers
    assert vendor.asked[-1].headers["x-title"] == "t"


async def test_several_text_parts_become_one_text(vendor: Vendor, connect: Connect) -> None:
    body = await sent(vendor, connect, user("a", "b"), agent("c"), user())
    assert body["messages"][0]["content"] == "a\n\nb"
    assert body["messages"][2]["content"] == "(no content)"


async def test_a_result_message_without_a_result_is_sent_as_a_user_message(
    vendor: Vendor, connect: Connect
) -> None:
    odd = result("c1")
    odd = msgspec.structs.replace(odd, content=(TextPart("plain"),))
    body = await sent(vendor, connect, odd)
    assert body["messages"] == [{"role": "user", "content": "plain"}]


async def test_a_call_without_a_name_is_sent_back_with_one(vendor: Vendor, connect: Connect) -> None:
    body = await sent(
        vendor, connect, user("Hi"), agent(ToolCallPart("c1", "", {})), result("c1", None, "unknown tool")
    )
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == "unknown"
