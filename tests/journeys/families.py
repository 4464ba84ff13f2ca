"""Sessions that begin sub-agents, for the journeys that watch and stop them."""

from __future__ import annotations

from typing import Any

import httpx

from tests.talk import Json, Talk, new_talk, script, when

CAPABILITIES = [{"ref": "subagents"}]
SLOW = {"tokens": 2000, "delay_ms": 20}
"""A step of a sub-agent that works on until somebody stops it."""
WEATHER = {
    "type": "client_side",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object"},
}
ASKS = {"tool_calls": [{"name": "weather", "arguments": {}}]}
"""A step of a sub-agent that waits for a client. Its session has the tool `WEATHER`, as its parent has."""


def spawns(name: str, *steps: Json, mode: str = "background", **more: Any) -> Json:
    """A call that begins a sub-agent with this script."""
    instructions = script(*steps, ask=f"Do {name}.")
    arguments = {"name": name, "mode": mode, "instructions": instructions, **more}
    return {"name": "spawn_agent", "arguments": arguments}


async def new_family(http: httpx.AsyncClient, *calls: Json, text: str = "Begun.", **fields: Any) -> Talk:
    """A session whose first turn, which has ended, has begun these sub-agents. They send no messages."""
    talk = await new_talk(http, capabilities=CAPABILITIES, **fields)
    quiet = [{**each, "arguments": {"wake_policy": "silent", **each["arguments"]}} for each in calls]
    await talk.turn({"tool_calls": quiet}, {"text": text})
    return talk


async def tasks_of(talk: Talk, **query: Any) -> list[Json]:
    """A session's tasks, newest first."""
    answer = await talk.http.get(talk.path("/tasks"), params=query)
    assert answer.status_code == 200, answer.text
    found: list[Json] = answer.json()
    return found


async def task_in(talk: Talk, task_id: str, *states: str) -> Json:
    """Wait until a task is in one of these states; return it."""
    seen: list[Json] = []

    async def there() -> bool:
        seen[:] = [task for task in await tasks_of(talk) if task["id"] == task_id]
        return bool(seen) and seen[0]["state"] in states

    await when(there)
    return seen[0]


async def all_ended(talk: Talk) -> list[Json]:
    """Wait until all tasks of a session have ended; return them, newest first."""
    seen: list[Json] = []

    async def there() -> bool:
        seen[:] = await tasks_of(talk)
        return all("finished_at" in task for task in seen)

    await when(there)
    return seen
