"""Any conversation becomes a valid request, for every vendor."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.messages import ImagePart, Message, Role, TextPart, ToolCallPart, ToolResultPart
from perdure.llm.anthropic import AnthropicDriver
from perdure.llm.driver import ModelRequest, ProviderConfig, ToolSpec
from perdure.llm.fragment_cache import FragmentCache
from perdure.llm.http import Http
from perdure.llm.openai_chat import OpenAiChatDriver
from perdure.llm.openai_responses import OpenAiResponsesDriver
from perdure.llm.wire import Reasoning, packed
from tests.unit.llm.talk import AT

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
# Tools may return file names that are not valid text.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
IDS = st.sampled_from(["c1", "c2", "c3", "functions.f:0", "", "x" * 80])
PARTS = st.one_of(
    ANY_TEXT.map(TextPart),
    st.builds(ImagePart, url=st.just("https://example.com/a.png")),
    st.builds(ImagePart, base64=st.just("iVBORw0KGgo="), media_type=st.none() | st.just("image/png")),
    st.builds(ToolCallPart, IDS, ANY_TEXT, JSON),
    st.builds(ToolResultPart, IDS, JSON, st.none() | ANY_TEXT),
)
BLOCKS = st.lists(
    st.builds(
        Reasoning,
        st.sampled_from(
            [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "reasoning", "id": "r"}]
        ),
        st.integers(0, 9),
        st.integers(0, 3),
    ),
    max_size=3,
)


ROLES: tuple[Role, ...] = ("system", "user", "agent", "tool_result")


@st.composite
def messages(draw: st.DrawFn) -> list[Message]:
    out = []
    for number in range(draw(st.integers(0, 8))):
        role: Role = draw(st.sampled_from(ROLES))
        content = tuple(draw(st.lists(PARTS, max_size=4)))
        blocks = packed("m", draw(BLOCKS)) if role == "agent" else ()
        out.append(
            Message(
                f"message_{number}",
                role,
                content,
                AT,
                thinking=draw(st.none() | ANY_TEXT),
                reasoning_provider=draw(st.sampled_from([None, "openai", "anthropic", "openai_completions"])),
                reasoning_items=blocks or None,
            )
        )
    return out


TOOLS = st.lists(
    st.builds(ToolSpec, st.just("t"), ANY_TEXT, st.sampled_from([{}, {"type": "object"}])), max_size=2
)
REQUESTS = st.builds(
    ModelRequest,
    model=st.sampled_from(["m", "gpt-5.4", "claude-opus-5-5", "claude-sonnet-4-5"]),
    system=ANY_TEXT,
    messages=messages(),
    tools=TOOLS.map(tuple),
    reasoning_effort=st.none() | st.sampled_from(["low", "high", "none"]),
    parallel_tool_calls=st.none() | st.booleans(),
    max_output_tokens=st.none() | st.integers(1, 100_000),
    temperature=st.none() | st.floats(0, 2),
    cache_key=st.none() | st.just("session_1"),
    prompt_caching=st.sampled_from([None, False, True]),
)


def body_of(driver: Any, request: ModelRequest) -> Any:
    raw = driver.encoded(request)
    assert driver.encoded(request) == raw
    return msgspec.json.decode(raw)


@pytest.fixture(scope="module", name="http")
def _http() -> Http:
    return Http()


@given(request=REQUESTS, returns=st.booleans())
def test_chat_requests_are_valid(http: Http, request: ModelRequest, returns: bool) -> None:
    options = {"reasoning_content": returns}
    driver = OpenAiChatDriver(
        ProviderConfig("openai_completions", None, None, options), http, FragmentCache()
    )
    body = body_of(driver, request)
    waiting: list[str] = []
    for message in body["messages"]:
        if message["role"] == "tool":
            assert message["tool_call_id"] in waiting
            waiting.remove(message["tool_call_id"])
            assert isinstance(message["content"], str)
            continue
        assert not waiting
        assert message["role"] in {"system", "user", "assistant"}
        assert message["content"] is not None or message["tool_calls"]
        waiting = [call["id"] for call in message.get("tool_calls", ())]
        for call in message.get("tool_calls", ()):
            assert isinstance(msgspec.json.decode(call["function"]["arguments"]), dict)
    assert not waiting


@given(request=REQUESTS)
def test_responses_requests_are_valid(http: Http, request: ModelRequest) -> None:
    body = body_of(OpenAiResponsesDriver(ProviderConfig("openai"), http, FragmentCache()), request)
    assert body["input"]
    calls = [item["call_id"] for item in body["input"] if item["type"] == "function_call"]
    outputs = [item["call_id"] for item in body["input"] if item["type"] == "function_call_output"]
    assert sorted(calls) == sorted(outputs)
    for item in body["input"]:
        assert item["type"] in {"message", "function_call", "function_call_output", "reasoning", "thinking"}
        assert item["type"] != "message" or item["content"]
    assert body["store"] is False


@given(request=REQUESTS)
def test_messages_requests_are_valid(http: Http, request: ModelRequest) -> None:
    body = body_of(AnthropicDriver(ProviderConfig("anthropic"), http, FragmentCache()), request)
    turns = body["messages"]
    assert [turn["role"] for turn in turns] == (["user", "assistant"] * len(turns))[: len(turns)]
    assert turns[-1]["role"] == "user"
    waiting: list[str] = []
    for turn in turns:
        assert turn["content"]
        kinds = [block["type"] for block in turn["content"]]
        results = [block["tool_use_id"] for block in turn["content"] if block["type"] == "tool_result"]
        assert sorted(results) == sorted(waiting)
        assert kinds[: len(results)] == ["tool_result"] * len(results)
        waiting = [block["id"] for block in turn["content"] if block["type"] == "tool_use"]
        assert all(block["text"].strip() for block in turn["content"] if block["type"] == "text")
        assert kinds[-1] not in {"thinking", "redacted_thinking"}
        assert all(
            isinstance(block["input"], dict) for block in turn["content"] if block["type"] == "tool_use"
        )
    assert not waiting
    assert str(body).count("cache_control") <= 4
    thinking = body.get("thinking", {})
    assert thinking.get("budget_tokens", 0) < body["max_tokens"]


async def test_creating_a_driver_opens_no_connection() -> None:
    before = len(asyncio.all_tasks())
    OpenAiChatDriver(ProviderConfig("openai_completions"), Http(), FragmentCache())
    assert len(asyncio.all_tasks()) == before
