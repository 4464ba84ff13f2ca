"""Events of hostile model servers: what would take long to decode is refused by all drivers."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from perdure.domain.errors import ModelError
from perdure.domain.sse import MAX_LINES, SseParser, StreamTooLong
from perdure.llm.answers import Answer
from perdure.llm.anthropic_answer import MessagesAnswer
from perdure.llm.aws_events import AwsEventParser
from perdure.llm.bedrock_answer import ConverseAnswer
from perdure.llm.calls_in_progress import CallInProgress
from perdure.llm.event_costs import LISTED_VALUES, MAX_VALUES, check_cost
from perdure.llm.gemini_answer import GeminiAnswer
from perdure.llm.openai_chat_answer import ChatAnswer
from perdure.llm.openai_common import decoded_list
from perdure.llm.openai_responses_answer import ResponsesAnswer
from tests.conformance.drivers.converse import exception
from tests.unit.llm.talk import Heard

DRIVERS: dict[type[Answer], tuple[str, str]] = {
    ChatAnswer: ('{"choices":[{"index":0,"delta":{"content":%s}}]}', "message"),
    ResponsesAnswer: (
        '{"type":"response.output_text.delta","item_id":"a","output_index":0,"content_index":0,"delta":%s}',
        "message",
    ),
    MessagesAnswer: (
        '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%s}}', "message",
    ),
    GeminiAnswer: ('{"candidates":[{"index":0,"content":{"parts":[{"text":%s}]}}]}', "message"),
    ConverseAnswer: ('{"contentBlockIndex":0,"delta":{"text":%s}}', "contentBlockDelta"),
}  # fmt: skip
COSTLY = {
    "zeros": ("[" + "0," * MAX_VALUES + "0]", "has more than 50000 values"),
    "objects": ("[" + '{"a":1},' * MAX_VALUES + "1]", "has more than 50000 values"),
    "empty lists": ("[" * (MAX_VALUES + 1), "has more than 50000 values"),
    "extreme numbers": ("[" + "1e-300," * 1_001 + "1]", "has more than 1000 extreme numbers"),
    "a long number": ("9" * 5_000, "has a number of more than 1000 digits"),
}


@pytest.mark.parametrize("costly", COSTLY)
@pytest.mark.parametrize("driver", DRIVERS)
def test_events_that_are_slow_to_decode_are_refused_by_all_drivers(driver: type[Answer], costly: str) -> None:
    form, name = DRIVERS[driver]
    value, words = COSTLY[costly]
    for event in (form % value, f'{{"other":{value}}}', value):
        with pytest.raises(ModelError, match=words) as refused:
            driver(Heard()).feed(event.encode(), name)
        assert (refused.value.code, refused.value.transient) == ("provider_bad_response", False)


@pytest.mark.parametrize("driver", DRIVERS)
def test_long_texts_with_numbers_and_brackets_are_fine(driver: type[Answer]) -> None:
    form, name = DRIVERS[driver]
    text = 'a = [1e300, {"x": 2}]\\n' * 20_000 + "7" * 9_000
    answer = driver(Heard())
    answer.feed((form % json.dumps(text)).encode(), name)
    assert answer.text() == text


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_long_event_is_parsed_aside_and_shown_in_the_loop(driver: type[Answer]) -> None:
    form, name = DRIVERS[driver]
    heard: list[tuple[str, str, int]] = []
    answer = driver(lambda kind, piece: heard.append((kind, piece, threading.get_ident())))
    await answer.feed_long((form % '"first"').encode(), name)
    answer.feed((form % '"second"').encode(), name)
    here = threading.get_ident()
    assert heard == [("text", "first", here), ("text", "second", here)]
    with pytest.raises(ModelError):
        await answer.feed_long(b"[" * 100_000, name)


def test_an_event_of_very_many_lines_is_none() -> None:
    parser = SseParser()
    parser.feed(b"data: 1\n" * MAX_LINES)
    with pytest.raises(StreamTooLong, match="the event is longer than 10000 lines"):
        parser.feed(b"data: 1\n")
    answer = ChatAnswer(Heard())
    with pytest.raises(ModelError, match="violates its protocol"):
        answer.feed(b"null\n" * 1_002)
    answer.feed(b"null\n" * 900)


def test_lists_of_models_and_exceptions_of_streams_have_the_same_limits() -> None:
    check_cost(b"[" + b"0," * (LISTED_VALUES - 2) + b"0]", "it", LISTED_VALUES)
    with pytest.raises(ModelError, match="list of models has more than 200000 values"):
        decoded_list(b"[" + b"0," * LISTED_VALUES + b"0]")
    with pytest.raises(ModelError, match="exception of the provider's stream has more than 50000 values"):
        AwsEventParser(1 << 20, 1 << 20).feed(exception("ThrottlingException", ["x"] * MAX_VALUES))  # type: ignore[arg-type]


def test_arguments_that_are_not_kept_are_not_compared_either() -> None:
    call = CallInProgress("c1", "add")
    numbers: Any = "[" + "0," * 200_000 + "0]"
    call.add(numbers)
    call.complete('{"a": 1}')
    assert call.text() == '{"a": 1}'
