"""The dialects of Chat Completions: what each vendor or server gets, in the form that it documents."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.domain.errors import InvalidInput
from perdure.domain.messages import Message, TextPart
from perdure.llm.dialects import CHAT_TYPES, NAMED
from perdure.llm.driver import ListedModel, OutputFormat, ProviderConfig, ToolSpec
from perdure.llm.http import Http
from perdure.llm.openai_chat import OpenAiChatDriver
from perdure.llm.prices import seller_of
from perdure.llm.registry import make_driver
from tests.conformance.drivers.conftest import API_KEY, Connect
from tests.conformance.drivers.protocols import sse
from tests.conformance.drivers.strict import complaints
from tests.conformance.drivers.test_strict_servers import HISTORIES
from tests.conformance.drivers.vendor import JSON, Reply, Vendor
from tests.unit.llm.talk import AT, WEATHER, Heard, agent, ask, call, kept, result, user

TYPES = tuple(dialect.name for dialect in NAMED)
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORM = OutputFormat(SCHEMA, ToolSpec("final_result", "Gives the answer.", SCHEMA))


def at(provider_type: str, base: str | None = None, **options: Any) -> OpenAiChatDriver:
    if base is None and provider_type == "azure_openai":
        base = "https://name.openai.azure.com"
    driver = make_driver(ProviderConfig(provider_type, base, API_KEY, options), Http())
    assert isinstance(driver, OpenAiChatDriver)
    return driver


def body_of(provider_type: str, *history: Message, **fields: Any) -> Any:
    return msgspec.json.decode(at(provider_type).encoded(ask(*(history or (user("Hi"),)), **fields)))


FULL = {
    "tools": (WEATHER,),
    "parallel_tool_calls": False,
    "max_output_tokens": 9,
    "reasoning_effort": "high",
    "cache_key": "session_1",
}
SENT: dict[str, dict[str, Any]] = {
    "azure_openai": {
        "stream_options": {"include_usage": True},
        "parallel_tool_calls": False,
        "max_completion_tokens": 9,
        "reasoning_effort": "high",
        "prompt_cache_key": "session_1",
    },
    "openrouter": {
        "stream_options": {"include_usage": True},
        "parallel_tool_calls": False,
        "max_tokens": 9,
        "reasoning": {"effort": "high"},
    },
    "mistral": {"parallel_tool_calls": False, "max_tokens": 9, "reasoning_effort": "high"},
    "groq": {
        "stream_options": {"include_usage": True},
        "parallel_tool_calls": False,
        "max_completion_tokens": 9,
        "reasoning_effort": "high",
    },
    "moonshot": {
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "thinking": {"type": "enabled"},
    },
    "deepseek": {
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "thinking": {"type": "enabled"},
        "reasoning_effort": "high",
    },
    "ollama": {"stream_options": {"include_usage": True}, "max_tokens": 9, "reasoning_effort": "high"},
    "vllm": {
        "stream_options": {"include_usage": True},
        "parallel_tool_calls": False,
        "max_tokens": 9,
        "reasoning_effort": "high",
    },
    "lm_studio": {"stream_options": {"include_usage": True}, "max_tokens": 9, "reasoning_effort": "high"},
    "litellm": {
        "stream_options": {"include_usage": True},
        "parallel_tool_calls": False,
        "max_tokens": 9,
        "reasoning_effort": "high",
    },
}


@pytest.mark.parametrize("provider_type", TYPES)
async def test_each_dialect_gets_the_parameters_that_it_knows(provider_type: str) -> None:
    body = body_of(provider_type, **FULL)
    for common in ("messages", "tools", "model", "stream"):
        del body[common]
    assert body == SENT[provider_type]


@pytest.mark.parametrize("provider_type", TYPES)
async def test_each_dialect_is_asked_for_the_form_of_an_answer_as_it_can(provider_type: str) -> None:
    alone, beside = body_of(provider_type, output=FORM), body_of(provider_type, output=FORM, tools=(WEATHER,))
    native = {each for each in TYPES if each != "deepseek"}
    assert ("response_format" in alone) is (provider_type in native)
    assert ("response_format" in beside) is (provider_type == "azure_openai")
    words = {"mistral": "any", "moonshot": None, "deepseek": None, "ollama": None, "azure_openai": None}
    assert beside.get("tool_choice") == words.get(provider_type, "required")
    offered = [tool["function"]["name"] for tool in beside["tools"]]
    assert ("final_result" in offered) is (provider_type != "azure_openai")


@pytest.mark.parametrize("provider_type", TYPES)
async def test_each_dialect_accepts_any_history(provider_type: str) -> None:
    for name, history in HISTORIES.items():
        found = complaints(
            "openai_completions", body_of(provider_type, *history), mistral=provider_type == "mistral"
        )
        if provider_type == "azure_openai":  # as OpenAI, it takes system messages anywhere
            found = [each for each in found if each not in SYSTEM_ROLES]
        assert found == [], name


SYSTEM_ROLES = {"a system message in the middle", "user after user", "assistant after assistant"}


async def test_efforts_that_mean_off_turn_thinking_off() -> None:
    for provider_type in ("moonshot", "deepseek"):
        body = body_of(provider_type, reasoning_effort="none")
        assert (body["thinking"], "reasoning_effort" in body) == ({"type": "disabled"}, False)
    assert body_of("moonshot", model="kimi-k2.6")["max_tokens"] == 32_000
    assert "max_tokens" not in body_of("moonshot", model="moonshot-v1-8k")


async def test_reasoning_goes_back_to_those_that_want_it() -> None:
    history = (user("Hi"), agent(call("c1"), thinking="hm"), result("c1", "x"))
    returned = {
        each for each in TYPES if "reasoning_content" in body_of(each, *history, model="m")["messages"][1]
    }
    assert returned == {"moonshot", "deepseek"}
    by_name = {
        each
        for each in TYPES
        if "reasoning_content" in body_of(each, *history, model="kimi-k2-thinking")["messages"][1]
    }
    assert by_name == {"moonshot", "deepseek", "ollama", "vllm", "lm_studio"}


# --- signed reasoning ----------------------------------------------------------


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return sse({"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


CALLS = [{"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
SIGNED: dict[str, tuple[str, list[dict[str, Any]], list[dict[str, Any]]]] = {
    "openrouter": (
        "reasoning_details",
        [
            {"type": "reasoning.text", "index": 0, "text": "Hm, ", "format": "anthropic-claude-v1"},
            {"type": "reasoning.text", "index": 0, "text": "well."},
            {"type": "reasoning.text", "index": 0, "text": "", "signature": "c2lnbmVk"},
            {"type": "reasoning.encrypted", "index": 1, "id": "rs_1", "data": "AAAA"},
        ],
        [
            {
                "type": "reasoning.text",
                "index": 0,
                "text": "Hm, well.",
                "format": "anthropic-claude-v1",
                "signature": "c2lnbmVk",
            },
            {"type": "reasoning.encrypted", "index": 1, "id": "rs_1", "data": "AAAA"},
        ],
    ),
    "litellm": (
        "thinking_blocks",
        [
            {"type": "thinking", "thinking": "Hm, ", "signature": None},
            {"type": "thinking", "thinking": "well.", "signature": None},
            {"type": "thinking", "thinking": "", "signature": "c2lnbmVk"},
            {"type": "redacted_thinking", "data": "AAAA"},
        ],
        [
            {"type": "thinking", "thinking": "Hm, well.", "signature": "c2lnbmVk"},
            {"type": "redacted_thinking", "data": "AAAA"},
        ],
    ),
}


@pytest.mark.parametrize("provider_type", SIGNED)
async def test_signed_reasoning_goes_back_as_it_came_to_its_model_only(
    vendor: Vendor, connect: Connect, provider_type: str
) -> None:
    field, pieces, whole = SIGNED[provider_type]
    events = [chunk({"content": "", field: [piece]}) for piece in pieces]
    vendor.will(Reply([*events, chunk({"tool_calls": CALLS}), chunk({}, "tool_calls"), b"data: [DONE]\n\n"]))
    driver = connect(provider_type)
    response = await driver.generate(ask(user("Hi"), tools=(WEATHER,)), Heard())
    assert response.thinking == "Hm, well."
    history = (user("Hi"), kept(response, provider_type), result("c1", "sunny"))
    vendor.will(*[Reply([chunk({"content": "ok"}, "stop")])] * 2)
    await driver.generate(ask(*history), Heard())
    assert vendor.sent["messages"][1][field] == whole
    await driver.generate(ask(*history, model="another"), Heard())
    assert field not in vendor.sent["messages"][1]


# --- addresses -----------------------------------------------------------------


async def test_dialects_have_addresses_keys_and_prices_of_their_own(vendor: Vendor, connect: Connect) -> None:
    sold = {dialect.name: seller_of(dialect.name, None) for dialect in NAMED}
    assert {name for name, seller in sold.items() if seller is not None} == {
        "openrouter", "mistral", "groq", "moonshot", "deepseek",
    }  # fmt: skip
    assert seller_of("vllm", "http://10.0.0.1:8000/v1") is None
    assert {"openai_completions", *TYPES} == CHAT_TYPES
    for dialect in NAMED:
        vendor.will(Reply([chunk({"content": "ok"}, "stop")]))
        await connect(dialect.name).generate(ask(user("Hi")), Heard())
        header = "api-key" if dialect.name == "azure_openai" else "authorization"
        assert vendor.asked[-1].headers[header].removeprefix("Bearer ") == API_KEY
        assert vendor.asked[-1].path == "/v1/chat/completions".replace(
            "/v1", "/openai/v1" if header == "api-key" else "/v1"
        )


@pytest.mark.parametrize(
    ("given", "called", "query"),
    [
        ("", "/openai/v1/chat/completions", {}),
        ("/", "/openai/v1/chat/completions", {}),
        ("/openai/v1/", "/openai/v1/chat/completions", {}),
        ("/openai/v1/chat/completions", "/openai/v1/chat/completions", {}),
        ("/openai/v1?api-version=preview", "/openai/v1/chat/completions", {"api-version": "preview"}),
        (
            "/openai/deployments/mine",
            "/openai/deployments/mine/chat/completions",
            {"api-version": "2024-10-21"},
        ),
        (
            "/openai/deployments/mine/chat/completions?api-version=2025-01-01-preview",
            "/openai/deployments/mine/chat/completions",
            {"api-version": "2025-01-01-preview"},
        ),
        (
            "?api-version=2024-10-21",
            "/openai/deployments/model-1/chat/completions",
            {"api-version": "2024-10-21"},
        ),
        (
            "/proxy/openai?api-version=2024-10-21",
            "/proxy/openai/deployments/model-1/chat/completions",
            {"api-version": "2024-10-21"},
        ),
    ],
)
async def test_azure_is_called_at_every_form_of_its_address(
    vendor: Vendor, http: Http, given: str, called: str, query: dict[str, str]
) -> None:
    driver = make_driver(ProviderConfig("azure_openai", vendor.url + given, API_KEY), http)
    vendor.will(Reply([chunk({"content": "ok"}, "stop")]))
    await driver.generate(ask(user("Hi")), Heard())
    asked = vendor.asked[-1]
    assert (asked.path, asked.query, asked.headers["api-key"]) == (called, query, API_KEY)
    assert "authorization" not in asked.headers


async def test_azure_takes_tokens_and_lists_what_can_be_called(vendor: Vendor, http: Http) -> None:
    listed = Reply([b'{"data":[{"id":"gpt-5","object":"model"}]}'], 200, JSON)
    for path, models in (("", ["gpt-5"]), ("/openai/deployments/mine", ["mine"])):
        config = ProviderConfig("azure_openai", vendor.url + path, "a-token-of-entra", {"bearer": True})
        vendor.will(listed)
        assert await make_driver(config, http).list_models() == [ListedModel(name) for name in models]
        assert vendor.asked[-1].headers["authorization"] == "Bearer a-token-of-entra"
    assert [asked.path for asked in vendor.asked] == ["/openai/v1/models", "/openai/models"]
    with pytest.raises(InvalidInput):
        make_driver(ProviderConfig("azure_openai", "https://169.254.169.254/openai"), http)


async def test_a_model_name_cannot_leave_its_place_in_the_address(vendor: Vendor, http: Http) -> None:
    driver = make_driver(ProviderConfig("azure_openai", f"{vendor.url}?api-version=1", API_KEY), http)
    vendor.will(Reply([chunk({"content": "ok"}, "stop")]))
    await driver.generate(ask(user("Hi"), model="../../other?x=#y"), Heard())
    assert vendor.asked[-1].path.endswith("/chat/completions")
    assert vendor.asked[-1].path.startswith("/openai/deployments/")
    assert vendor.asked[-1].query == {"api-version": "1"}


def test_the_thinking_of_one_dialect_is_readable_to_the_next() -> None:
    message = Message(
        agent().id, "agent", (TextPart("x"), call("c1")), AT, thinking="hm", reasoning_provider="openrouter"
    )
    body = body_of("deepseek", user("a"), message, result("c1", "y"))
    assert body["messages"][1]["reasoning_content"] == "hm"


async def test_signed_reasoning_of_answers_in_a_row_is_joined(vendor: Vendor, connect: Connect) -> None:
    field, pieces, whole = SIGNED["openrouter"]
    events = [chunk({"content": "", field: [piece]}) for piece in pieces]
    vendor.will(Reply([*events, chunk({"content": "So."}, "stop"), b"data: [DONE]\n\n"]))
    response = await connect("openrouter").generate(ask(user("Hi")), Heard())
    answers = (kept(response, "openrouter"), kept(response, "openrouter"))
    body = body_of("openrouter", user("a"), *answers, user("b"))
    assert body["messages"][1] == {"role": "assistant", "content": "So.\n\nSo.", field: whole + whole}


LISTS: dict[str, tuple[dict[str, Any], ListedModel]] = {
    "openrouter": (
        {"id": "a/b", "name": "A: B", "context_length": 131_072, "pricing": {"prompt": "0"}},
        ListedModel("a/b", "A: B", 131_072),
    ),
    "mistral": (
        {"id": "mistral-large-latest", "object": "model", "max_context_length": 131_072},
        ListedModel("mistral-large-latest", None, 131_072),
    ),
    "groq": (
        {"id": "openai/gpt-oss-20b", "active": True, "context_window": 131_072},
        ListedModel("openai/gpt-oss-20b", None, 131_072),
    ),
    "moonshot": ({"id": "kimi-k2.6", "context_length": 262_144}, ListedModel("kimi-k2.6", None, 262_144)),
    "deepseek": ({"id": "deepseek-chat", "owned_by": "deepseek"}, ListedModel("deepseek-chat")),
    "ollama": ({"id": "llama3.2:latest", "owned_by": "library"}, ListedModel("llama3.2:latest")),
    "vllm": (
        {"id": "Qwen/Qwen3-8B", "root": "Qwen/Qwen3-8B", "max_model_len": 40_960},
        ListedModel("Qwen/Qwen3-8B", None, 40_960),
    ),
    "lm_studio": ({"id": "qwen3-8b", "object": "model"}, ListedModel("qwen3-8b")),
    "litellm": ({"id": "claude", "object": "model", "owned_by": "openai"}, ListedModel("claude")),
}


@pytest.mark.parametrize("provider_type", LISTS)
async def test_the_list_of_models_of_each_dialect_is_read(
    vendor: Vendor, connect: Connect, provider_type: str
) -> None:
    entry, model = LISTS[provider_type]
    vendor.will(Reply([msgspec.json.encode({"object": "list", "data": [entry]})], 200, JSON))
    assert await connect(provider_type).list_models() == [model]
    assert vendor.asked[-1].path == "/v1/models"
