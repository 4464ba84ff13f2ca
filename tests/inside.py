"""Perdure inside the test's own process, so that a test can bring its own tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from msgspec.structs import replace

from perdure.app.accounts import bootstrap
from perdure.app.messages import post_message
from perdure.app.models import create_model
from perdure.app.providers import create_provider
from perdure.app.session_ends import cancel_turn
from perdure.app.sessions import create_session
from perdure.app.task_news import deliver
from perdure.capabilities.port import Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.capabilities.registry import Registry
from perdure.domain.accounts import Caller
from perdure.domain.errors import ToolError
from perdure.domain.events import Event
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.domain.providers import CreateModel, CreateProvider
from perdure.domain.sessions import CreateSession
from perdure.domain.tools import CapabilityRef
from perdure.engine.advance import advance
from perdure.llm.catalog import Catalog
from perdure.settings import Settings
from perdure.store.events import events_after
from perdure.tools.built_in import built_in
from perdure.wiring import Parts, open_parts
from perdure.worker.worker import Worker
from tests.talk import PATIENCE, Json


class Holder(Protocol):
    """What has the capability `gate`, with the tools of a test."""

    capability: Capability


class Gate:
    """Tools that meet each other, hang or break."""

    def __init__(self, parties: int) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.left = asyncio.Event()
        self._barrier = asyncio.Barrier(parties)
        self.capability = Capability(
            id="gate",
            name="Gate",
            description="For tests.",
            category="test",
            tools=lambda config: (
                Tool("meet", "Wait for the others.", schema({}), self._meet),
                Tool("wait", "Wait to be let through.", schema({}), self._wait),
                Tool("hang", "Never end.", schema({}), self._hang, timeout=0.1),
                Tool("explode", "Fail in a way nobody thought of.", schema({}), _explode),
                Tool("report", "Say how it goes.", schema({}), _report),
                Tool("refuse", "Refuse.", schema({}), _refuse),
                Tool("mumble", "Say what is no text.", schema({"how": {"type": "string"}}, "how"), _mumble),
            ),
        )

    async def _meet(self, context: ToolContext, arguments: Json) -> ToolOutcome:
        return ToolOutcome(await self._barrier.wait() >= 0)

    async def _wait(self, context: ToolContext, arguments: Json) -> ToolOutcome:
        self.reached.set()
        try:
            await self.open.wait()
        finally:
            self.left.set()
        return ToolOutcome("through")

    async def _hang(self, context: ToolContext, arguments: Json) -> ToolOutcome:
        await asyncio.Event().wait()
        raise AssertionError


async def _explode(context: ToolContext, arguments: Json) -> ToolOutcome:
    raise ZeroDivisionError("secret detail")


async def _report(context: ToolContext, arguments: Json) -> ToolOutcome:
    context.progress("Half done.")
    for piece in ("one ", "two "):
        context.output("stdout", piece)
    context.output("stderr", "oops")
    return ToolOutcome("all done")


async def _refuse(context: ToolContext, arguments: Json) -> ToolOutcome:
    raise ToolError("Not on a Sunday.")


async def _mumble(context: ToolContext, arguments: Json) -> ToolOutcome:
    match arguments["how"]:
        case "text":
            return ToolOutcome("half \udcff")
        case "inside":
            return ToolOutcome({"half \udcff": ["\ud800"]})
        case "object":
            return ToolOutcome(object())
    raise ToolError("half \udcff")


class House:
    """Perdure in this process, so that a test can bring its own tools."""

    def __init__(self, parts: Parts, owner: Caller, session_id: str, worker: Worker) -> None:
        self.parts = parts
        self.owner = owner
        self.session_id = session_id
        self._worker = worker

    async def recover(self) -> None:
        """Cut the runner off in the middle of its work, and run the session as another one does."""
        await self._worker.drain(0)
        await advance(self.parts.engine, self.session_id, again=True)

    async def say(self, text: str) -> None:
        body = CreateMessage(InputMessage((TextPart(text),)))
        await post_message(self.parts.app, self.owner, self.session_id, body)

    async def cancel(self) -> None:
        await cancel_turn(self.parts.app, self.owner, self.session_id)

    async def until_idle(self) -> list[Event]:
        """The whole log, once the session rests."""
        ear = self.parts.bus.subscribe(self.session_id)
        async with asyncio.timeout(PATIENCE):
            while True:
                events = await self.parts.database.read(lambda tx: events_after(tx, self.session_id, 0))
                if events[-1].type == "session.idled":
                    return events
                await ear.wait(1)
                ear.drain()


async def nobody(session_id: str) -> None:
    """Tell no parent anything: a worker's `report` where no session has one."""


@asynccontextmanager
async def house_with(gate: Holder, folder: Path, catalog: Catalog | None = None) -> AsyncIterator[House]:
    async with open_parts(Settings(data=str(folder))) as opened:
        mine: dict[str, Any] = {
            "registry": Registry((*built_in(opened.app), gate.capability)),
            "catalog": catalog or opened.app.catalog,
        }
        app, engine = replace(opened.app, **mine), replace(opened.engine, **mine)
        parts = replace(opened, app=app, engine=engine)
        owner = await bootstrap(parts.app)
        provider = await create_provider(parts.app, owner, CreateProvider("Simulated", "llmsim"))
        await create_model(parts.app, owner, provider.id, CreateModel("simulated", "Simulated"))
        session = await create_session(parts.app, owner, CreateSession(capabilities=(CapabilityRef("gate"),)))
        worker = Worker(parts.engine, partial(deliver, parts.app))
        await worker.start()
        yield House(parts, owner, session.id, worker)
        await worker.drain(0)


def outcomes(events: list[Event]) -> list[Any]:
    return [event.decoded() for event in events if event.type == "tool.completed"]
