"""Streams of servers that speak Messages in their own way, and what they mean."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.llm.odd_streams import HELLO, ONE, ROME, TWO, A, B, C, D, Json, Meaning, Odd, sse

STOP = [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}]


def begins(index: Any, block: Json) -> Json:
    return {"type": "content_block_start", "index": index, "content_block": block}


def grows(index: Any, **delta: Any) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def stops(index: Any) -> Json:
    return {"type": "content_block_stop", "index": index}


def use(name: str = "weather", number: int = 0, given: Any = None) -> Json:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given or {}}


TEXT = {"type": "text", "text": ""}
MESSAGES = [
    ("blocks in turn", [begins(0, use()), begins(1, use("clock", 1)), grows(0, partial_json=A),
        grows(1, partial_json=C), grows(0, partial_json=B), grows(1, partial_json=D), stops(0), stops(1)],
        TWO),
    ("no index", [begins(None, use()), grows(None, partial_json=A + B), stops(None),
        begins(None, use("clock", 1)), grows(None, partial_json=C + D), stops(None)], TWO),
    ("index 0 for all", [begins(0, TEXT), grows(0, text="Hello"), stops(0), begins(0, use()),
        grows(0, partial_json=A + B), stops(0)], Meaning("Hello", (ROME,))),
    ("a wrong index", [begins(0, TEXT), grows(0, text="Hello"), begins(1, use()), grows(0,
        partial_json=A + B)],
        Meaning("Hello", (ROME,))),
    ("index in quotes", [begins("0", use()), grows("0", partial_json=A + B)], ONE),
    ("the second block first", [begins(1, use("clock", 1)), grows(1, partial_json=C + D), begins(0, use()),
        grows(0, partial_json=A + B)], TWO),
    ("pieces before the start", [grows(0, partial_json=A + B), begins(0, use())], ONE),
    ("no start of the text", [grows(0, text="Hel"), grows(0, text="lo")], HELLO),
    ("no stop of a block", [begins(0, TEXT), grows(0, text="Hello"), begins(1, use()),
        grows(1, partial_json=A + B)], Meaning("Hello", (ROME,))),
    ("input in the start", [begins(0, use(given={"city": "Rome"})), stops(0)], ONE),
    ("input in the start and in pieces", [begins(0, use(given={"city": "Rome"})), grows(0, partial_json=A),
        grows(0, partial_json=B)], ONE),
    ("input as an object", [begins(0, use()), grows(0, partial_json={"city": "Rome"})], ONE),
    ("input as text in the start", [begins(0, use(given=A + B))], ONE),
    ("blocks of the vendor's own tools", [begins(0, {"type": "server_tool_use", "id": "s", "name": "web"}),
        grows(0, partial_json="{}"), begins(1, TEXT), grows(1, text="Hello")], HELLO),
    ("text in the start", [begins(0, {"type": "text", "text": "Hel"}), grows(0, text="lo")], HELLO),
    ("thoughts", [begins(0, {"type": "thinking", "thinking": ""}), grows(0, thinking="h"), grows(0,
        thinking="m"),
        grows(0, signature="s"), begins(1, TEXT), grows(1, text="Hello")], Meaning("Hello", thinking="hm")),
    ("half a character", [grows(0, text="\ud83d"), grows(0, text="\ude00")], Meaning("😀")),
    ("half a character in a thought", [grows(0, thinking="\ud83d"), grows(0, thinking="\ude00"),
        grows(1, text="Hello")], Meaning("Hello", thinking="😀")),
    ("half a character in an argument", [begins(0, use()), grows(0, partial_json='{"city":"\ud83d'),
        grows(0, partial_json='\ude00"}')], Meaning(calls=(("weather", {"city": "😀"}),))),
    ("signs of life", [{"type": "ping"}, "ping", grows(0, text="Hello"), {"type": "new_thing"}], HELLO),
]  # fmt: skip
WHOLE_MESSAGE = {
    "type": "message", "id": "m", "role": "assistant", "stop_reason": "tool_use",
    "content": [{"type": "text", "text": "Hello"}, use(given={"city": "Rome"})],
}  # fmt: skip


def messages() -> list[Odd]:
    start = {
        "type": "message_start",
        "message": {"id": "m", "usage": {"input_tokens": 5, "output_tokens": 1}},
    }
    odd = [Odd(name, sse(start, *values, *STOP), meaning) for name, values, meaning in MESSAGES]
    both = Meaning("Hello", (ROME,))
    untyped = b"".join(
        b"event: " + value.pop("type").encode() + b"\n" + sse(value)
        for value in ({**start}, grows(0, text="Hello"), *({**each} for each in STOP))
    )
    return [
        *odd,
        Odd("no start of the message", sse(grows(0, text="Hello"), *STOP), HELLO),
        Odd("no stop of the message", sse(start, grows(0, text="Hello"), STOP[0]), HELLO),
        Odd("no stop reason", sse(start, grows(0, text="Hello"), STOP[1]), HELLO),
        Odd("an end mark", sse(start, grows(0, text="Hello"), *STOP, "[DONE]"), HELLO),
        Odd("a whole message", json.dumps(WHOLE_MESSAGE).encode(), both),
        Odd(
            "a whole message in the start",
            sse({"type": "message_start", "message": WHOLE_MESSAGE}, STOP[1]),
            both,
        ),
        Odd("the type only as the event's name", untyped, HELLO),
    ]
