"""Sessions that begin others: scripts, and what became of the tasks."""

from __future__ import annotations

from typing import Any

import httpx

from tests.talk import Json, Talk, new_talk, script

ENDED = ("succeeded", "failed", "canceled")
SUBAGENTS = {"ref": "subagents"}


def begin(name: str, *steps: Json, _id: str | None = None, **arguments: Any) -> Json:
    """Build the call that begins a sub-agent, whose model plays these steps."""
    instructions = script(*steps, ask=f"Work on {name}.")
    made: Json = {
        "name": "spawn_agent",
        "arguments": {"name": name, "instructions": instructions, **arguments},
    }
    return made if _id is None else {**made, "id": _id}


def calls(*made: Json) -> Json:
    """Build a step with these calls."""
    return {"tool_calls": list(made)}


async def new_parent(http: httpx.AsyncClient, config: Json | None = None, **fields: Any) -> Talk:
    """Create a session that may begin others."""
    more = fields.pop("capabilities", [])
    ref = SUBAGENTS if config is None else {**SUBAGENTS, "config": config}
    return await new_talk(http, capabilities=[ref, *more], **fields)


def tasks_in(events: list[Json]) -> dict[str, list[Json]]:
    """The tasks in these events, by name: each as it became, in order."""
    found: dict[str, list[Json]] = {}
    for event in events:
        if event["type"] in ("task.created", "task.updated"):
            task = event["data"]["task"]
            found.setdefault(task["display_name"], []).append(task)
    return found


def states_in(events: list[Json], name: str) -> list[str]:
    """The states that a task had, without repetitions."""
    states: list[str] = []
    for task in tasks_in(events).get(name, []):
        if not states or states[-1] != task["state"]:
            states.append(task["state"])
    return states


def end_in(events: list[Json], name: str) -> Json:
    """The task as it ended: exactly once."""
    (ended,) = [task for task in tasks_in(events)[name] if task["state"] in ENDED]
    return ended


def result_in(events: list[Json], tool: str = "spawn_agent", nth: int = 0) -> Json:
    """The result of the nth call of a tool."""
    found = [e["data"] for e in events if e["type"] == "tool.completed" and e["data"]["tool_name"] == tool]
    return dict(found[nth])


def result_of(events: list[Json], call_id: str) -> Json:
    """The result of the call with this id."""
    return next(
        dict(event["data"])
        for event in events
        if event["type"] == "tool.completed" and event["data"]["tool_call_id"] == call_id
    )


def text_of_result(result: Json) -> str:
    """What the model was told: the result's text, or the error."""
    return str(result.get("error") or result["result"][0]["text"])


def woken_by(events: list[Json]) -> list[str]:
    """The messages about tasks."""
    return [
        event["data"]["message"]["content"][0]["text"]
        for event in events
        if event["type"] == "input.message" and event["data"].get("origin") == "task"
    ]


async def ended_task(talk: Talk, name: str, after: int = 0) -> Json:
    """Wait until a task of this name ends; return it."""
    async with talk.follow(after_sequence=after) as stream:
        frames = await stream.until(
            "task.updated",
            where=lambda data: (
                data["data"]["task"]["display_name"] == name and data["data"]["task"]["state"] in ENDED
            ),
        )
    task: Json = frames[-1].data["data"]["task"]
    return task


async def until_state(talk: Talk, name: str, *states: str, after: int = 0) -> Json:
    """Wait until a task of this name is in one of these states; return it."""
    async with talk.follow(after_sequence=after) as stream:
        frames = await stream.until(
            "task.created",
            "task.updated",
            where=lambda data: (
                data["data"]["task"]["display_name"] == name and data["data"]["task"]["state"] in states
            ),
        )
    task: Json = frames[-1].data["data"]["task"]
    return task


def child_of(talk: Talk, task: Json) -> Talk:
    """The session that works on a task."""
    return Talk(talk.http, task["links"]["child_session_id"])


async def children_of(talk: Talk) -> dict[str, Talk]:
    """The sessions that a session has begun, by the names of their tasks."""
    return {
        name: child_of(talk, states[-1])
        for name, states in tasks_in(await talk.events()).items()
        if "child_session_id" in states[-1].get("links", {})
    }


async def until_woken(talk: Talk, after: int = 0) -> list[str]:
    """Wait until a message about a task has been worked on; return those messages."""
    async with talk.follow(after_sequence=after) as stream:
        frames = await stream.until("input.message", where=lambda data: data["data"].get("origin") == "task")
        frames += await stream.until("session.idled")
    return woken_by([frame.data for frame in frames if frame.logged])
