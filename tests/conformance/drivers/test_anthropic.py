"""Anthropic Messages on the wire: turns, cache marks, thinking and its signatures."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.domain.errors import ModelError
from perdure.domain.messages import ImagePart, Message
from perdure.llm.anthropic import AnthropicDriver, claude_version, default_max_tokens
from perdure.llm.driver import ListedModel, ModelResponse, ProviderConfig
from perdure.llm.fragment_cache import FragmentCache
from perdure.llm.http import Http
from tests.conformance.drivers.conftest import API_KEY, Connect
from tests.conformance.drivers.protocols import Counts, MessagesWire
from tests.conformance.drivers.vendor import JSON, Reply, Vendor
from tests.unit.llm.talk import CLOCK, WEATHER, Heard, agent, ask, call, kept, result, system, user

TYPE = "anthropic"
WIRE = MessagesWire()
PNG = "iVBORw0KGgo="
MARK = {"type": "ephemeral"}
OLD = "claude-sonnet-4-5-20250929"
NEW = "claude-opus-5-5"


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


async def sent(
    vendor: Vendor, connect: Connect, *messages: Any, options: dict[str, Any] | None = None, **fields: Any
) -> Any:
    vendor.will(Reply(WIRE.answer(["ok"])))
    await connect(TYPE, **(options or {})).generate(ask(*messages, **fields), Heard())
    return vendor.sent


async def answered(
    vendor: Vendor, connect: Connect, *blocks: bytes, heard: Heard | None = None
) -> ModelResponse:
    vendor.will(Reply(WIRE.framed(blocks, Counts(), "end_turn")))
    return await connect(TYPE).generate(ask(user("Hi"), tools=(WEATHER, CLOCK)), heard or Heard())


async def test_a_whole_conversation_is_sent_in_turns(vendor: Vendor, connect: Connect) -> None:
    body = await sent(
        vendor,
        connect,
        user("Weather?"),
        user("In Rome."),
        agent("Looking.", call("c1", arguments={"city": "Rome"}), call("c2", "clock")),
        result("c2", {"hour": 12}),
        user("Hurry up"),
        result("c1", None, "no such city"),
        system("Be brief."),
        agent("It is noon."),
        user("Thanks"),
        system="You help.",
        tools=(WEATHER,),
    )
    assert body["system"] == [text("You help.")]
    assert body["messages"] == [
        {"role": "user", "content": [text("Weather?"), text("In Rome.")]},
        {
            "role": "assistant",
            "content": [
                text("Looking."),
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
                {"type": "tool_use", "id": "c2", "name": "clock", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c2", "content": '{"hour":12}'},
                {"type": "tool_result", "tool_use_id": "c1", "is_error": True, "content": "no such city"},
                text("Hurry up"),
                text("<system>\nBe brief.\n</system>"),
            ],
        },
        {"role": "assistant", "content": [text("It is noon.")]},
        {"role": "user", "content": [text("Thanks")]},
    ]
    assert body["tools"] == [
        {"name": "weather", "description": WEATHER.description, "input_schema": WEATHER.parameters}
    ]


async def test_the_call_carries_key_and_version(vendor: Vendor, connect: Connect) -> None:
    await sent(vendor, connect, user("Hi"), options={"headers": {"anthropic-beta": "x-1"}})
    headers = vendor.asked[-1].headers
    assert headers["x-api-key"] == API_KEY
    assert headers["anthropic-version"] == "2023-06-01"
    assert headers["anthropic-beta"] == "x-1"
    assert "authorization" not in headers
    await sent(vendor, connect, user("Hi"), options={"bearer": True})
    assert vendor.asked[-1].headers["authorization"] == f"Bearer {API_KEY}"
    assert "x-api-key" not in vendor.asked[-1].headers


async def test_only_requested_settings_are_sent(vendor: Vendor, connect: Connect) -> None:
    assert set(await sent(vendor, connect, user("Hi"))) == {"model", "stream", "max_tokens", "messages"}


async def test_turns_that_the_protocol_rejects_are_repaired(vendor: Vendor, connect: Connect) -> None:
    body = await sent(vendor, connect, agent("I begin. "), user(" "), agent(), agent("I end. "))
    assert body["messages"] == [
        {"role": "user", "content": [text("(no content)")]},
        {"role": "assistant", "content": [text("I begin. ")]},
        {"role": "user", "content": [text("(no content)")]},
        {"role": "assistant", "content": [text("I end. ")]},
        {"role": "user", "content": [text("Please continue.")]},
    ]
    assert (await sent(vendor, connect))["messages"] == [
        {"role": "user", "content": [text("Please continue.")]}
    ]


async def test_empty_results_and_errors_have_an_accepted_form(vendor: Vendor, connect: Connect) -> None:
    body = await sent(
        vendor,
        connect,
        user("Hi"),
        agent(call("c1"), call("c2"), call("c3")),
        result("c1"),
        result("c2", None, ""),
    )
    assert body["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "c1"},
        {"type": "tool_result", "tool_use_id": "c2", "is_error": True, "content": "error"},
        {
            "type": "tool_result",
            "tool_use_id": "c3",
            "is_error": True,
            "content": "No result of this call was recorded.",
        },
    ]


async def test_ids_and_names_are_adapted_alike_in_call_and_result(vendor: Vendor, connect: Connect) -> None:
    body = await sent(
        vendor,
        connect,
        user("Hi"),
        agent(call("functions.f:0", "my tool", "not json")),
        result("functions.f:0", "x"),
    )
    use, output = body["messages"][1]["content"][0], body["messages"][2]["content"][0]
    assert use["id"] == output["tool_use_id"] != "functions.f:0"
    assert use["name"] == "my_tool"
    assert use["input"] == {"invalid_arguments": "not json"}


async def test_tools_that_only_the_history_has_are_described(vendor: Vendor, connect: Connect) -> None:
    history = (user("Hi"), agent(call("c1", "gone.tool")), result("c1", "x"), user("So?"))
    body = await sent(vendor, connect, *history)
    assert [tool["name"] for tool in body["tools"]] == ["gone_tool"]
    assert "no longer" in body["tools"][0]["description"]
    assert [tool["name"] for tool in (await sent(vendor, connect, *history, tools=(CLOCK,)))["tools"]] == [
        "clock"
    ]


async def test_an_empty_answer_after_a_tool_does_not_allow_thinking(vendor: Vendor, connect: Connect) -> None:
    history = (user("Hi"), agent(call("c1")), result("c1", "x"), agent(""), user("And now?"))
    body = await sent(vendor, connect, *history, model=OLD, reasoning_effort="high")
    assert "thinking" not in body
    body = await sent(
        vendor, connect, *history[:3], agent("So."), user("b"), model=OLD, reasoning_effort="high"
    )
    assert body["thinking"]["type"] == "enabled"


async def test_images_are_sent_by_url_and_inline(vendor: Vendor, connect: Connect) -> None:
    inline = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    body = await sent(
        vendor,
        connect,
        user(ImagePart(url="https://example.com/a.png"), ImagePart(url=f"data:image/png;base64,{PNG}")),
        agent(call("c1")),
        result("c1", "a picture", None, ImagePart(base64=PNG)),
    )
    assert body["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        inline,
    ]
    assert body["messages"][2]["content"][0]["content"] == [text("a picture"), inline]
    parts = [{"type": "text", "text": "a picture"}, {"type": "image", "base64": PNG}]
    body = await sent(vendor, connect, user("Hi"), agent(call("c1")), result("c1", parts, "half"))
    # The vendor takes only text in a result that is marked as an error.
    assert body["messages"][2]["content"][0]["content"] == [text("Error: half\na picture"), inline]
    assert "is_error" not in body["messages"][2]["content"][0]


async def test_cache_marks_end_the_system_prompt_the_tools_and_the_last_turn(
    vendor: Vendor, connect: Connect
) -> None:
    history = [user("a"), agent("b", call("c1"), call("c2")), result("c1", "x"), result("c2", "y")]
    fields: dict[str, Any] = {"system": "S", "tools": (WEATHER, CLOCK), "prompt_caching": True}
    body = await sent(vendor, connect, *history, **fields)
    assert body["system"] == [text("S", cache_control=MARK)]
    assert ["cache_control" in tool for tool in body["tools"]] == [False, True]
    assert [block.get("cache_control") for block in body["messages"][-1]["content"]] == [None, MARK]
    body = await sent(vendor, connect, *history, user("more"), system("note"), **fields)
    assert [block.get("cache_control") for block in body["messages"][-1]["content"]] == [
        None,
        None,
        None,
        MARK,
    ]
    body = await sent(vendor, connect, *history, **{**fields, "prompt_caching": False})
    assert "cache_control" not in str(body)
    assert "cache_control" in str(await sent(vendor, connect, user("a"), prompt_caching=True))
    assert "cache_control" in str(await sent(vendor, connect, user("a"), prompt_caching=None))
    assert "cache_control" not in str(await sent(vendor, connect, agent("a"), prompt_caching=True))


async def test_parallel_calls_can_be_forbidden(vendor: Vendor, connect: Connect) -> None:
    body = await sent(vendor, connect, user("Hi"), tools=(CLOCK,), parallel_tool_calls=False)
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert "tool_choice" not in await sent(
        vendor, connect, user("Hi"), tools=(CLOCK,), parallel_tool_calls=True
    )
    assert "tool_choice" not in await sent(vendor, connect, user("Hi"), parallel_tool_calls=False)


@pytest.mark.parametrize(
    ("model", "version", "bound"),
    [
        ("claude-3-haiku-20240307", (3, 0), 4_096),
        ("claude-3-5-sonnet-20241022", (3, 5), 8_192),
        ("claude-3-7-sonnet-latest", (3, 7), 32_000),
        ("claude-opus-4-20250514", (4, 0), 32_000),
        ("claude-opus-4-1-20250805", (4, 1), 32_000),
        ("claude-haiku-4-5", (4, 5), 32_000),
        ("anthropic/claude-sonnet-4.6", (4, 6), 64_000),
        ("anthropic.claude-opus-4-7-v1:0", (4, 7), 64_000),
        ("claude-opus-5-5", (5, 5), 64_000),
        ("claude-mythos-preview", (99, 0), 64_000),
        ("smollm2-135m", None, 8_192),
    ],
)
async def test_the_generation_of_a_model_follows_from_its_name(model: str, version: Any, bound: int) -> None:
    assert claude_version(model) == version
    assert default_max_tokens(model) == bound


async def test_the_call_the_options_or_the_model_limit_an_answer(vendor: Vendor, connect: Connect) -> None:
    assert (await sent(vendor, connect, user("Hi"), model=OLD))["max_tokens"] == 32_000
    assert (await sent(vendor, connect, user("Hi"), options={"max_tokens": 77}))["max_tokens"] == 77
    assert (await sent(vendor, connect, user("Hi"), options={"max_tokens": 77}, max_output_tokens=5))[
        "max_tokens"
    ] == 5


@pytest.mark.parametrize(
    ("effort", "tokens"),
    [("low", 4_000), ("medium", 10_000), ("high", 24_000), ("minimal", 1_024), ("none", None)],
)
async def test_earlier_models_get_the_effort_as_a_token_budget(
    vendor: Vendor, connect: Connect, effort: str, tokens: int | None
) -> None:
    body = await sent(vendor, connect, user("Hi"), model=OLD, reasoning_effort=effort, temperature=0.5)
    expected = {"type": "enabled", "budget_tokens": tokens} if tokens else None
    assert body.get("thinking") == expected
    assert body.get("temperature") == (None if tokens else 0.5)
    assert tokens is None or tokens < body["max_tokens"]


async def test_thinking_leaves_room_for_a_limited_answer(vendor: Vendor, connect: Connect) -> None:
    body = await sent(
        vendor, connect, user("Hi"), model=OLD, reasoning_effort="high", max_output_tokens=4_000
    )
    assert body["thinking"]["budget_tokens"] == 3_000
    body = await sent(
        vendor, connect, user("Hi"), model=OLD, reasoning_effort="high", max_output_tokens=1_000
    )
    assert "thinking" not in body


async def test_an_unknown_effort_is_refused_and_the_error_lists_the_known_ones(
    vendor: Vendor, connect: Connect
) -> None:
    with pytest.raises(ModelError, match="low, medium, high") as caught:
        await connect(TYPE).generate(ask(user("Hi"), model=OLD, reasoning_effort="very"), Heard())
    assert caught.value.code == "invalid_model_request"
    assert not vendor.asked


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "word"),
    [
        ("claude-opus-4-6", None, False, None),
        ("claude-opus-4-6", "high", True, "high"),
        ("claude-opus-4-6", "none", False, None),
        (NEW, None, True, None),
        (NEW, "xhigh", True, "xhigh"),
        (NEW, "minimal", True, "low"),
        (NEW, "none", True, "low"),
    ],
)
async def test_later_models_get_the_name_of_the_effort(
    vendor: Vendor, connect: Connect, model: str, effort: str | None, thinking: bool, word: str | None
) -> None:
    body = await sent(vendor, connect, user("Hi"), model=model, reasoning_effort=effort, temperature=0.5)
    assert body.get("thinking") == ({"type": "adaptive", "display": "summarized"} if thinking else None)
    assert body.get("output_config") == ({"effort": word} if word else None)
    assert ("temperature" in body) is not thinking


async def test_signed_thinking_is_sent_back_unchanged_in_its_position(
    vendor: Vendor, connect: Connect
) -> None:
    heard = Heard()
    response = await answered(
        vendor,
        connect,
        *WIRE.thought(0, ["Hm, ", "well\x00."], "sig-1"),
        *WIRE.block(1, {"type": "redacted_thinking", "data": "c2VjcmV0"}, []),
        *WIRE.words(2, ["Looking."]),
        *WIRE.thought(3, ["Now."], "sig-2"),
        *WIRE.call(4, ("c1", "weather", ['{"city":', '"Rome"}'])),
        heard=heard,
    )
    assert response.thinking == heard.joined("thinking") == "Hm, well\ufffd.\n\nNow."
    assert response.thinking_signature is None
    stored = msgspec.json.decode(msgspec.json.encode(kept(response, TYPE)), type=Message)
    body = await sent(vendor, connect, user("Hi"), stored, result("c1", "sunny"))
    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hm, well\x00.", "signature": "sig-1"},
        {"type": "redacted_thinking", "data": "c2VjcmV0"},
        text("Looking."),
        {"type": "thinking", "thinking": "Now.", "signature": "sig-2"},
        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
    ]


async def test_a_single_signature_is_reported_as_the_thinkings(vendor: Vendor, connect: Connect) -> None:
    response = await answered(vendor, connect, *WIRE.thought(0, ["x"], "sig"), *WIRE.words(1, ["ok"]))
    assert response.thinking_signature == "sig"


async def test_thinking_without_text_is_kept_for_its_signature(vendor: Vendor, connect: Connect) -> None:
    response = await answered(vendor, connect, *WIRE.thought(0, [], "sig"), *WIRE.words(1, ["ok"]))
    assert response.thinking is None
    body = await sent(vendor, connect, user("Hi"), kept(response, TYPE), user("More"))
    assert body["messages"][1]["content"][0] == {"type": "thinking", "thinking": "", "signature": "sig"}


async def test_thinking_without_a_signature_or_at_the_end_is_not_sent_back(
    vendor: Vendor, connect: Connect
) -> None:
    response = await answered(
        vendor,
        connect,
        *WIRE.thought(0, ["x"], ""),
        *WIRE.words(1, ["ok"]),
        *WIRE.thought(2, ["y"], "sig"),
        *WIRE.words(3, ["  "]),
    )
    body = await sent(vendor, connect, user("Hi"), kept(response, TYPE), user("More"))
    assert body["messages"][1]["content"] == [text("ok")]


async def test_thinking_is_sent_back_only_to_its_own_provider_type_and_model(
    vendor: Vendor, connect: Connect
) -> None:
    response = await answered(vendor, connect, *WIRE.thought(0, ["x"]), *WIRE.words(1, ["ok"]))
    for said, model in ((kept(response, "openai"), "model-1"), (kept(response, TYPE), "model-2")):
        body = await sent(vendor, connect, user("Hi"), said, user("More"), model=model)
        assert body["messages"][1]["content"] == [text("ok")]


async def test_earlier_models_do_not_start_thinking_inside_a_tool_loop(
    vendor: Vendor, connect: Connect
) -> None:
    fields: dict[str, Any] = {"model": OLD, "reasoning_effort": "low"}
    without = agent("Looking.", call("c1"))
    body = await sent(vendor, connect, user("Hi"), without, result("c1", "x"), user("Hurry"), **fields)
    assert "thinking" not in body
    vendor.will(
        Reply(
            WIRE.framed([*WIRE.thought(0, ["x"]), *WIRE.call(1, ("c2", "clock", []))], Counts(), "tool_use")
        )
    )
    response = await connect(TYPE).generate(ask(user("Hi"), **fields), Heard())
    body = await sent(vendor, connect, user("Hi"), kept(response, TYPE), result("c2", "x"), **fields)
    assert "thinking" in body
    assert "thinking" in await sent(vendor, connect, user("Hi"), agent("Done."), user("More"), **fields)


async def test_thinking_that_the_vendor_rejects_is_left_out_from_then_on(
    vendor: Vendor, connect: Connect
) -> None:
    driver = connect(TYPE)
    vendor.will(Reply(WIRE.answer(["ok"], thinking=["x"])))
    first = kept(await driver.generate(ask(user("Hi")), Heard()), TYPE)
    no = WIRE.refusal(
        "other", "Invalid `signature` in `thinking` block. The block is bound to a different conversation."
    )
    vendor.will(Reply([no], 400, JSON), Reply(WIRE.answer(["fine"], thinking=["y"])))
    history = (user("Hi"), first, user("More"))
    heard = Heard()
    response = await driver.generate(ask(*history, cache_key="session_1"), heard)
    assert heard.joined("text") == "fine"
    assert "signed" in str(vendor.asked[-2].body)
    assert "signed" not in str(vendor.sent)
    vendor.will(Reply(WIRE.answer(["good"])))
    await driver.generate(ask(*history, kept(response, TYPE), user("And?"), cache_key="session_1"), Heard())
    thoughts = [[block["type"] for block in turn["content"]] for turn in vendor.sent["messages"]]
    assert thoughts == [["text"], ["text"], ["text"], ["thinking", "text"], ["text"]]
    assert len(vendor.asked) == 4


async def test_the_start_event_of_a_block_may_contain_text(vendor: Vendor, connect: Connect) -> None:
    response = await answered(
        vendor,
        connect,
        *WIRE.block(0, {"type": "thinking", "thinking": "a", "signature": "s"}, []),
        *WIRE.block(1, {"type": "text", "text": "b"}, []),
        *WIRE.block(2, {"type": "tool_use", "id": "c1", "name": "clock", "input": {"n": 1}}, []),
        *WIRE.block(3, {"type": "something_new", "data": 1}, []),
    )
    assert (response.thinking, response.thinking_signature, response.text) == ("a", "s", "b")
    assert response.tool_calls[0].arguments == {"n": 1}


async def test_an_answer_without_the_last_event_is_accepted(vendor: Vendor, connect: Connect) -> None:
    vendor.will(Reply(WIRE.answer(["ok"])[:-1]))
    assert (await connect(TYPE).generate(ask(user("Hi")), Heard())).text == "ok"


async def test_models_are_listed_page_by_page(vendor: Vendor, connect: Connect) -> None:
    pages = [
        {"data": [{"id": "a", "display_name": "A", "max_input_tokens": 9}], "has_more": True, "last_id": "a"},
        {"data": [{"id": "b", "display_name": "B"}], "has_more": False, "last_id": "b"},
    ]
    vendor.will(*(Reply([msgspec.json.encode(page)], headers=JSON) for page in pages))
    assert await connect(TYPE).list_models() == [ListedModel("a", "A", 9), ListedModel("b", "B")]
    assert [asked.query for asked in vendor.asked] == [{"limit": "1000"}, {"limit": "1000", "after_id": "a"}]
    assert vendor.asked[0].path == "/v1/models"


async def test_an_endless_list_is_bounded(vendor: Vendor, connect: Connect) -> None:
    page = msgspec.json.encode({"data": [{"id": "a"}], "has_more": True, "last_id": "a"})
    vendor.will(*[Reply([page], headers=JSON)] * 10)
    assert len(await connect(TYPE).list_models()) == 10


@pytest.mark.parametrize(
    ("base", "url"),
    [
        (None, "https://api.anthropic.com/v1/messages"),
        ("http://h", "http://h/v1/messages"),
        ("http://h/v1/", "http://h/v1/messages"),
        ("https://h/anthropic", "https://h/anthropic/v1/messages"),
    ],
)
async def test_base_urls_may_omit_the_version(http: Http, base: str | None, url: str) -> None:
    driver = AnthropicDriver(ProviderConfig(TYPE, base), http, FragmentCache())
    assert str(driver._endpoint.url("/messages")) == url
