"""What a model wrote is cut at one place, before it enters the log."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from perdure.domain.ids import ToolCallId
from perdure.domain.messages import MAX_TEXT, ToolCallPart, Usage
from perdure.domain.redaction import Redactor
from perdure.domain.repair import repair_arguments
from perdure.domain.tool_arguments import ArgumentsBudget, why_not_an_object
from perdure.domain.tools import question_id
from perdure.engine.answer_limits import (
    MAX_ARGUMENTS,
    MAX_COUNT,
    MAX_ID,
    MAX_LABEL,
    MAX_NAME,
    MAX_REASONING,
    MAX_SIGNATURE,
    storable_response,
)
from perdure.llm.driver import ModelResponse

PLAIN = ModelResponse("ok", (ToolCallPart("call_1", "look", {"a": 1}),), "hm", "sig", ({"type": "x"},))
NO_SECRETS = Redactor({})


def limited(redactor: Redactor = NO_SECRETS, **fields: Any) -> ModelResponse:
    return storable_response(replace(PLAIN, **fields), redactor)


def test_an_answer_within_the_limits_is_unchanged() -> None:
    assert storable_response(PLAIN, NO_SECRETS) == PLAIN
    assert limited(text="x" * MAX_TEXT).text == "x" * MAX_TEXT


def test_no_call_has_the_id_of_a_question_about_another_one() -> None:
    ids = ("x", "approve_x", "approve_approve_x", "approve_", "approved", "Approve_x")
    calls = limited(tool_calls=tuple(ToolCallPart(ToolCallId(each), "look", {}) for each in ids)).tool_calls
    assert [call.id for call in calls if call.id in ids] == ["x", "approved", "Approve_x"]
    assert len({call.id for call in calls}) == len(ids)
    assert not {question_id(call.id) for call in calls} & {call.id for call in calls}


@pytest.mark.parametrize("field", ["text", "thinking"])
def test_a_longer_text_ends_with_a_mark(field: str) -> None:
    for length in (MAX_TEXT + 1, 3 * MAX_TEXT):
        text = getattr(limited(**{field: "x" * length}), field)
        assert len(text) == MAX_TEXT
        assert text.endswith("xxx\n[... cut after 1000000 characters]")


def test_a_secret_at_the_cut_does_not_stay_in_halves() -> None:
    secret = "correct-horse-battery-staple"
    text = "x" * (MAX_TEXT - 60) + secret * 100
    cut = limited(Redactor({"KEY": secret}), text=text).text
    assert len(cut) <= MAX_TEXT
    assert "correct" not in cut


def test_arguments_that_are_too_long_are_left_out_and_never_cut() -> None:
    long = "x" * MAX_ARGUMENTS
    calls = (
        ToolCallPart("call_1", "write", {"content": long}),
        ToolCallPart("call_2", "look", {"a": 1}),
        ToolCallPart("call_3", "write", '{"content": "' + long),
        ToolCallPart("call_4", "write", {"content": "y" * (MAX_ARGUMENTS - 100)}),
        ToolCallPart("call_5", "write", {"content": "y" * 200}),
    )
    first, second, third, fourth, fifth = (call.arguments for call in limited(tool_calls=calls).tool_calls)
    assert second == {"a": 1}
    assert fourth == calls[3].arguments
    for left_out in (first, third, fifth):
        assert isinstance(left_out, str)
        assert "too long" in why_not_an_object(left_out)
        assert repair_arguments(left_out) is None
    assert why_not_an_object("{") == "The arguments are not valid JSON."


COSTLY = {
    "numbers near the largest": '{"a": [' + ", ".join(["9e307"] * 1_100) + "]}",
    "numbers near the smallest": '{"a": [' + ",".join(["-4.9E-324"] * 1_100) + "]}",
    "integers without end": '{"a": [' + ",".join(["1" + "0" * 290] * 1_100) + "]}",
    "numbers as members": "{" + ",".join(f'"a{i}":1e308' for i in range(1_100)) + "}",
    "very many values": '{"a": [' + ",".join(["[]"] * 100_002) + "]}",
    "after a string": '{"s": "' + "x" * 5_000 + '\\"", "a": [' + ",".join(["2e308"] * 1_100) + "]}",
    "no valid JSON": "{'a': [" + ",".join(["9e307"] * 1_100) + "],}",
    "four million characters": '{"s": "' + "x" * 4_000_000 + '"}',
}


@pytest.mark.parametrize("name", COSTLY)
def test_arguments_that_cost_too_much_to_decode_never_are(name: str) -> None:
    refusal = ArgumentsBudget().refusal(COSTLY[name])
    assert refusal is not None
    assert "too costly" in why_not_an_object(refusal)
    assert repair_arguments(refusal) is None


def test_long_arguments_that_cost_little_are_decoded() -> None:
    budget = ArgumentsBudget()
    prose = msgspec.json.encode({"content": '1e300, "9e307", \\' * 50_000}).decode()
    table = msgspec.json.encode({"rows": [[i, i / 7, str(i)] for i in range(5_000)]}).decode()
    for text in ("{}", prose, table, prose, '{"limit": 1.7976931348623157e308}'):
        assert budget.refusal(text) is None


def test_the_calls_of_an_answer_share_what_they_may_cost() -> None:
    budget, text = ArgumentsBudget(), '{"a": [' + ",".join(["9e307"] * 600) + "]}"
    assert budget.refusal(text) is None
    assert budget.refusal(text) is not None


def test_arguments_that_json_cannot_represent_become_text() -> None:
    (call,) = limited(tool_calls=(ToolCallPart("call_1", "look", {"n": "\ud800"}),)).tool_calls
    assert isinstance(call.arguments, str)
    assert msgspec.json.encode(call)


def test_ids_names_and_labels_are_short_and_ids_stay_distinct() -> None:
    calls = tuple(ToolCallPart("i" * 5_000 + str(number), "n" * 5_000, {}) for number in range(2))
    response = limited(tool_calls=calls, finish_reason="f" * 500, response_id="r" * 500, model="m" * 500)
    ids = {call.id for call in response.tool_calls}
    assert len(ids) == 2
    assert max(map(len, ids)) <= MAX_ID
    assert {len(call.name) for call in response.tool_calls} == {MAX_NAME}
    assert {len(response.finish_reason), len(response.response_id or ""), len(response.model or "")} == {
        MAX_LABEL
    }


def test_reasoning_that_is_too_long_is_dropped_because_it_must_not_change() -> None:
    response = limited(
        thinking_signature="s" * (MAX_SIGNATURE + 1), reasoning_items=({"data": "x" * MAX_REASONING},)
    )
    assert (response.thinking_signature, response.reasoning_items) == (None, ())


def test_counts_stay_within_what_json_readers_represent_exactly() -> None:
    huge = 1 << 80
    assert limited(usage=Usage(huge, huge, huge)).usage == Usage(MAX_COUNT, MAX_COUNT, MAX_COUNT)
    assert limited(usage=Usage(1, 2, 3, 4)).usage == Usage(1, 2, 3, 4)
