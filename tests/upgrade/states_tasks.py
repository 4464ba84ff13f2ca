"""States of trees: sub-agents at work, and sessions that wait for them."""

from __future__ import annotations

from typing import ClassVar

from tests.server import post
from tests.talk import Json, Talk, kinds_of, text_in
from tests.upgrade.model import play
from tests.upgrade.place import Place
from tests.upgrade.state import State, call, of_kind, outcomes

SILENT: Json = {"text": "It is done.", "hold": "silent"}
"""A sub-agent's answer that the old server never received."""
LIMIT = 60
"""Seconds that a task with a time limit may take: longer than the build takes after it, and over in tests."""


def begin(name: str, *steps: Json, mode: str = "foreground", **more: object) -> Json:
    """A call that begins a sub-agent with a script of its own."""
    arguments = {
        "name": "errand",
        "instructions": play(f"{name} child/1", *steps, ask="Do it."),
        "mode": mode,
    }
    return {"name": "spawn_agent", "id": "begin", "arguments": arguments | more}


async def begun(old: Place, name: str, *steps: Json, **fields: object) -> Json:
    """A session that has begun a sub-agent; returns the task."""
    talk = await old.session(name, **{"capabilities": [{"ref": "subagents"}], **fields})
    await old.say(name, *steps)
    (event,) = of_kind(await talk.logged_until("task.created"), "task.created")
    return {"task": event["task"]["id"], "child": event["task"]["links"]["child_session_id"]}


async def at_work(old: Place, name: str) -> None:
    """Wait until the sub-agent's model is asked, which does not answer."""
    await old.model.until_asked(f"{name} child/1")


def ends_of(events: list[Json]) -> list[str]:
    """The states in which tasks have ended."""
    states = [each["task"]["state"] for each in of_kind(events, "task.updated")]
    return [state for state in states if state in ("succeeded", "failed", "canceled")]


async def check_child(new: Place, facts: Json, end: str) -> None:
    """The sub-agent's session has one turn, which ended so."""
    events = await Talk(new.http, facts["child"]).events()
    assert [each for each in kinds_of(events) if each.startswith("turn.")] == ["turn.started", end]


class ParkedOnAChild(State):
    """A call that waits for a sub-agent in the middle of its model call receives its answer."""

    since = "0.3.0"
    phase = "held"
    session: ClassVar[str] = "parked on a child"

    async def reach(self, old: Place) -> Json:
        facts = await begun(old, self.session, {"calls": [begin(self.session, SILENT)]}, {"text": "Good."})
        await at_work(old, self.session)
        await old.talk(self.session).logged_until("act.completed")
        return facts

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until(self.session, "session.idled")
        assert ends_of(events) == ["succeeded"]
        (done,) = of_kind(events, "tool.completed")
        assert (done["tool_call_id"], done["result"][0]["text"]) == ("begin", "It is done.")
        await check_child(new, facts, "turn.completed")


class ChildAtWorkInTheBackground(State):
    """The answer of a sub-agent in the background wakes the session that began it, once."""

    since = "0.3.0"
    phase = "held"
    session: ClassVar[str] = "a child in the background"

    async def reach(self, old: Place) -> Json:
        calls = [begin(self.session, SILENT, mode="background")]
        facts = await begun(old, self.session, {"calls": calls}, {"text": "It works on it."})
        await at_work(old, self.session)
        await old.talk(self.session).logged_until("session.idled")
        return facts

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until(self.session, "session.idled")
        assert ends_of(events) == ["succeeded"]
        (message,) = of_kind(events, "input.message")
        assert message["message"]["metadata"]["task_id"] == facts["task"]
        assert "It is done." in text_in(message["message"])
        await check_child(new, facts, "turn.completed")


class WaitsForTasks(State):
    """A call that waits for tasks receives the answer of the one that was at work."""

    since = "0.3.0"
    phase = "held"
    session: ClassVar[str] = "waits for tasks"

    async def reach(self, old: Place) -> Json:
        calls = [begin(self.session, SILENT, mode="background")]
        waits = [call("wait_tasks", "wait")]
        facts = await begun(old, self.session, {"calls": calls}, {"calls": waits}, {"text": "Good."})
        await at_work(old, self.session)
        await old.talk(self.session).logged_until("tool.parked")
        return facts

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until(self.session, "session.idled")
        assert ends_of(events) == ["succeeded"]
        assert outcomes(events) == {"wait": "success"}
        assert "It is done." in of_kind(events, "tool.completed")[0]["result"][0]["text"]
        assert of_kind(events, "input.message") == []
        await check_child(new, facts, "turn.completed")


class ChildPastItsTimeLimit(State):
    """The time limit of a task passed while no server ran: it ends, and its session is told so."""

    since = "0.3.0"
    phase = "held"
    session: ClassVar[str] = "a child past its time limit"

    async def reach(self, old: Place) -> Json:
        calls = [begin(self.session, SILENT, time_limit=LIMIT)]
        facts = await begun(old, self.session, {"calls": calls}, {"text": "Too bad."})
        await at_work(old, self.session)
        await old.talk(self.session).logged_until("act.completed")
        return facts

    async def end(self, new: Place, facts: Json) -> None:
        events = await new.fresh_until(self.session, "session.idled")
        # The sub-agent may answer before the first sweep looks at the time.
        (state,) = ends_of(events)
        assert state in ("failed", "succeeded")
        assert outcomes(events) == {"begin": "timeout" if state == "failed" else "success"}


class ChildWaitsForApproval(State):
    """A sub-agent's question can be decided, and the session that waits for it receives the answer."""

    since = "0.3.0"
    session: ClassVar[str] = "a child that asks"

    async def reach(self, old: Place) -> Json:
        asks = {"calls": [call("delete_file", "delete", path="/a")]}
        facts = await begun(
            old,
            self.session,
            {"calls": [begin(self.session, asks, {"text": "It is gone."})]},
            {"text": "Good."},
            capabilities=[
                {"ref": "subagents"},
                {"ref": "tool_approval", "config": {"mode": "normal"}},
            ],
            initial_files=[{"path": "/a", "content": "x"}],
        )
        await Talk(old.http, facts["child"]).logged_until("tool.call_requested")
        talk = old.talk(self.session)
        async with talk.follow(types="task.updated") as stream:
            await stream.until(
                "task.updated", where=lambda each: each["data"]["task"]["state"] == "awaiting_input"
            )
        return facts

    async def end(self, new: Place, facts: Json) -> None:
        decisions = [{"tool_call_id": "delete", "decision": "allow"}]
        path = f"/v1/sessions/{facts['child']}/tool-approvals"
        await post(new.http, path, {"decisions": decisions}, 200)
        events = await new.fresh_until(self.session, "session.idled")
        assert ends_of(events) == ["succeeded"]
        (done,) = of_kind(events, "tool.completed")
        assert done["result"][0]["text"] == "It is gone."
        await check_child(new, facts, "turn.completed")


TASKS: tuple[State, ...] = (
    ChildWaitsForApproval(),
    ParkedOnAChild(),
    ChildAtWorkInTheBackground(),
    WaitsForTasks(),
    ChildPastItsTimeLimit(),
)
