"""Typed results: what followers see of one while it arrives, and the text that becomes the answer."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.domain.ids import ToolCallId
from perdure.domain.messages import ToolCallPart
from perdure.engine.output_formats import OutputFormats, TypedOutput
from perdure.engine.outputs import MAX_HELD, LiveAnswer, as_answer
from perdure.llm.driver import DeltaKind, ModelResponse
from perdure.store.bus import Live, LocalBus
from tests.unit.live import SESSION, live_text


class Follower:
    """What somebody sees of an answer: the text so far, of each kind."""

    def __init__(self, *, wrapped: bool) -> None:
        self.bus = LocalBus()
        self.subscription = self.bus.subscribe(SESSION)
        self.live = live_text(self.bus)
        self.answer = LiveAnswer(self.live, wrapped=wrapped)

    def sees(self, *pieces: tuple[DeltaKind, str]) -> dict[str, str]:
        for kind, text in pieces:
            self.answer.add(kind, text)
            self.live.flush()
        self.live.finish()
        signals, _ = self.subscription.drain()
        return {signal.kind: signal.accumulated for signal in signals if isinstance(signal, Live)}


async def text_seen(*pieces: str, wrapped: bool = True, kind: DeltaKind = "text") -> str | None:
    return Follower(wrapped=wrapped).sees(*((kind, piece) for piece in pieces)).get("text")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (('{"value": [1,', " 2]}"), "[1, 2]"),
        (("{", '"val', 'ue"', " : ", '"a}"', "}"), '"a}"'),
        ((" \n{ ", '"value":7', "}\n"), "7"),
        (('{"value":{"a":{}}}',), '{"a":{}}'),
        (('{"values": 1}',), '{"values": 1}'),
        (("Fine.", " And more."), "Fine. And more."),
    ],
)
async def test_a_wrapper_is_not_shown_however_it_is_cut(pieces: tuple[str, ...], expected: str) -> None:
    assert await text_seen(*pieces) == expected
    assert await text_seen(*"".join(pieces)) == expected
    assert await text_seen(*pieces, kind="result") == expected


async def test_an_answer_without_a_wrapper_is_shown_as_it_is() -> None:
    assert await text_seen('{"val', 'ue": 1}', wrapped=False) == '{"value": 1}'


async def test_white_space_is_held_back_only_up_to_a_bound() -> None:
    assert await text_seen(" " * 10) is None
    assert await text_seen(" " * MAX_HELD, "x") == f"{' ' * MAX_HELD}x"
    padded = f'{{"value": 1{" " * (MAX_HELD + 1)}'
    assert await text_seen(padded) == padded.removeprefix('{"value": ')


async def test_the_call_of_the_result_tool_takes_the_place_of_what_was_written_before_it() -> None:
    pieces: tuple[tuple[DeltaKind, str], ...] = (
        ("thinking", "Hm."),
        ("text", "I shall answer."),
        ("result", '{"value": 4'),
        ("text", "Beside it."),
        ("result", "2}"),
    )
    assert Follower(wrapped=True).sees(*pieces) == {"thinking": "Hm.", "text": "42"}


async def test_the_next_attempt_begins_anew() -> None:
    follower = Follower(wrapped=True)
    assert follower.sees(("result", '{"value": 1')) == {"text": "1"}
    for again in ('{"value": 2}', "Two.", '{"value": 2}'):
        follower.answer.restart()
        follower.live.restart()
        assert follower.sees(("text", again)) == {"text": "Two." if again == "Two." else "2"}


# --- the whole answer ----------------------------------------------------------

OBJECT: TypedOutput = OutputFormats().typed({"type": "object"}, ())
LIST: TypedOutput = OutputFormats().typed({"type": "array"}, ())


def called(*names: str, arguments: Any = None) -> tuple[ToolCallPart, ...]:
    given = {"a": 1} if arguments is None else arguments
    return tuple(ToolCallPart(ToolCallId(f"c{n}"), name, given) for n, name in enumerate(names))


RESULT = OBJECT.form.tool.name


def test_the_call_of_the_result_tool_becomes_the_text() -> None:
    response = ModelResponse(
        "Here:",
        tool_calls=called(RESULT),
        reasoning_items=({"type": "x"},),
        thinking_signature="s",
        finish_reason="tool_calls",
    )
    assert as_answer(response, OBJECT) == ModelResponse('{"a":1}', finish_reason="stop")
    misspelt = ModelResponse("", tool_calls=called(RESULT.upper().replace("_", "-")))
    assert as_answer(misspelt, OBJECT).text == '{"a":1}'


def test_an_answer_beside_other_calls_is_too_early() -> None:
    response = ModelResponse("Wait.", tool_calls=called("look", RESULT), thinking_signature="s")
    found = as_answer(response, OBJECT)
    assert [call.name for call in found.tool_calls] == ["look"]
    assert (found.text, found.thinking_signature) == ("Wait.", None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [('{"a": [1', '{"a": [1'), ("", "{"), ({"a": "\ud800"}, "{}")],
)
def test_arguments_that_are_cut_or_no_json_become_a_text_that_is_judged(arguments: Any, text: str) -> None:
    response = ModelResponse("", tool_calls=called(RESULT, arguments=arguments), finish_reason="length")
    found = as_answer(response, OBJECT)
    assert found.text == text
    assert found.finish_reason == "length"


@pytest.mark.parametrize(
    ("output", "written", "text"),
    [
        (OBJECT, '{"a": 1}', '{"a": 1}'),
        (OBJECT, '```json\n{"a": 1}\n```', '{"a": 1}'),
        (OBJECT, "```\nno json\n```", "```\nno json\n```"),
        (LIST, '{"value": [1, 2]}', "[1,2]"),
        (LIST, '```\n{"value": []}\n```', "[]"),
        (LIST, "[1, 2]", "[1, 2]"),
        (LIST, "```\n[1, 2]\n```", "[1, 2]"),
        (LIST, '{"value": 1, "more": 2}', '{"value": 1, "more": 2}'),
        (LIST, "Hello.", "Hello."),
    ],
)
def test_a_fence_and_the_wrapper_are_taken_away(output: TypedOutput, written: str, text: str) -> None:
    assert as_answer(ModelResponse(written), output).text == text
