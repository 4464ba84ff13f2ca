"""Tools as a model misuses them."""

from __future__ import annotations

import json
from typing import Any

from tests.talk import Json, Talk, call


def unseen(*steps: Json, ask: str = "Please.") -> str:
    """A message that tells the simulated model what to do, every letter of it written so that only a reader
    of JSON knows it.

    So a secret in it is the model's own: the message that the log holds, and the model reads, is not blanked.
    """
    return f"{ask} [[sim {_escaped(list(steps))}]]"


class Raw(str):
    """JSON that goes into a script as it is: a number in an unusual spelling."""

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
    """The events of a turn in which the model does this, from after the message on; it has to end well."""
    message = await talk.say(unseen(*steps, ask=ask))
    events = await talk.logged_until("session.idled", after=message["sequence"])
    assert events[-2]["type"] == "turn.completed", events[-2]
    return events


async def done(talk: Talk, *calls: Json) -> list[Json]:
    """What calls that the model makes at once came to, in their order."""
    events = await turn(talk, {"tool_calls": list(calls)}, {"text": "Done."})
    return [event["data"] for event in events if event["type"] == "tool.completed"]


async def use(talk: Talk, name: str, **arguments: object) -> Json:
    """What one call came to."""
    (data,) = await done(talk, call(name, **arguments))
    return data


def value_of(data: Json) -> Any:
    """What a call that went well gave."""
    assert data["success"], data
    return json.loads(data["result"][0]["text"])


async def works(talk: Talk, name: str, **arguments: object) -> Any:
    """What one call gave that has to go well."""
    return value_of(await use(talk, name, **arguments))


async def refused(talk: Talk, name: str, **arguments: object) -> str:
    """Why one call was refused, which it has to be."""
    data = await use(talk, name, **arguments)
    assert not data["success"], data
    return str(data["error"])
