"""States of sessions: how a session gets into one, and how it finishes."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal

from tests.talk import Json, Talk
from tests.upgrade.place import Place

Phase = Literal["recovered", "impatient", "settled", "held", "draining"]
PHASES: tuple[Phase, ...] = ("recovered", "impatient", "settled", "held", "draining")
"""The phases in order: after many crashes; on a server that soon stops waiting for users; idle; in the middle
of work, where the kill hits; and while the server is already draining."""


class State:
    """One state. Its docstring says what must be true at the end, and is stored in the manifest.

    Attributes:
        since: the first release that can reach it.
        phase: when it is reached.
    """

    since: ClassVar[str] = "0.1.0"
    phase: ClassVar[Phase] = "settled"

    @property
    def name(self) -> str:
        return type(self).__name__

    async def reach(self, old: Place) -> Json:
        """Bring sessions of the old server into the state; return the facts to check at the end."""
        raise NotImplementedError

    async def end(self, new: Place, facts: Json) -> None:
        """Finish the sessions on the current server, and check them."""
        raise NotImplementedError


def call(name: str, call_id: str, **arguments: object) -> Json:
    """Return a tool call for a step of a script."""
    return {"name": name, "id": call_id, "arguments": arguments}


def of_kind(events: list[Json], kind: str) -> list[Json]:
    """Return the data of the events of this type."""
    return [event["data"] for event in events if event["type"] == kind]


def outcomes(events: list[Json]) -> dict[str, str]:
    """Return the status of each tool call, by its id."""
    return {each["tool_call_id"]: each["status"] for each in of_kind(events, "tool.completed")}


def results(events: list[Json]) -> list[Json]:
    """Return the tools' results, in order."""
    return [json.loads(each["result"][0]["text"]) for each in of_kind(events, "tool.completed")]


def last_text(events: list[Json]) -> str:
    """Return the agent's last message."""
    message = of_kind(events, "output.message.completed")[-1]["message"]
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")


def holds(new: Any, old: Any) -> bool:
    """Return whether the new value contains all of the old one: events may gain fields."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and holds(new[key], value) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(new) == len(old) and all(map(holds, new, old))
    return bool(new == old)


async def value(talk: Talk, path: str) -> Json:
    """Return the answer of a route of the session."""
    answer = await talk.http.get(talk.path(path))
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def text_at(talk: Talk, path: str) -> str:
    """Return the content of a file of the session."""
    return str((await value(talk, f"/fs{path}"))["content"])
