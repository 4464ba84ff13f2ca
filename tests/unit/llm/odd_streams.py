"""Streams of servers that speak a protocol in their own way, and what they mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from perdure.domain.sse import SseParser
from perdure.llm.answers import Answer
from perdure.llm.anthropic_answer import MessagesAnswer
from perdure.llm.driver import ModelResponse
from perdure.llm.openai_chat_answer import ChatAnswer
from perdure.llm.openai_responses_answer import ResponsesAnswer
from tests.unit.llm.talk import Heard, ask, user

Json = dict[str, Any]


class Meaning(Struct, frozen=True):
    """What is understood: the text, the tool calls as (name, arguments), the thinking, the finish reason."""

    text: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    thinking: str | None = None
    finish: str | None = None


class Odd(Struct, frozen=True):
    """A stream, and its meaning."""

    name: str
    stream: bytes
    meaning: Meaning


def sse(*values: Any) -> bytes:
    """Frame events; a str is sent as it is."""
    return b"".join(
        f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode() for value in values
    )


def read(answer: Answer, pieces: Sequence[bytes]) -> ModelResponse:
    """Feed network pieces as the HTTP client does."""
    parser = SseParser()
    for piece in pieces:
        for frame in parser.feed(piece):
            answer.feed(frame.data, frame.event)
    for frame in parser.flush():
        answer.feed(frame.data, frame.event)
    assert isinstance(answer, ChatAnswer | ResponsesAnswer | MessagesAnswer)
    return answer.finished(ask(user("Hi")))


def meaning_of(response: ModelResponse, heard: Heard, finish: bool) -> Meaning:
    """Return what a response means, and check that the deltas say the same."""
    assert heard.joined("text") == response.text
    assert heard.joined("thinking") == (response.thinking or "")
    return Meaning(
        response.text,
        tuple((call.name, call.arguments) for call in response.tool_calls),
        response.thinking,
        response.finish_reason if finish else None,
    )


# --- Chat Completions ----------------------------------------------------------


def chunk(delta: Any = None, finish: Any = None, **more: Any) -> Json:
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def piece(**call: Any) -> Json:
    return chunk({"tool_calls": [call]})


def function(name: str | None = None, arguments: Any = None) -> Json:
    return {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}


END, TOOLS = chunk({}, "stop"), chunk({}, "tool_calls")
ROME, OSLO = ("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"})
UTC = ("clock", {"zone": "UTC"})
A, B = '{"city":', '"Rome"}'
C, D = '{"zone":', '"UTC"}'
HELLO = Meaning("Hello")


def whole(message: Json, finish: Any = "stop") -> Json:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion", "choices": [choice]}


CALLS = [
    ("one index", [
        piece(index=0, id="a", function=function("weather", "")), piece(index=0, function=function(None, A)),
        piece(index=0, function=function(None, B))], (ROME,)),
    ("no index, the id in every piece", [
        piece(id="a", function=function("weather", "")), piece(id="a", function=function(None, A)),
        piece(id="a", function=function(None, B))], (ROME,)),
    ("no index, the id and the name in every piece", [
        piece(id="a", function=function("weather", A)), piece(id="a", function=function("weather", B))],
        (ROME,)),
    ("no index, pieces of two calls in turn", [
        piece(id="a", function=function("weather", A)), piece(id="b", function=function("clock", C)),
        piece(id="a", function=function(None, B)), piece(id="b", function=function(None, D))], (ROME, UTC)),
    ("pieces of two calls in turn", [
        piece(index=0, id="a", function=function("weather", A)),
        piece(index=1, id="b", function=function("clock", C)),
        piece(index=0, function=function(None, B)), piece(index=1, function=function(None, D))], (ROME, UTC)),
    ("the second call first", [
        piece(index=1, id="b", function=function("clock", C + D)),
        piece(index=0, id="a", function=function("weather", A + B))], (ROME, UTC)),
    ("index 0 for all, told apart by ids", [
        piece(index=0, id="a", function=function("weather", A)),
        piece(index=0, id="b", function=function("clock", C)),
        piece(index=0, id="a", function=function(None, B)),
        piece(index=0, id="b", function=function(None, D))], (ROME, UTC)),
    ("index 0 for all, no ids", [
        piece(index=0, function=function("weather", A)), piece(index=0, function=function(None, B)),
        piece(index=0, function=function("clock", C + D))], (ROME, UTC)),
    ("index 0 for all, no ids, the same tool", [
        piece(index=0, function=function("weather", A + B)),
        piece(index=0, function=function("weather", '{"city":"Oslo"}'))], (ROME, OSLO)),
    ("no index and no ids, whole calls", [
        piece(function=function("weather", {"city": "Rome"})),
        piece(function=function("weather", {"city": "Oslo"}))], (ROME, OSLO)),
    ("no index and no ids, calls without arguments", [
        piece(function=function("clock", "")), piece(function=function("weather", "")),
        piece(function=function(None, A + B))], (("clock", {}), ROME)),
    ("an id of its own for every piece", [
        piece(index=0, id="x1", function=function("weather", A)),
        piece(index=0, id="x2", function=function(None, B))], (ROME,)),
    ("an id of its own for every piece, the name too", [
        piece(index=0, id="x1", function=function("weather", A)),
        piece(index=0, id="x2", function=function("weather", B))], (ROME,)),
    ("an index for the head only", [
        piece(index=0, id="a", function=function("weather", A)), piece(function=function(None, B))], (ROME,)),
    ("an index for the rest only", [
        piece(id="a", function=function("weather", A)), piece(index=0, function=function(None, B))], (ROME,)),
    ("arguments before the name", [
        piece(index=0, function=function(None, A)), piece(index=0, id="a", function=function("weather", B))],
        (ROME,)),
    ("the id in a piece of its own", [
        piece(index=0, id="a"), piece(index=0, function=function("weather")),
        piece(index=0, function=function(None, A + B))], (ROME,)),
    ("the name in pieces", [
        piece(index=0, id="a", function=function("wea")), piece(index=0, function=function("ther")),
        piece(index=0, function=function(None, A + B))], (ROME,)),
    ("the same call twice", [
        piece(index=0, id="a", function=function("weather", A + B)),
        piece(index=0, id="a", function=function("weather", A + B))], (ROME,)),
    ("arguments repeated so far", [
        piece(index=0, id="a", function=function("weather", A)),
        piece(index=0, id="a", function=function("weather", A + B))], (ROME,)),
    ("arguments as an object", [
        piece(index=0, id="a", function=function("weather", {"city": "Rome"}))], (ROME,)),
    ("arguments null", [piece(index=0, id="a", function={"name": "clock", "arguments": None})],
        (("clock", {}),)),
    ("arguments `null`", [piece(index=0, id="a", function=function("clock", "null"))], (("clock", {}),)),
    ("a call and not a list", [chunk({"tool_calls": {"index": 0, "id": "a", "function": function(*ROME)}})],
        (ROME,)),
    ("no `function` around it", [piece(index=0, id="a", name="weather", arguments=A + B)], (ROME,)),
    ("null in the list", [
        chunk({"tool_calls": [None, {"index": 0, "id": "a", "function": function(*ROME)}]})], (ROME,)),
    ("an empty call in the list", [
        chunk({"tool_calls": [{}, {"index": 0, "id": "a", "function": function(*ROME)}]})], (ROME,)),
    ("index in quotes, id a number", [piece(index="0", id=7, function=function("weather", A)),
        piece(index="0", id=7, function=function(None, B))], (ROME,)),
    ("index a float", [piece(index=0.0, id="a", function=function("weather", A)),
        piece(index=0, function=function(None, B))], (ROME,)),
    ("repeated ids", [piece(index=0, id="a", function=function("weather", A + B)),
        piece(index=1, id="a", function=function("clock", C + D))], (ROME, UTC)),
    ("the older function_call", [
        chunk({"function_call": function("weather", A)}), chunk({"function_call": function(None, B)})],
        (ROME,)),
    ("calls by their numbers", [
        chunk({"tool_calls": {"0": {"id": "a", "function": function("weather", A + B)}}})], (ROME,)),
    ("arguments as `parameters`", [
        piece(index=0, id="a", function={"name": "weather", "parameters": {"city": "Rome"}})], (ROME,)),
    ("arguments as `input`", [
        piece(index=0, id="a", function={"name": "weather", "input": {"city": "Rome"}})], (ROME,)),
    ("no arguments as an empty list", [piece(index=0, id="a", function=function("clock", "[]"))],
        (("clock", {}),)),
    ("a byte order mark before the arguments", [
        piece(index=0, id="a", function=function("weather", "\ufeff" + A + B))], (ROME,)),
    ("blanks around the name", [piece(index=0, id="a", function=function(" weather\n", A + B))], (ROME,)),
    ("both forms of a call", [
        chunk({"tool_calls": [{"index": 0, "id": "a", "function": function("weather", A + B)}],
               "function_call": function("weather", A + B)})], (ROME,)),
    ("the list of calls as a text", [
        chunk({"tool_calls": json.dumps([{"index": 0, "id": "a", "function": function(*ROME)}])})], (ROME,)),
    ("a call as a text", [
        chunk({"tool_calls": [json.dumps({"index": 0, "id": "a", "function": function(*ROME)})]})], (ROME,)),
    ("the function as a text", [
        piece(index=0, id="a", function=json.dumps(function("weather", A + B)))], (ROME,)),
    ("a message that repeats the calls", [
        piece(index=0, id="a", function=function("weather", A + B)),
        whole({"content": None, "tool_calls": [{"id": "a", "function": function("weather", A + B)}]})],
        (ROME,)),
]  # fmt: skip

HALVES = rb'data: {"choices":[{"index":0,"delta":{"content":"Hi \ud83d"}}]}' + b"\n\n"
OTHERS = [
    ("message", [whole({"role": "assistant", "content": "Hello"})], HELLO),
    ("messages in pieces", [whole({"content": "Hel"}, None), whole({"content": "lo"})], HELLO),
    ("messages so far", [whole({"content": "Hel"}, None), whole({"content": "Hello"})], HELLO),
    ("a message that repeats the text", [chunk({"content": "Hello"}), whole({"content": "Hello"})], HELLO),
    ("a message that completes the text", [chunk({"content": "Hel"}), whole({"content": "Hello"})], HELLO),
    ("text", [{"choices": [{"index": 0, "text": "Hello", "finish_reason": "stop"}]}], HELLO),
    ("text in pieces", [{"choices": [{"text": "Hel"}]}, {"choices": [{"text": "lo"}]}, END], HELLO),
    ("the second choice", [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"},
        {"index": 1, "delta": {"content": "Hello"}}]}], HELLO),
    ("two choices", [{"choices": [{"index": 0, "delta": {"content": "Hello"}},
        {"index": 1, "delta": {"content": "Bye"}}]}, END], HELLO),
    ("a choice and not a list", [{"choices": {"delta": {"content": "Hello"}, "finish_reason": "stop"}}],
        HELLO),
    ("null in the choices", [{"choices": [None, {"delta": {"content": "Hello"}}]}, END], HELLO),
    ("the delta is text", [chunk("Hel"), chunk("lo"), END], HELLO),
    ("content is a list of parts", [chunk({"content": [{"type": "text", "text": "Hel"}, "lo"]}), END], HELLO),
    ("content is an object", [chunk({"content": {"text": "Hello"}}), END], HELLO),
    ("content is a number", [chunk({"content": 4}), chunk({"content": "2"}), END], Meaning("42")),
    ("no choices", [{"message": {"content": "Hel"}, "done": False}, {"message": {"content": "lo"}},
        {"message": {"content": ""}, "done": True, "done_reason": "stop"}], HELLO),
    ("reasoning", [chunk({"reasoning": "hm", "reasoning_content": "hm"}), chunk({"content": "Hello"}), END],
        Meaning("Hello", thinking="hm")),
    ("reasoning details", [chunk({"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}),
        chunk({"content": "Hello"}), END], Meaning("Hello", thinking="hm")),
    ("ids of other types", [{**chunk({"content": "Hello"}), "id": 7, "model": None, "created": "now"}, END],
        HELLO),
    ("finish_reason `null`", [chunk({"content": "Hel"}, "null"), chunk({"content": "lo"}, ""), END], HELLO),
    ("finish_reason is an object", [chunk({"content": "Hello"}), chunk({}, {"type": "stop"})], HELLO),
    ("no end mark", [chunk({"content": "Hello"}), END], HELLO),
    ("the finish reason in the delta", [chunk({"content": "Hello"}), chunk({"finish_reason": "stop"})],
        HELLO),
    ("the finish reason beside the choices", [chunk({"content": "Hello"}),
        {"choices": [], "finish_reason": "stop"}], HELLO),
    ("the finish reason beside the last piece", [chunk({"content": "Hello"}, finish_reason="stop")], HELLO),
    ("the finish reason in another spelling", [chunk({"content": "Hello"}),
        {"choices": [{"index": 0, "delta": {}, "finishReason": "STOP"}]}], HELLO),
    ("the finish reason of another protocol", [chunk({"content": "Hello"}),
        {"choices": [{"index": 0, "delta": {}, "stop_reason": "end_turn"}]}], HELLO),
    ("done", [chunk({"content": "Hello"}), {"done": True}], HELLO),
    ("an error that is none", [chunk({"content": "Hello"}, error={"code": 0, "message": ""}), END], HELLO),
    ("text in an object", [chunk({"content": [{"type": "text", "text": {"value": "Hello"}}]}), END], HELLO),
    ("a thought among the parts", [chunk({"content": [{"type": "reasoning", "text": "hm"}]}),
        chunk({"content": "Hello"}), END], Meaning("Hello", thinking="hm")),
    ("thinking blocks", [chunk({"thinking_blocks": [{"type": "thinking", "thinking": "hm"}]}),
        chunk({"content": "Hello"}), END], Meaning("Hello", thinking="hm")),
    ("the end mark twice", [chunk({"content": "Hello"}), END, "[DONE]", "[DONE]"], HELLO),
    ("the end mark first", ["[DONE]", chunk({"content": "Hello"}), END], HELLO),
    ("the end mark in the middle", [chunk({"content": "Hel"}), "[DONE]", chunk({"content": "lo"}), END],
        HELLO),
    ("no finish reason", [chunk({"content": "Hello"}), "[DONE]"], HELLO),
    ("the end mark in quotes", [chunk({"content": "Hello"}), '"[DONE]"'], HELLO),
    ("signs of life", ["ping", "null", chunk({"content": "Hello"}), "keep-alive", END], HELLO),
    ("framed twice", ["data: " + json.dumps(chunk({"content": "Hello"})), END], HELLO),
    ("an error after the end", [chunk({"content": "Hello"}, "stop"), "[DONE]"], HELLO),
]  # fmt: skip


def chat() -> list[Odd]:
    odd = [Odd(name, sse(*values, TOOLS, "[DONE]"), Meaning(calls=calls)) for name, values, calls in CALLS]
    odd += [Odd(name, sse(*values), meaning) for name, values, meaning in OTHERS]
    nan = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":NaN,"x":-Infinity}]}\n\n'
    second = HALVES.replace(rb"Hi \ud83d", rb"\ude00!")
    thought = HALVES.replace(b"content", b"reasoning_content")
    lone = HALVES.replace(rb"\ud83d", rb"\ud83d there")
    hand, over = (
        sse(piece(index=0, id="a", function=function("weather", text)))
        for text in ('{"city":"\ud83d', '\ude00"}')
    )
    escaped = sse(
        piece(index=0, id="a", function=function("weather", '{"city":"\\ud83d","x":"\\ud83d\\ude00"}'))
    )
    return [
        *odd,
        Odd("NaN", nan + sse(END), HELLO),
        Odd("a character in two halves", HALVES + second + sse(END), Meaning("Hi 😀!")),
        Odd("a thought's character in two halves", thought + second.replace(b"content", b"reasoning_content")
            + sse(chunk({"content": "ok"}), END), Meaning("ok", thinking="Hi 😀!")),
        Odd("half a character", lone + sse(END), Meaning("Hi \ufffd there")),
        Odd("an event that is named like an end mark",
            sse(chunk({"content": "Hello"})) + b"event: done\ndata: {}\n\n", HELLO),
        Odd("half a character at the end", HALVES + sse(END), Meaning("Hi \ufffd")),
        Odd("an argument's character in two halves", hand + over + sse(TOOLS),
            Meaning(calls=(("weather", {"city": "😀"}),))),
        Odd("half a character in an argument", escaped + sse(TOOLS),
            Meaning(calls=(("weather", {"city": "\ufffd", "x": "😀"}),))),
        Odd("one line feed between events", b"data: " + b"\ndata: ".join(
            json.dumps(value).encode() for value in (chunk({"content": "Hel"}), chunk({"content": "lo"}),
            END))
            + b"\ndata: [DONE]\n\n", HELLO),
        Odd("empty data",
            b"data:\n\ndata: \n\n" + sse(chunk({"content": "Hello"})) + b"data\n\n" + sse(END), HELLO),
        Odd("no space, comments, other fields", b": hi\n\nretry: 5\nid: 1\n\n" + sse(
            chunk({"content": "Hello"}), END).replace(b"data: ", b": note\nevent: x\ndata:"), HELLO),
        Odd("several lines", b"data: {\ndata:  " + json.dumps(chunk({"content": "Hello"})).encode()[1:]
            + b"\n\n" + sse(END), HELLO),
        Odd("no final blank line", sse(chunk({"content": "Hello"}), END)[:-2], HELLO),
        Odd("a byte order mark and CRLF", b"\xef\xbb\xbf" + sse(chunk({"content": "Hello"}), END).replace(
            b"\n", b"\r\n"), HELLO),
        Odd("CR", sse(chunk({"content": "Hello"}), END).replace(b"\n", b"\r"), HELLO),
    ]  # fmt: skip


def finishes() -> list[tuple[str, str]]:
    """Words for the reason why a model stopped, and ours."""
    words = {
        "stop": "stop STOP end_turn endTurn eos complete",
        "tool_calls": "tool_use toolUse tool-calls",
        "length": "length max_tokens maxTokens MAX_TOKENS model_length max_output_tokens incomplete",
        "content_filter": "content_filter content-filter refusal SAFETY RECITATION PROHIBITED_CONTENT",
        "own_word": "own_word",
    }
    return [(word, reason) for reason, several in words.items() for word in several.split()]


# --- Responses -----------------------------------------------------------------

RESPONSE = {"id": "r", "status": "completed"}


def event(kind: str, **fields: Any) -> Json:
    return {"type": f"response.{kind}", **fields}


def completed(*output: Json, **more: Any) -> Json:
    return event("completed", response={**RESPONSE, **({"output": list(output)} if output else {}), **more})


def call_item(number: int = 0, arguments: Any = "", name: str = "weather", **more: Any) -> Json:
    ids = {"id": f"fc{number}", "call_id": f"call{number}"}
    return {"type": "function_call", **ids, "name": name, "arguments": arguments, **more}


def message_item(*texts: str, number: int = 9) -> Json:
    parts = [{"type": "output_text", "text": text} for text in texts]
    return {"type": "message", "id": f"m{number}", "role": "assistant", "content": parts}


def added(item: Json, index: int | None = 0) -> Json:
    return event("output_item.added", output_index=index, item=item)


def ended(item: Json, index: int | None = 0) -> Json:
    return event("output_item.done", output_index=index, item=item)


def arguments(delta: Any, index: int | None = 0, item_id: str | None = None) -> Json:
    item_id = f"fc{index}" if item_id is None else item_id
    return event("function_call_arguments.delta", output_index=index, item_id=item_id, delta=delta)


def said(delta: str, index: int | None = 0, item_id: str | None = "m9", **more: Any) -> Json:
    return event("output_text.delta", output_index=index, item_id=item_id, delta=delta, **more)


NAMELESS = {"id": "", "call_id": ""}
ONE, TWO = Meaning(calls=(ROME,)), Meaning(calls=(ROME, UTC))
CLOCK_ITEM = call_item(1, name="clock")
RESPONSES = [
    ("pieces", [added(call_item()), arguments(A), arguments(B), ended(call_item(0, A + B)), completed()],
        ONE),
    ("pieces only", [added(call_item()), arguments(A), arguments(B), completed()], ONE),
    ("only arguments.done", [added(call_item()), event(
        "function_call_arguments.done", output_index=0, item_id="fc0", arguments=A + B), completed()], ONE),
    ("an empty finished item", [added(call_item()), arguments(A + B), ended(call_item()), completed()], ONE),
    ("a finished item with {}", [added(call_item()), arguments(A + B), ended(call_item(0, "{}")),
        completed()],
        ONE),
    ("only the finished item", [ended(call_item(0, A + B)), completed()], ONE),
    ("only the added item", [added(call_item(0, A + B)), completed()], ONE),
    ("the added item and the pieces", [added(call_item(0, A + B)), arguments(A), arguments(B),
        completed()], ONE),
    ("only the snapshot", [completed(call_item(0, A + B), call_item(1, C + D, "clock"))], TWO),
    ("a call that only the snapshot has", [
        added(call_item()), arguments(A + B), completed(call_item(0, A + B), call_item(1, C + D,
        "clock"))], TWO),
    ("arguments as an object", [ended(call_item(0, {"city": "Rome"})), completed()], ONE),
    ("arguments as an object in pieces", [added(call_item()), arguments({"city": "Rome"}), completed()], ONE),
    ("two calls in turn", [added(call_item()), added(CLOCK_ITEM, 1), arguments(A), arguments(C, 1),
        arguments(B), arguments(D, 1), completed()], TWO),
    ("empty ids", [added(call_item(**NAMELESS)), added(call_item(1, name="clock", **NAMELESS), 1),
        arguments(A + B, 0, ""), arguments(C + D, 1, ""), completed()], TWO),
    ("empty ids, and a snapshot", [added(call_item(**NAMELESS)), arguments(A + B, 0, ""),
        completed(call_item(0, A + B, **NAMELESS))], ONE),
    ("no index", [added(call_item(), None), added(CLOCK_ITEM, None), arguments(A + B, None, "fc0"),
        arguments(C + D, None, "fc1"), completed()], TWO),
    ("no index and no ids", [added(call_item(**NAMELESS), None), arguments(A + B, None, ""),
        ended(call_item(0, A + B, **NAMELESS), None), completed()], ONE),
    ("index 0 for all", [added(call_item()), added(CLOCK_ITEM, 0), arguments(A + B, 0, "fc0"),
        arguments(C + D, 0, "fc1"), completed()], TWO),
    ("index in quotes", [added(call_item(), "0"), arguments(A + B, "0", "x"), completed()], ONE),
    ("other ids in the pieces", [added(call_item()), arguments(A + B, 0, "other"), completed()], ONE),
    ("other ids in the end", [added(call_item()), arguments(A + B), ended(call_item(0, A + B, id="x")),
        completed()], ONE),
    ("pieces before the item", [arguments(A + B, 1, "fc1"), added(call_item(1), 1), completed()], ONE),
    ("two calls that say the same, in the snapshot only", [completed(call_item(0, A + B),
        call_item(1, A + B))], Meaning(calls=(ROME, ROME))),
    ("two calls that say the same, with other ids in the snapshot", [
        ended(call_item(0, A + B)), ended(call_item(1, A + B), 1),
        completed(call_item(2, A + B), call_item(3, A + B))], Meaning(calls=(ROME, ROME))),
    ("text in the beginning of its part", [added(message_item()), event("content_part.added",
        output_index=0, item_id="m9", content_index=0, part={"type": "output_text", "text": "Hello"}),
        completed()], HELLO),
    ("text in the beginning of its item", [added(message_item("Hello")), completed()], HELLO),
    ("text in all its beginnings and pieces", [added(message_item("Hello")), event("content_part.added",
        output_index=0, item_id="m9", content_index=0, part={"type": "output_text", "text": "Hello"}),
        said("Hel"), said("lo"), ended(message_item("Hello")), completed()], HELLO),
    ("two calls that say the same", [ended(call_item(0, A + B)), ended(call_item(1, A + B), 1), completed()],
        Meaning(calls=(ROME, ROME))),
    ("text in pieces", [added(message_item()), said("Hel"), said("lo"), ended(message_item("Hello")),
        completed(message_item("Hello"))], HELLO),
    ("another item before the text's end", [added(message_item()), said("Hello"), added(call_item(0), 1),
        arguments(A + B, 1, "fc0"), ended(message_item("Hello")), completed()], Meaning("Hello", (ROME,))),
    ("text without an item", [said("Hel", None, None), said("lo", None, None), completed()], HELLO),
    ("text only at its end", [event("output_text.done", item_id="m9", output_index=0, text="Hello"),
        completed()], HELLO),
    ("text only in the item", [ended(message_item("Hel", "lo")), completed()], HELLO),
    ("text only in the snapshot", [completed(message_item("Hello"))], HELLO),
    ("text whose end is missing", [said("Hel"), ended(message_item("Hello")), completed()], HELLO),
    ("text under another id in the snapshot", [said("Hello", 0, "x"), completed(message_item("Hello"))],
        HELLO),
    ("text in the snapshot at another place", [said("Hello", 4, "x"), completed(
        call_item(0, A + B), message_item("Hello"))], Meaning("Hello", (ROME,))),
    ("two parts", [said("Hel", content_index=0), said("lo", content_index=1), event(
        "content_part.done", item_id="m9", output_index=0, content_index=1, part={"text": "lo"}),
        ended(message_item("Hel", "lo")), completed()], HELLO),
    ("two parts at their ends only", [*(event("output_text.done", item_id="m9", output_index=0,
        content_index=n,
        text=text) for n, text in enumerate(("Hel", "lo"))), completed()], HELLO),
    ("a refusal at its end", [event("refusal.done", item_id="m9", refusal="Hello"), completed()], HELLO),
    ("a thought only in the item", [ended({"type": "reasoning", "id": "r", "summary": [{"text": "hm"}]}),
        said("Hello", 1), completed()], Meaning("Hello", thinking="hm")),
    ("a whole response", [{"object": "response", **RESPONSE, "output": [message_item("Hello")]}], HELLO),
    ("unknown events", [{"type": "response.new_thing", "x": 1}, {"type": "codex.rate_limits"}, said("Hello"),
        completed()], HELLO),
    ("text beside the items", [completed(output_text="Hello")], HELLO),
    ("text in place of a message", [completed({"type": "output_text", "text": "Hello"})], HELLO),
    ("errors that are none", [{**said("Hello"), "error": {"code": ""}}, completed(error={})], HELLO),
    ("an end mark", [said("Hello"), "[DONE]", completed(), "[DONE]"], HELLO),
    ("half a character", [said("\ud83d"), said("\ude00"), completed()], Meaning("😀")),
]  # fmt: skip


def responses() -> list[Odd]:
    odd = [Odd(name, sse(*values), meaning) for name, values, meaning in RESPONSES]
    named = [{key: each[key] for key in each if key != "type"} for each in (said("Hello"), completed())]
    names = (b"response.output_text.delta", b"response.completed")
    stream = b"".join(
        b"event: " + name + b"\n" + sse(value) for name, value in zip(names, named, strict=True)
    )
    return [*odd, Odd("the type only as the event's name", stream, HELLO)]
