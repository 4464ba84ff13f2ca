"""What events and whole answers of Converse and of Gemini mean, however odd they are."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from perdure.domain.errors import ModelError
from perdure.domain.messages import Usage
from perdure.llm.bedrock_answer import ConverseAnswer
from perdure.llm.driver import ModelResponse
from perdure.llm.gemini_answer import GeminiAnswer
from tests.unit.llm.talk import Heard, ask, user

Events = list[tuple[str, dict[str, Any]]]
STOP: Events = [("messageStop", {"stopReason": "end_turn"})]


def delta(index: int, value: Any) -> tuple[str, dict[str, Any]]:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": value}


def begins(index: int, start: Any) -> tuple[str, dict[str, Any]]:
    return "contentBlockStart", {"contentBlockIndex": index, "start": start}


def thought(index: int, **value: Any) -> tuple[str, dict[str, Any]]:
    return delta(index, {"reasoningContent": value})


def answer_to(events: Events, heard: Heard | None = None) -> ModelResponse:
    answer = ConverseAnswer(heard or Heard())
    for name, value in events:
        answer.feed(json.dumps(value).encode(), name)
    return answer.finished(ask(user("Hi")))


def items_of(response: ModelResponse) -> list[dict[str, Any]]:
    """The blocks of reasoning that are kept to be sent back."""
    found: list[dict[str, Any]] = []

    def look(value: Any) -> None:
        if isinstance(value, dict) and "reasoningContent" in value:
            found.append(value["reasoningContent"])
        elif isinstance(value, dict | list | tuple):
            for each in value.values() if isinstance(value, dict) else value:
                look(each)

    look(response.reasoning_items)
    return found


def test_blocks_of_thoughts_are_shown_apart_and_kept_with_their_signatures() -> None:
    heard = Heard()
    response = answer_to(
        [
            thought(0, text="First"),
            thought(0, text=" step."),
            thought(0, signature="s1"),
            thought(1, text="Second step."),
            thought(1, signature="s2"),
            thought(2, text="Unsigned."),
            delta(3, {"text": "Done."}),
            *STOP,
        ],
        heard,
    )
    assert (response.text, response.thinking) == ("Done.", "First step.\n\nSecond step.\n\nUnsigned.")
    assert heard.joined("thinking") == response.thinking
    assert items_of(response) == [
        {"reasoningText": {"text": "First step.", "signature": "s1"}},
        {"reasoningText": {"text": "Second step.", "signature": "s2"}},
    ]


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        (["not base64"], "not base64"),
        ([base64.b64encode(b"ab").decode(), base64.b64encode(b"cd").decode()], "YWJjZA=="),
        (["a", "b"], "ab"),
    ],
)
def test_hidden_reasoning_is_kept_as_one_text_in_base64(pieces: list[str], whole: str) -> None:
    response = answer_to([*(thought(0, redactedContent=piece) for piece in pieces), *STOP])
    assert items_of(response) == [{"redactedContent": whole}]
    assert response.thinking is None


def test_a_call_may_begin_with_its_arguments_and_stray_values_mean_nothing() -> None:
    response = answer_to(
        [
            delta(0, "text"),
            begins(1, "toolUse"),
            delta(1, {"toolUse": {"input": '{"city": '}}),
            delta(1, {"toolUse": {"input": '"Paris"}'}}),
            begins(2, {"toolUse": {"toolUseId": "c2", "name": "clock"}}),
            begins(2, {"toolUse": {"name": "again"}}),
            ("ping", {}),
            ("metadata", {"usage": "none"}),
            *STOP,
        ]
    )  # fmt: skip
    assert [(call.name, call.arguments) for call in response.tool_calls] == [
        ("", {"city": "Paris"}),
        ("clock", {}),
    ]
    assert response.usage is None


def whole(content: Any, reason: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return "message", {"output": {"message": {"content": content}}, "stopReason": reason, **more}


def test_a_whole_answer_means_the_same_as_a_stream() -> None:
    content = [
        {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "s"}}},
        {"reasoningContent": {"redactedContent": "YQ=="}},
        {"reasoningContent": {"reasoningText": "odd"}},
        "odd",
        {"text": "It is sunny."},
        {"toolUse": {"toolUseId": "c1", "name": "weather", "input": {"city": "Rome"}}},
    ]
    usage = {"inputTokens": 5, "outputTokens": 7, "cacheReadInputTokens": 3}
    response = answer_to([whole(content, "tool_use", usage=usage)])
    assert (response.text, response.thinking) == ("It is sunny.", "Hm.")
    assert [(call.id, call.name, call.arguments) for call in response.tool_calls] == [
        ("c1", "weather", {"city": "Rome"})
    ]
    assert items_of(response) == [
        {"reasoningText": {"text": "Hm.", "signature": "s"}},
        {"redactedContent": "YQ=="},
    ]
    assert response.usage == Usage(8, 7, 3, None)


def test_what_is_no_answer_is_an_error() -> None:
    for events in ([], [delta(0, {"text": "Half"})]):
        with pytest.raises(ModelError):
            answer_to(events)
    for name in ("error", "contentBlockDelta"):
        with pytest.raises(ModelError, match="too large"):
            answer_to([(name, {"error": {"message": "too large"}})])


def test_a_whole_answer_without_blocks_is_empty() -> None:
    with pytest.raises(ModelError):
        answer_to([("message", {"output": {"message": "odd"}})])
    response = answer_to([whole(None, "end_turn")])
    assert (response.text, response.tool_calls) == ("", ())


def test_geminis_signed_thoughts_and_texts_are_kept_and_odd_values_mean_nothing() -> None:
    heard = Heard()
    answer = GeminiAnswer(heard)
    parts = [
        {"text": "Hm.", "thought": True, "thoughtSignature": "t1"},
        "odd",
        {"text": "Sunny.", "thoughtSignature": "t2"},
        {"functionCall": {"name": "weather", "args": {"city": "Rome"}}, "thoughtSignature": "t3"},
        {"functionCall": {"name": "clock"}},
    ]
    candidate = {"content": {"parts": parts}, "finishReason": "STOP"}
    for event in ({"candidates": "odd"}, {"candidates": [candidate]}):
        answer.feed(json.dumps(event).encode())
    response = answer.finished(ask(user("Hi")))
    assert (response.text, response.thinking, heard.joined("text")) == ("Sunny.", "Hm.", "Sunny.")
    assert [(call.name, call.arguments) for call in response.tool_calls] == [
        ("weather", {"city": "Rome"}),
        ("clock", {}),
    ]
    kept = json.dumps(msgspec.to_builtins(response.reasoning_items))
    assert [sign in kept for sign in ("t1", "t2", "t3")] == [True] * 3
