"""What bridges and gateways do to a protocol: other vendors' words, repeated beginnings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from perdure.domain.errors import ModelError
from perdure.llm.answers import Answer
from perdure.llm.anthropic_answer import MessagesAnswer
from perdure.llm.failures import refusal
from perdure.llm.openai_chat_answer import ChatAnswer
from perdure.llm.openai_responses_answer import ResponsesAnswer
from tests.unit.llm.odd_messages import STOP, begins, grows, use
from tests.unit.llm.odd_streams import (
    ROME,
    TOOLS,
    A,
    B,
    chunk,
    completed,
    function,
    piece,
    read,
    said,
    sse,
)
from tests.unit.llm.talk import Heard

Make = Callable[[Heard], Answer]
FINISHES = {
    "content_filter": "FinishReason.SAFETY FINISH_REASON_SAFETY risk_control safety_violation error_toxic",
    "length": "FinishReason.MAX_TOKENS FINISH_REASON_MAX_TOKENS max_tokens_reached output_truncated"
    " repetition model_context_window_exceeded",
    "stop": "FINISH_REASON_STOP FinishReason.STOP",
}


@pytest.mark.parametrize("reason", FINISHES)
def test_reasons_to_stop_are_understood_by_what_they_mean(reason: str) -> None:
    for word in FINISHES[reason].split():
        answered = read(ChatAnswer(Heard()), [sse(chunk({"content": "a"}), chunk({}, word))])
        assert (word, answered.finish_reason) == (word, reason)


@pytest.mark.parametrize("word", ["MALFORMED_FUNCTION_CALL", "malformed_tool_call", "engine_error"])
def test_a_malformed_call_may_be_asked_for_again(word: str) -> None:
    with pytest.raises(ModelError) as caught:
        read(ChatAnswer(Heard()), [sse(chunk({"content": "a"}), chunk({}, word))])
    assert caught.value.transient


def test_a_full_context_without_a_word_means_that_the_prompt_is_too_long() -> None:
    full = "model_context_window_exceeded"
    stop = {"type": "message_delta", "delta": {"stop_reason": full}}
    details = {"incomplete_details": {"reason": full}, "status": "incomplete"}
    streams: list[tuple[Make, Any]] = [
        (ChatAnswer, chunk({}, full)),
        (MessagesAnswer, stop),
        (ResponsesAnswer, completed(**details)),
    ]
    for make, event in streams:
        with pytest.raises(ModelError) as caught:
            read(make(Heard()), [sse(event)])
        assert caught.value.code == "context_length_exceeded"


TWICE = json.dumps(A + B)


@pytest.mark.parametrize(
    "pieces",
    [("{}", A + B), ("{}", A, B), (TWICE,), (TWICE[:5], TWICE[5:])],
    ids=["empty at first", "empty, then in pieces", "encoded twice", "encoded twice, in pieces"],
)
def test_arguments_are_found_in_odd_wrappings(pieces: tuple[str, ...]) -> None:
    values = [piece(index=0, id="a", function=function("weather", ""))]
    values += [piece(index=0, function=function(None, text)) for text in pieces]
    (call,) = read(ChatAnswer(Heard()), [sse(*values, TOOLS)]).tool_calls
    assert (call.name, call.arguments) == ROME


def test_cut_arguments_stay_cut_after_an_empty_beginning() -> None:
    values = [piece(index=0, id="a", function=function("weather", text)) for text in ("{}", A)]
    (call,) = read(ChatAnswer(Heard()), [sse(*values, chunk({}, "length"))]).tool_calls
    assert isinstance(call.arguments, str)


def test_a_call_whose_beginning_is_sent_twice_is_one_call() -> None:
    first = begins(0, use())
    stream = sse(first, first, grows(0, type="input_json_delta", partial_json=A + B), *STOP)
    assert [part.arguments for part in read(MessagesAnswer(Heard()), [stream]).tool_calls] == [ROME[1]]


def test_control_characters_in_an_event_are_kept() -> None:
    stream = b'data: {"choices":[{"delta":{"content":"a\tb"},"finish_reason":"stop"}]}\n\n'
    assert read(ChatAnswer(Heard()), [stream]).text == "a\tb"


OTHERS: list[tuple[Make, Any]] = [
    (ResponsesAnswer, chunk({"content": "Hello"})),
    (MessagesAnswer, chunk({"content": "Hello"})),
    (ChatAnswer, said("Hello")),
    (ChatAnswer, {"data": chunk({"content": "Hello"}), "code": 0}),
]


@pytest.mark.parametrize(("make", "event"), OTHERS)
def test_a_stream_of_another_protocol_is_quoted_and_not_asked_for_again(make: Make, event: Any) -> None:
    with pytest.raises(ModelError, match="Hello") as caught:
        read(make(Heard()), [sse(event)])
    assert (caught.value.code, caught.value.transient) == ("provider_bad_response", False)


@pytest.mark.parametrize(
    "early", [{"type": "keepalive"}, {"choices": [], "prompt_filter_results": [{"a": 1}]}]
)
def test_a_stream_that_breaks_after_a_sign_of_life_may_be_asked_for_again(early: Any) -> None:
    with pytest.raises(ModelError) as caught:
        read(ChatAnswer(Heard()), [sse(early)])
    assert caught.value.transient


REFUSALS = [
    (400, {"error": {"message": "服务器繁忙,请稍后再试"}}, "provider_unavailable", True),
    (400, {"error": {"message": "请求过于频繁"}}, "provider_rate_limited", True),
    (429, {"error": {"message": "余额不足或无可用资源包,请充值。"}}, "quota_exceeded", False),
    (403, {"error": {"message": "retry", "code": "rate_limit_exceeded"}}, "provider_rate_limited", True),
    (401, {"error": {"message": "temporarily unavailable, try again later"}}, "provider_unavailable", True),
    (403, {"error": {"message": "forbidden"}}, "provider_auth", False),
    (
        403,
        {"error": {"code": 403, "message": "X requires moderation. Your input was flagged for \"Y\"."}},
        "content_filtered",
        False,
    ),
    (423, {}, "provider_unavailable", True),
    (400, {"error": {"message": "slow down", "code": 429}}, "provider_rate_limited", True),
    (400, {"error": {"message": "it failed", "metadata": {"raw": "503 Service Unavailable"}}},
     "provider_unavailable", True),
    (400, {"error": "invalid input", "status": 400}, "invalid_model_request", False),
    (404, {"error": {"message": "No endpoints found that support image input"}}, "model_not_found", False),
    (404, {"detail": "Not Found"}, "provider_misconfigured", False),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "code", "transient"), REFUSALS)
def test_refusals_mean_what_they_say(status: int, body: Any, code: str, transient: bool) -> None:
    error = refusal(status, {}, json.dumps(body).encode(), ())
    assert (error.code, error.transient) == (code, transient)


def test_a_redirect_says_where_it_leads_and_what_to_do() -> None:
    error = refusal(308, {"location": "https://there/v1?key=hidden"}, b"", (), "http://here/v1")
    assert "redirects http://here/v1 to https://there/v1 (HTTP 308)" in error.message
    assert "`base_url`" in error.message
    assert "hidden" not in error.message
