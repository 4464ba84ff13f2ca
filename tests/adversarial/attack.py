"""Helpers that let a simulated model misuse tools."""

from __future__ import annotations

import json
from typing import Any

from tests.talk import Json, Talk, call


def unseen(*steps: Json, ask: str = "Please.") -> str:
    """A script for the simulated model in which every character is escaped.

    A secret in it therefore counts as written by the model: the logged message is not redacted.
    """
    return f"{ask} [[sim {_escaped(list(steps))}]]"


class Raw(str):
    """JSON that goes into a script unchanged, such as a number in an unusual spelling."""

    __slots__ = ()


def _escaped(value: Any) -> str:
    if isinstance(value, Raw):
        return value
    if isinstance(value, str):
        units = value.encode("utf-16-be", "surrogatepass")
        return '"' + "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)) + '"'
    if isinstance(value, dict):
        return "{" + ",".join(f"{_escaped(key)}:{_escaped(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_escaped, value)) + "]"
    return json.dumps(value)


async def turn(talk: Talk, *steps: Json, ask: str = "Please.") -> list[Json]:
    """Run a turn with these steps, which must succeed; returns the events after the message."""
    message = await talk.say(unseen(*steps, ask=ask))
    events = await talk.logged_until("session.idled", after=message["sequence"])
    assert events[-2]["type"] == "turn.completed", events[-2]
    return events


async def done(talk: Talk, *calls: Json) -> list[Json]:
    """The results of calls that the model makes in one answer, in order."""
    events = await turn(talk, {"tool_calls": list(calls)}, {"text": "Done."})
    return [event["data"] for event in events if event["type"] == "tool.completed"]


async def use(talk: Talk, name: str, **arguments: object) -> Json:
    """The result of one call."""
    (data,) = await done(talk, call(name, **arguments))
    return data


def value_of(data: Json) -> Any:
    """The value that a successful call returned."""
    assert data["success"], data
    return json.loads(data["result"][0]["text"])


async def works(talk: Talk, name: str, **arguments: object) -> Any:
    """The value of one call, which must succeed."""
    return value_of(await use(talk, name, **arguments))


async def refused(talk: Talk, name: str, **arguments: object) -> str:
    """The error of one call, which must fail."""
    data = await use(talk, name, **arguments)
    assert not data["success"], data
    return str(data["error"])
