"""How a model's output is parsed: arguments, ids, broken characters."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import ModelError
from perdure.llm.answers import Answer
from perdure.llm.calls_in_progress import CallInProgress
from perdure.llm.openai_chat_answer import ChatAnswer
from tests.unit.llm.talk import Heard


def arguments(written: str) -> Any:
    answer = Answer(Heard())
    call = CallInProgress("c", "f")
    call.arguments = [written]
    answer.calls.append(call)
    return answer.response("m", []).tool_calls[0].arguments


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("", {}),
        ("  \n", {}),
        ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ("[1, 2]", [1, 2]),
        ('"text"', "text"),
        ("{'a': 1}", "{'a': 1}"),
        ("half a\x00", "half a\ufffd"),
        ('["a\\u0000", {"k\\u0000": 1}, 2]', ["a\ufffd", {"k\ufffd": 1}, 2]),
        ('["a\\\\u0000"]', ["a\\u0000"]),
        ('{"n": 1e400}', '{"n": 1e400}'),
        ('{"n": %s}' % ("9" * 5000), '{"n": %s}' % ("9" * 5000)),
        ('"\\ud800"', "\ufffd"),
        ('["\\ud83d\\ude00", "\\\\ud800"]', ["\U0001f600", "\\ud800"]),
        ("null", {}),
    ],
)
def test_arguments_are_json_or_else_kept_as_text(written: str, kept: Any) -> None:
    assert arguments(written) == kept


@pytest.mark.parametrize("depth", [99, 101, 2_000, 100_000])
def test_arguments_nested_too_deeply_stay_text(depth: int) -> None:
    for before, after in (("[", "]"), ('{"a":', "}")):
        written = before * depth + "1" + after * depth
        assert isinstance(arguments(written), str) is (depth > 100)


def test_many_shallow_brackets_do_not_count_as_nesting() -> None:
    assert arguments("[" + ",".join(["{}"] * 500) + "]") == [{}] * 500


@given(st.text(max_size=40))
def test_any_arguments_can_be_stored(written: str) -> None:
    msgspec.json.encode(arguments(written))


def test_characters_split_between_events_are_replaced() -> None:
    heard = Heard()
    answer = ChatAnswer(heard)
    for half in (b"\xf0\x9f", b"\x98\x80"):
        answer.feed(b'{"choices": [{"delta": {"content": "' + half + b'"}}]}')
    assert set(heard.joined("text")) == {"\ufffd"}


def test_an_event_that_violates_the_protocol_costs_one_call() -> None:
    for payload in (
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"choices": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ):
        with pytest.raises(ModelError) as caught:
            ChatAnswer(Heard()).feed(payload)
        assert (caught.value.code, caught.value.transient) == ("provider_bad_response", False)
