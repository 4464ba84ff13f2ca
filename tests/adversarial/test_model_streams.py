"""Streams of hostile model servers: no event costs more because much has come before it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from perdure.domain.errors import ModelError
from perdure.llm.answers import MAX_PARTS, Answer
from perdure.llm.anthropic_answer import MessagesAnswer
from perdure.llm.bedrock_answer import ConverseAnswer
from perdure.llm.gemini_answer import GeminiAnswer
from perdure.llm.openai_chat_answer import ChatAnswer
from perdure.llm.openai_responses_answer import ResponsesAnswer
from tests.unit.llm.talk import Heard, ask

LONG = 1_000_000
MANY = 20_000
Made = Callable[[int], Any]


def delta(**fields: Any) -> Any:
    return {"choices": [{"delta": fields}]}


def call_piece(index: int, **function: Any) -> Any:
    return delta(tool_calls=[{"index": index, "id": str(index), "function": function}])


def piece(kind: str, **fields: Any) -> Any:
    return {"type": f"response.{kind}", "output_index": 0, **fields}


def item(state: str, number: int | None, kind: str, **fields: Any) -> Any:
    return {"type": f"response.output_item.{state}", "output_index": number, "item": {"type": kind, **fields}}


def block(number: int, **start: Any) -> Any:
    return {"type": "content_block_start", "index": number, "content_block": start}


def block_piece(number: int, **fields: Any) -> Any:
    return {"type": "content_block_delta", "index": number, "delta": fields}


STREAMS: dict[str, tuple[Callable[[], Answer], int, Made, Made]] = {
    "messages in place of pieces": (
        lambda: ChatAnswer(Heard()), MANY, lambda at: delta(content="a" * 400),
        lambda at: {"choices": [{"message": {"content": "a"}}]},
    ),
    "a name without end": (
        lambda: ChatAnswer(Heard()), 1, lambda at: call_piece(0, name="b" * LONG),
        lambda at: call_piece(0, name="a"),
    ),
    "blank arguments": (
        lambda: ChatAnswer(Heard()), 1, lambda at: call_piece(0, name="x", arguments=" " * LONG),
        lambda at: call_piece(0, name="x", arguments=""),
    ),
    "arguments that come again": (
        lambda: ChatAnswer(Heard()), 2,
        lambda at: call_piece(0, name="x", arguments={"a": 1} if at else "1," * LONG),
        lambda at: call_piece(0, name="x", arguments={"a": 1}),
    ),
    "reasoning to be sent back": (
        lambda: ChatAnswer(Heard(), (), "reasoning_details"), 2,
        lambda at: delta(reasoning_details=[{"type": "x", "text": "b" * 10 * LONG}]),
        lambda at: delta(reasoning_details=[{"type": "x", "text": "b"}]),
    ),
    "the end of a text, again": (
        lambda: ResponsesAnswer(Heard()), MANY, lambda at: piece("output_text.delta", delta="a" * 400),
        lambda at: piece("output_text.done", text="x"),
    ),
    "the beginning of a text, again": (
        lambda: ResponsesAnswer(Heard()), 1,
        lambda at: piece("content_part.added", part={"text": "b" * 10 * LONG}),
        lambda at: piece("content_part.added", part={"text": "c"}),
    ),
    "ends of items without numbers": (
        lambda: ResponsesAnswer(Heard()), MANY, lambda at: item("added", at, "message"),
        lambda at: item("done", None, "message"),
    ),
    "text for items that are calls": (
        lambda: ResponsesAnswer(Heard()), MANY, lambda at: item("added", at, "function_call"),
        lambda at: piece("output_text.delta", delta="a"),
    ),
    "ends of the response": (
        lambda: ResponsesAnswer(Heard()), MANY, lambda at: item("added", at, "function_call", name=f"x{at}"),
        lambda at: piece("completed", response={"output": [{"type": "function_call", "name": "y"}]}),
    ),
    "text for blocks that are calls": (
        lambda: MessagesAnswer(Heard()), MANY, lambda at: block(at, type="tool_use" if at else "text"),
        lambda at: block_piece(1, text="a"),
    ),
}  # fmt: skip


def seconds(answer: Answer, event: Made) -> float:
    """The time that a hundred more events take, at best."""
    events = [msgspec.json.encode(event(at)) for at in range(100)]
    took = []
    for _ in range(3):
        began = time.perf_counter()
        for each in events:
            answer.feed(each)
        took.append(time.perf_counter() - began)
    return min(took)


@pytest.mark.parametrize("stream", STREAMS)
def test_an_event_costs_no_more_after_a_long_answer_than_at_its_beginning(stream: str) -> None:
    made, count, first, again = STREAMS[stream]
    short, long = made(), made()
    short.feed(msgspec.json.encode(again(0)))
    for at in range(count):
        long.feed(msgspec.json.encode(first(at)))
    long.feed(msgspec.json.encode(again(0)))
    assert seconds(long, again) < 15 * seconds(short, again)


PARTS: dict[str, tuple[type[Answer], Made, str]] = {
    "Chat Completions": (ChatAnswer, lambda at: call_piece(at, name="x"), "message"),
    "Responses": (ResponsesAnswer, lambda at: item("added", at, "message"), "message"),
    "Messages": (MessagesAnswer, lambda at: block(at, type="thinking"), "message"),
    "Gemini": (
        GeminiAnswer, lambda at: {"candidates": [{"content": {"parts": [{"functionCall": {"name": "x"}}]}}]},
        "message",
    ),
    "Converse": (ConverseAnswer, lambda at: {"contentBlockIndex": at, "delta": {}}, "contentBlockDelta"),
}  # fmt: skip


@pytest.mark.parametrize("protocol", PARTS)
def test_an_answer_of_too_many_parts_is_refused_by_all_drivers(protocol: str) -> None:
    driver, part, name = PARTS[protocol]
    answer = driver(Heard())
    for at in range(MAX_PARTS):
        answer.feed(msgspec.json.encode(part(at)), name)
    with pytest.raises(ModelError, match="more than 50000 parts") as refused:
        answer.feed(msgspec.json.encode(part(MAX_PARTS)), name)
    assert (refused.value.code, refused.value.transient) == ("provider_bad_response", False)


def test_what_the_end_of_a_response_repeats_is_said_once_in_any_form_of_its_arguments() -> None:
    answer = ResponsesAnswer(Heard())
    for at in (0, 1):
        answer.feed(
            msgspec.json.encode(item("added", at, "function_call", name="x", arguments='{"b":1,"a":2}'))
        )
    answer.feed(msgspec.json.encode({**piece("output_text.delta", delta="Hello"), "output_index": 2}))
    output = [
        {"type": "message", "content": "Hello", "id": "z"},
        *({"type": "function_call", "name": "x", "arguments": '{"a": 2, "b": 1}'} for _ in range(2)),
    ]
    end = msgspec.json.encode(piece("completed", response={"output": output, "usage": {"output_tokens": 5}}))
    answer.feed(end)
    answer.feed(end)
    response = answer.finished(ask())
    assert (response.text, [each.arguments for each in response.tool_calls]) == (
        "Hello",
        [{"a": 2, "b": 1}] * 2,
    )


async def test_the_end_of_a_long_answer_is_made_aside_and_shown_in_the_loop() -> None:
    heard = Heard()
    answer = ChatAnswer(heard)
    answer.feed(msgspec.json.encode(delta(content="a" * 600_000)))
    answer.feed(b'{"choices":[{"delta":{"content":"\\ud83d"},"finish_reason":"stop"}]}')
    response = await answer.finish(ask())
    assert response.text == "a" * 600_000 + "\ufffd"
