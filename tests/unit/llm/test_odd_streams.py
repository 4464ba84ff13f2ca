"""What servers send is understood, whatever their way of speaking a protocol, or quoted in an error."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from perdure.domain.errors import ModelError
from perdure.domain.messages import Usage
from perdure.llm.answers import Answer
from perdure.llm.anthropic_answer import MessagesAnswer
from perdure.llm.driver import OnDelta
from perdure.llm.openai_chat_answer import ChatAnswer
from perdure.llm.openai_responses_answer import ResponsesAnswer
from tests.soak import amounts
from tests.unit.llm.odd_messages import STOP, begins, grows, messages, use
from tests.unit.llm.odd_streams import (
    END,
    A,
    B,
    Odd,
    added,
    call_item,
    chat,
    chunk,
    completed,
    event,
    finishes,
    function,
    meaning_of,
    piece,
    read,
    responses,
    said,
    sse,
)
from tests.unit.llm.talk import Heard

Make = Callable[[OnDelta], Answer]
CASES = [
    *(pytest.param(ChatAnswer, odd, id=f"chat: {odd.name}") for odd in chat()),
    *(pytest.param(ResponsesAnswer, odd, id=f"responses: {odd.name}") for odd in responses()),
    *(pytest.param(MessagesAnswer, odd, id=f"messages: {odd.name}") for odd in messages()),
]


@pytest.mark.parametrize("every", amounts(7, 1))
@pytest.mark.parametrize(("make", "odd"), CASES)
def test_a_stream_is_understood_however_it_is_spoken_and_cut(make: Make, odd: Odd, every: int) -> None:
    """The sample cuts in two at one place in seven, another one for each stream; the soak at all places."""
    size = len(odd.stream)
    whole = odd.stream.startswith(b"{")
    first = random.Random(odd.name).randrange(every)
    ways = [[odd.stream], *([odd.stream[:at], odd.stream[at:]] for at in range(first, size, every))]
    ways = [[odd.stream]] if whole else [*ways, [odd.stream[at : at + 1] for at in range(size)]]
    for pieces in ways:
        heard = Heard()
        answer = make(heard)
        if whole:
            answer.feed(odd.stream)
        response = read(answer, [] if whole else pieces)
        assert meaning_of(response, heard, odd.meaning.finish is not None) == odd.meaning


@pytest.mark.unmeasured  # the streams above measure the same code
@pytest.mark.parametrize(("make", "odd"), CASES)
def test_plain_pieces_mean_the_same_when_they_are_parsed_with_care(make: type[Answer], odd: Odd) -> None:
    careful = type("Careful", (make,), {"__slots__": (), "take_plain": lambda _self, _piece: False})
    chosen = random.Random(odd.name)
    events = [part for part in odd.stream.replace(b"\r", b"\n").split(b"\n\n") if part]
    for _ in range(20):
        stream = b"".join(b"%b\n\n" % part for part in [*events, *chosen.choices(events, k=2)])
        assert outcome(make, stream) == outcome(careful, stream)


def outcome(make: Make, stream: bytes) -> tuple[Any, list[tuple[str, str]]]:
    """The tool calls or the error, and the deltas."""
    heard = Heard()
    try:
        calls = read(make(heard), [stream]).tool_calls
    except ModelError as error:
        return str(error), heard.deltas
    return [(call.name, call.arguments) for call in calls], heard.deltas


@pytest.mark.parametrize(("word", "reason"), finishes())
def test_reasons_to_stop_have_one_name_each(word: str, reason: str) -> None:
    answered = read(ChatAnswer(Heard()), [sse(chunk({"content": "a"}), chunk({}, word))])
    assert answered.finish_reason == reason
    stop = {"type": "message_delta", "delta": {"stop_reason": word}}
    assert read(MessagesAnswer(Heard()), [sse(grows(0, text="a"), stop)]).finish_reason == reason
    if reason != "stop":
        details = {"incomplete_details": {"reason": word}, "status": "incomplete"}
        answered = read(ResponsesAnswer(Heard()), [sse(said("a"), completed(**details))])
        assert answered.finish_reason == reason


def test_an_argument_that_never_came_is_not_taken_for_none() -> None:
    cut = [piece(index=0, id="a", function=function("weather", "")), chunk({}, "length")]
    assert read(ChatAnswer(Heard()), [sse(*cut)]).tool_calls[0].arguments == ""
    item = [added(call_item()), completed(status="incomplete")]
    assert read(ResponsesAnswer(Heard()), [sse(*item)]).tool_calls[0].arguments == ""
    block = [begins(0, use()), {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}}]
    assert read(MessagesAnswer(Heard()), [sse(*block)]).tool_calls[0].arguments == ""
    whole = [piece(index=0, id="a", function=function("weather", A + B)), chunk({}, "length")]
    assert read(ChatAnswer(Heard()), [sse(*whole)]).tool_calls[0].arguments == {"city": "Rome"}


# --- usage ---------------------------------------------------------------------

PLAIN = {"prompt_tokens": 5, "completion_tokens": 2}
LATE = {"choices": []}


@pytest.mark.parametrize(
    "events",
    [
        [chunk({}, "stop", usage=PLAIN), {**LATE, "usage": {"prompt_tokens": 0, "completion_tokens": 0}}],
        [END, {**LATE, "usage": {"prompt_tokens": 5.0, "completion_tokens": "2"}}],
        [END, {**LATE, "usage": {"prompt_tokens": 5}}, {**LATE, "usage": {"completion_tokens": 2}}],
        [END, {**LATE, "usage": PLAIN}, {**LATE, "usage": None}],
        [END, "[DONE]", {**LATE, "usage": PLAIN}],
        [END, {"choices": None, "usage": PLAIN}],
        [{"choices": [{"delta": {}, "finish_reason": "stop", "usage": PLAIN}]}],
        [chunk({}, "stop", x_groq={"usage": PLAIN})],
        [END, {"usage": {"input_tokens": 5, "output_tokens": 2}}],
        [chunk({}, usage={"prompt_tokens": 5, "completion_tokens": 1}), chunk({}, "stop", usage=PLAIN)],
    ],
)
def test_usage_is_read_wherever_it_comes(events: list[Any]) -> None:
    response = read(ChatAnswer(Heard()), [sse(chunk({"content": "a"}), *events)])
    assert response.usage == Usage(5, 2)


def test_usage_of_the_other_protocols_may_be_zero_or_a_float() -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 5.0, "output_tokens": 1}}}
    ends = [{"type": "message_delta", "usage": {"input_tokens": 0, "output_tokens": each}} for each in (2, 0)]
    response = read(MessagesAnswer(Heard()), [sse(start, grows(0, text="a"), *ends, *STOP)])
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (5, 2)
    counts: Any = {"input_tokens": 5.0, "output_tokens": "2"}
    early = event("in_progress", response={"usage": counts})
    zero = {"input_tokens": 0, "output_tokens": 0}
    for events in ([completed(usage=counts)], [early, completed(usage=zero)], [early, completed(usage=None)]):
        assert read(ResponsesAnswer(Heard()), [sse(said("a"), *events)]).usage == Usage(5, 2)


# --- errors --------------------------------------------------------------------

WHY = "this is why"
ERRORS: list[tuple[str, bytes]] = [
    ("text", sse({"error": WHY})),
    ("an object", sse({"error": {"message": WHY}})),
    ("an object in an object", sse({"error": {"error": {"message": WHY}}})),
    ("a list", sse({"errors": [{"message": WHY}]})),
    ("beside empty choices", sse({"choices": [], "error": {"code": 500, "message": WHY}})),
    ("of type error", sse({"type": "error", "message": WHY})),
    ("of another type", sse({"type": "server_error", "message": WHY})),
    ("object error", sse({"object": "error", "message": WHY, "code": 500})),
    ("status error", sse({"status": "error", "message": WHY})),
    ("detail", sse({"detail": WHY})),
    ("a list of details", sse({"detail": [{"msg": WHY}]})),
    ("message and code", sse({"code": 500, "message": WHY})),
    ("error_msg", sse({"error_code": 336, "error_msg": WHY})),
    ("base_resp", sse({"base_resp": {"status_code": 1004, "status_msg": WHY}})),
    ("an event of that name", b"event: error\n" + sse({"message": WHY})),
    ("an event of that name with words", b"event: error\n" + sse(WHY)),
    ("words", sse(f"Internal error: {WHY}")),
    ("a text in JSON", sse(json.dumps(f"Error: {WHY}"))),
    ("not JSON in the strict sense", b'data: {"error": {"message": "this is why", "x": NaN}}\n\n'),
    ("then the end", sse({"error": WHY}, "[DONE]")),
]  # fmt: skip
IN_CHOICES: list[Any] = [
    {"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 502, "message": WHY}}]},
    {"choices": [{"delta": {}, "code": 502, "message": WHY}]},
    {"choices": [{"delta": {"error": WHY}}]},
    {"choices": [{"error": WHY}]},
]


@pytest.mark.parametrize("make", [ChatAnswer, ResponsesAnswer, MessagesAnswer])
@pytest.mark.parametrize(("name", "stream"), ERRORS, ids=[name for name, _ in ERRORS])
def test_an_error_in_a_stream_is_an_error_in_any_shape(make: Make, name: str, stream: bytes) -> None:
    with pytest.raises(ModelError, match=WHY):
        read(make(Heard()), [stream])


@pytest.mark.parametrize("value", IN_CHOICES)
def test_an_error_may_be_inside_a_choice(value: Any) -> None:
    with pytest.raises(ModelError, match=WHY):
        read(ChatAnswer(Heard()), [sse(chunk({"content": "a"}), value)])


@pytest.mark.parametrize("word", ["error", "network_error", "insufficient_system_resource", "abort"])
def test_an_answer_that_ends_with_an_error_may_be_asked_for_again(word: str) -> None:
    with pytest.raises(ModelError) as caught:
        read(ChatAnswer(Heard()), [sse(chunk({"content": "a"}), chunk({}, word))])
    assert caught.value.transient


@pytest.mark.parametrize("make", [ChatAnswer, ResponsesAnswer, MessagesAnswer])
@pytest.mark.parametrize("payload", ['{"choices": [{"delta"', "[1, 2]", "17", "one two three", '"a text"'])
def test_what_is_no_event_is_quoted_and_not_asked_for_again(make: Make, payload: str) -> None:
    with pytest.raises(ModelError) as caught:
        make(Heard()).feed(payload.encode())
    assert payload in caught.value.message
    assert (caught.value.code, caught.value.transient) == ("provider_bad_response", False)


@pytest.mark.parametrize("make", [ChatAnswer, ResponsesAnswer, MessagesAnswer])
def test_any_values_in_any_field_are_no_crash(make: Make) -> None:
    odd: list[Any] = [None, True, 7, 1.5, "x", "", [], [None], [[1]], {}, {"x": 1}, {"type": 3}]
    fields = [
        "type",
        "choices",
        "delta",
        "item",
        "item_id",
        "output_index",
        "summary_index",
        "content_index",
        "response",
        "error",
        "index",
        "content_block",
        "message",
        "usage",
        "stop_reason",
        "id",
        "model",
        "arguments",
        "text",
        "part",
        "name",
    ]
    kinds = [
        "content_block_start",
        "content_block_delta",
        "message_start",
        "message_delta",
        "response.completed",
        "response.output_item.added",
        "response.output_item.done",
        "response.output_text.delta",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_text.done",
        "response.content_part.done",
    ]
    for value in odd:
        for kind in kinds:
            answer = make(Heard())
            call = {"name": value, "arguments": value}
            try:
                for odd_event in (
                    dict.fromkeys(fields, value) | {"type": kind},
                    dict.fromkeys(fields, value),
                    chunk(value, value),
                    chunk(dict.fromkeys(("content", "tool_calls", "function_call"), value)),
                    chunk({"tool_calls": [value, {"id": value, "function": call, "index": value}]}),
                ):
                    answer.feed(json.dumps(odd_event).encode())
            except ModelError:
                pass


def test_many_pieces_of_many_calls_take_linear_time() -> None:
    answer = ChatAnswer(Heard())
    for number in range(5_000):
        answer.feed(sse(piece(index=number, id=f"c{number}", function=function("weather", A)))[6:])
        answer.feed(sse(piece(index=number, function=function(None, B)))[6:])
    answer.feed(sse(END)[6:])
    assert len(read(answer, []).tool_calls) == 5_000


VALUES: list[Any] = [
    None, True, 0, -1, 1.5, float("nan"), 10**30, "", "x", "\ud83d", "[DONE]",
    [], [None], [[[[]]]], {}, {"a": {}},
]  # fmt: skip


def changed(value: Any, rng: random.Random) -> Any:
    """Drop fields of a value and replace others, at random."""
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if rng.random() > 0.06}
        return {
            key: rng.choice(VALUES) if rng.random() < 0.08 else changed(inner, rng)
            for key, inner in kept.items()
        }
    return [changed(inner, rng) for inner in value] if isinstance(value, list) else value


@pytest.mark.unmeasured  # the streams above measure the same code
@pytest.mark.parametrize(("make", "odd"), CASES)
def test_a_stream_that_is_changed_at_random_is_understood_or_refused(make: Make, odd: Odd) -> None:
    rng = random.Random(odd.name)
    lines = odd.stream.decode().replace("\r", "\n").split("\n")
    payloads = [line[5:].strip() for line in lines if line.startswith("data:")]
    for _ in range(20):
        answer = make(Heard())
        with contextlib.suppress(ModelError):
            for original in payloads:
                payload = original
                with contextlib.suppress(ValueError):
                    payload = json.dumps(changed(json.loads(original), rng))
                cut = len(payload) if rng.random() < 0.97 else rng.randrange(len(payload) + 1)
                answer.feed(payload[:cut].encode(), rng.choice(["message"] * 9 + ["error"]))
            msgspec.json.encode(read(answer, []))
