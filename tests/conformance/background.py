"""A house whose sessions run tools in the background, on either database, and the tools of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from perdure.app.accounts import bootstrap
from perdure.app.messages import post_message
from perdure.app.models import create_model
from perdure.app.providers import create_provider
from perdure.app.sessions import create_session
from perdure.app.task_news import deliver
from perdure.capabilities.port import (
    READ_ONLY,
    REPEATABLE,
    Capability,
    Later,
    Tool,
    ToolContext,
    ToolOutcome,
    schema,
)
from perdure.capabilities.registry import Registry
from perdure.domain.accounts import Caller
from perdure.domain.effects import UNKNOWN, Verified, key_here
from perdure.domain.errors import ToolError
from perdure.domain.events import (
    Event,
    FileWrittenData,
    InputMessageData,
    TaskCreatedData,
    TaskUpdatedData,
    ToolCompletedData,
)
from perdure.domain.ids import SessionId, TaskId
from perdure.domain.messages import CreateMessage, ImagePart, InputMessage, JsonObject, TextPart, text_of
from perdure.domain.providers import CreateModel, CreateProvider
from perdure.domain.sessions import CreateSession
from perdure.domain.tasks import SessionTask
from perdure.domain.times import to_rfc3339
from perdure.domain.tools import CapabilityRef
from perdure.settings import Settings
from perdure.store.database import Database
from perdure.store.events import events_after
from perdure.store.rows import to_json
from perdure.store.tasks import TaskRow, find_task, put_task
from perdure.tools.built_in import built_in
from perdure.wiring import Parts, open_parts
from perdure.worker.background import BackgroundTools
from perdure.worker.tasks import TaskSweep
from perdure.worker.worker import Worker
from tests.conformance.places import Place, eventually
from tests.talk import call, script

KEY = "11" * 32
BACKGROUND = CapabilityRef("background_tools")
SLOW = CapabilityRef("slow")


class SlowTools:
    """Tools that meet the test: each call waits in `gates` until the test opens it.

    Attributes:
        runs: the effect key of each run, by the call's `note`.
    """

    def __init__(self) -> None:
        self.runs: dict[str, list[str]] = {}
        self.contexts: dict[str, ToolContext] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.started: dict[str, asyncio.Event] = {}
        self.stopped: list[str] = []
        self.outcomes: dict[str, Verified] = {}
        self.found = ""
        words = {name: {"type": "string"} for name in ("note", "how")}
        make = partial(Tool, description="Slow.", parameters=schema(words, "note"), background=True)
        self.capability = Capability(
            id="slow",
            name="Slow",
            description="For tests.",
            category="test",
            tools=lambda config: (
                make(name="work", run=self._work),
                make(name="again", run=self._work, hints=REPEATABLE),
                make(name="look", run=self._work, hints=READ_ONLY),
                make(name="asked", run=self._work, verify=self._verify),
                make(name="short", run=self._work, timeout=0.2),
                make(name="gated", run=self._work, approval=True),
                make(name="keeper", run=self._work, secret_arguments=("how",)),
                make(name="foreground", run=self._work, background=False),
            ),
        )

    def gate(self, name: str) -> asyncio.Event:
        return self.gates.setdefault(name, asyncio.Event())

    def start(self, name: str) -> asyncio.Event:
        return self.started.setdefault(name, asyncio.Event())

    async def _work(self, context: ToolContext, arguments: JsonObject) -> ToolOutcome | Later:
        name, how = arguments["note"], arguments.get("how")
        assert "run_in_background" not in arguments
        self.runs.setdefault(name, []).append(context.effect_key)
        self.contexts[name] = context
        self.start(name).set()
        if how == "steps":
            said = [await context.step(each, partial(self._part, each)) for each in ("one", "two")]
            return ToolOutcome(said)
        if how == "now":
            return ToolOutcome(f"{name} is done")
        try:
            await self.gate(name).wait()
        finally:
            if not self.gate(name).is_set():
                self.stopped.append(name)
        return self._end(name, how)

    async def _part(self, name: str) -> JsonObject:
        return {"part": name, "key": key_here("none")}

    def _end(self, name: str, how: str | None) -> ToolOutcome | Later:
        match how:
            case "refuse":
                raise ToolError(f"no {name} today")
            case "break":
                raise ZeroDivisionError
            case "picture":
                return ToolOutcome("", images=(ImagePart(base64="aGk=", media_type="image/png"),))
            case "nothing":
                return ToolOutcome(None)
            case "found":
                return ToolOutcome(f"found {self.found}")
            case "value":
                return ToolOutcome({"name": name, "numbers": [1, 2]})
            case "long":
                return ToolOutcome(f"{name} " + "x" * 100_000 + " end")
            case "page":
                return ToolOutcome(f"{name} " + "y" * 5_000 + " end")
            case "later":
                return Later("callback", 2_000_000_000_000_000)
            case "file":
                return ToolOutcome("written", (FileWrittenData("/made.txt", "write", True, 3),))
        return ToolOutcome(f"{name} is done")

    async def _verify(self, context: ToolContext, arguments: JsonObject) -> Verified:
        assert "run_in_background" not in arguments
        return self.outcomes.get(arguments["note"], UNKNOWN)


class House:
    """A server in this process: `crash` loses what it runs, as `kill -9` does."""

    def __init__(self, parts: Parts, owner: Caller, *, runs_tools: bool) -> None:
        self.parts, self.owner = parts, owner
        self.tools = BackgroundTools(parts.engine, parts.app)
        runner = self.tools if runs_tools else None
        self.worker = Worker(parts.engine, partial(deliver, parts.app), runner)
        self.sweep = TaskSweep(parts.app, parts.engine.clock)

    async def crash(self) -> None:
        """Lose the tools that run, as a process does that is killed: nobody puts anything back."""
        lost = [running.task for running in self.tools._running.values()]
        for task in lost:
            task.cancel()
        await asyncio.wait(lost)

    async def take_up(self, *tasks: TaskId) -> None:
        """Sweep until each of these tasks goes on: the job of a lost tool is gone soon after it."""
        before = {task: (await self.row(task)).attempt for task in tasks}

        async def went_on() -> bool:
            await self.sweep.once()
            rows = [await self.row(task) for task in tasks]
            return all(row.finished_at or row.attempt > before[row.id] for row in rows)

        await eventually(went_on)

    async def session(self, *refs: CapabilityRef, **more: Any) -> SessionId:
        wanted = CreateSession(capabilities=(BACKGROUND, SLOW, *refs), **more)
        return (await create_session(self.parts.app, self.owner, wanted)).id

    async def say(self, session_id: SessionId, *steps: JsonObject) -> None:
        body = CreateMessage(InputMessage((TextPart(script(*steps)),)))
        await post_message(self.parts.app, self.owner, session_id, body)

    async def events(self, session_id: SessionId) -> list[Event]:
        return await self.parts.database.read(lambda tx: events_after(tx, session_id, 0))

    async def until(self, session_id: SessionId, kind: str, times: int = 1) -> list[Event]:
        """The log, once it has so many events of a kind."""
        return await eventually(
            lambda: self.events(session_id),
            lambda events: sum(event.type == kind for event in events) >= times,
        )

    async def results(self, session_id: SessionId) -> list[ToolCompletedData]:
        """The results of the session's calls, in the order of the log."""
        events = await self.events(session_id)
        return [event.read(ToolCompletedData) for event in events if event.type == "tool.completed"]

    async def told(self, session_id: SessionId) -> dict[str, str]:
        """The messages about tasks that the session has received, by task."""
        messages = [
            e.read(InputMessageData).message
            for e in await self.events(session_id)
            if e.type == "input.message"
        ]
        about = [(str((each.metadata or {}).get("task_id")), text_of(each.content)) for each in messages]
        assert len({task for task, _ in about if task != "None"}) == sum(task != "None" for task, _ in about)
        return dict(about)

    async def tasks(self, session_id: SessionId) -> list[SessionTask]:
        """The session's tasks as they were created."""
        events = await self.events(session_id)
        return [event.read(TaskCreatedData).task for event in events if event.type == "task.created"]

    async def begin(
        self, session_id: SessionId, *calls: JsonObject, then: str = "Meanwhile."
    ) -> list[TaskId]:
        """Have the model make these calls and end its turn; return their tasks."""
        await self.say(session_id, {"tool_calls": list(calls)}, {"text": then})
        await self.until(session_id, "session.idled")
        return [task.id for task in await self.tasks(session_id)]

    async def row(self, task_id: TaskId) -> TaskRow:
        row = await self.parts.database.read(lambda tx: find_task(tx, task_id))
        assert row is not None
        return row

    async def long_ago(self, task_id: TaskId) -> None:
        """Have a task's last attempt begun an hour ago, so that its request cannot arrive any more."""
        row = await self.row(task_id)
        old = to_rfc3339(self.parts.app.now() - 3_600_000_000)
        aged = replace(row, task=to_json(replace(row.struct(), heartbeat_at=old)))
        await self.parts.database.write(lambda tx: put_task(tx, aged))

    async def end(self, task_id: TaskId) -> SessionTask:
        """The task, once it has ended."""
        row = await eventually(lambda: self.row(task_id), lambda row: row.finished_at is not None)
        return row.struct()

    async def history(self, session_id: SessionId, task_id: TaskId) -> list[SessionTask]:
        """The task as each update of the log has it."""
        found = [
            e.read(TaskUpdatedData).task for e in await self.events(session_id) if e.type == "task.updated"
        ]
        return [task for task in found if task.id == task_id]


def background(tool: str, note: str, **more: Any) -> JsonObject:
    """A call in the background."""
    return call(tool, note=note, run_in_background=True, **more)


@asynccontextmanager
async def house_on(
    place: Place,
    folder: Path,
    tools: SlowTools,
    *,
    runs_tools: bool = True,
    wrap: Callable[[Database], Any] = lambda database: database,
) -> AsyncIterator[House]:
    """A server on a database, with these tools. `wrap`: makes another database of the real one."""
    url = place.url if place.kind == "postgres" else ""
    async with open_parts(Settings(data=str(folder), database_url=url, master_key=KEY)) as opened:
        mine: dict[str, Any] = {"registry": Registry((*built_in(opened.app), tools.capability))}
        mine["database"] = wrap(opened.database)
        parts = replace(opened, app=replace(opened.app, **mine), engine=replace(opened.engine, **mine))
        owner = await bootstrap(parts.app)
        if not await parts.database.read(lambda tx: tx.one("SELECT 1 FROM providers LIMIT 1")):
            provider = await create_provider(parts.app, owner, CreateProvider("Simulated", "llmsim"))
            await create_model(parts.app, owner, provider.id, CreateModel("simulated", "Simulated"))
        house = House(parts, owner, runs_tools=runs_tools)
        await house.worker.start()
        yield house
        await house.worker.drain(0)
