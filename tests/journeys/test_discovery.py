"""Tools that a capability discovers in the session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.accounts import bootstrap
from perdure.app.context import App
from perdure.app.messages import post_message
from perdure.app.models import create_model
from perdure.app.providers import create_provider
from perdure.app.sessions import create_session
from perdure.capabilities import (
    ONCE,
    READ_ONLY,
    Capability,
    Discovered,
    DiscoveryContext,
    Tool,
    ToolContext,
    ToolHints,
    ToolOutcome,
    schema,
)
from perdure.capabilities.layers import SessionLayers, load_layers
from perdure.capabilities.registry import Registry
from perdure.capabilities.resolve import ResolvedAgent, resolve_session
from perdure.domain.accounts import Caller
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.domain.providers import CreateModel, CreateProvider
from perdure.domain.redaction import Redactor
from perdure.domain.sessions import CreateSession, Session
from perdure.domain.tools import CapabilityRef, ClientSideTool
from perdure.engine.advance import advance
from perdure.engine.context import Engine
from perdure.llm.simulated import SimulatedDriver
from perdure.settings import Settings
from perdure.store.database import Database, Tx
from perdure.store.sessions import get_session
from perdure.tools.built_in import built_in
from perdure.wiring import open_parts
from tests.talk import call


class Inside(Struct, frozen=True):
    """Perdure with an additional capability, a session that has it, and the session's model."""

    app: App
    engine: Engine
    owner: Caller
    session: Session
    driver: SimulatedDriver

    async def ask(self) -> None:
        message = CreateMessage(InputMessage((TextPart("Hello."),)))
        await post_message(self.app, self.owner, self.session.id, message)
        await advance(self.engine, self.session.id)

    async def resolved(self) -> ResolvedAgent:
        found = await self.app.database.read(self._layers)
        return await resolve_session(
            found, self.app.registry, now=self.app.now, redactor=Redactor({}), model=None
        )

    async def _layers(self, tx: Tx) -> SessionLayers:
        return await load_layers(tx, await get_session(tx, self.owner.organization_id, self.session.id))


class Counted:
    """The real database, with a count of its open transactions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.open = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def read(self, body: Any, **how: Any) -> Any:
        return await self._counted(self._database.read(body, **how))

    async def write(self, body: Any, **how: Any) -> Any:
        return await self._counted(self._database.write(body, **how))

    async def _counted(self, work: Awaitable[Any]) -> Any:
        self.open += 1
        try:
            return await work
        finally:
            self.open -= 1


class Shelf:
    """A capability that discovers the tools on its shelf."""

    def __init__(self, *names: str, hints: ToolHints = READ_ONLY) -> None:
        self.names, self.hints = names, hints
        self.looks = 0
        self.watched: Counted | None = None
        self.seen_open: list[int] = []

    def capability(self) -> Capability:
        return Capability("shelf", "Shelf", "For tests.", "test", discover=self._discover)

    async def _discover(self, config: object, context: DiscoveryContext) -> Discovered:
        self.looks += 1
        if self.watched is not None:
            self.seen_open.append(self.watched.open)
        tools = [Tool(name, name, schema({}), _say, self.hints) for name in self.names]
        return Discovered("Look at the shelf.", tuple(tools))


async def _say(context: ToolContext, arguments: object) -> ToolOutcome:
    return ToolOutcome("from the shelf")


@asynccontextmanager
async def inside(
    url: str, folder: Path, shelf: Shelf, *answers: dict[str, Any], session: CreateSession
) -> AsyncIterator[Inside]:
    driver = SimulatedDriver(list(answers))
    async with open_parts(Settings(data=str(folder / "data"), database_url=url)) as parts:
        registry = Registry((*built_in(parts.app), shelf.capability()))
        app = replace(parts.app, registry=registry)
        engine = replace(parts.engine, registry=registry, drivers=lambda row, secrets: driver)
        owner = await bootstrap(app)
        provider = await create_provider(app, owner, CreateProvider("Simulated", "llmsim"))
        await create_model(app, owner, provider.id, CreateModel("simulated", "Simulated"))
        yield Inside(app, engine, owner, await create_session(app, owner, session), driver)


def with_shelf(*more: CapabilityRef, tools: tuple[ClientSideTool, ...] = ()) -> CreateSession:
    return CreateSession(harness_name="base", capabilities=(CapabilityRef("shelf"), *more), tools=tools)


async def test_the_model_receives_discovered_tools_and_calls_one(database_url: str, tmp_path: Path) -> None:
    shelf = Shelf("hammer", "axe")
    answers: tuple[dict[str, Any], ...] = ({"tool_calls": [call("axe")]}, {"text": "Cut."})
    async with inside(database_url, tmp_path, shelf, *answers, session=with_shelf()) as there:
        await there.ask()
        first, second = there.driver.requests
    assert [tool.name for tool in first.tools] == ["axe", "hammer"]
    assert "Look at the shelf." in first.system
    assert "from the shelf" in str(second.messages[-1].content)
    assert shelf.looks == 2


async def test_a_new_tool_is_available_at_the_next_model_call(database_url: str, tmp_path: Path) -> None:
    shelf = Shelf()
    answers = ({"text": "One."}, {"text": "Two."})
    async with inside(database_url, tmp_path, shelf, *answers, session=with_shelf()) as there:
        await there.ask()
        shelf.names = ("axe",)
        await there.ask()
        offered = [[tool.name for tool in request.tools] for request in there.driver.requests]
    assert offered == [[], ["axe"]]


async def test_a_discovered_tool_does_not_replace_another(tmp_path: Path) -> None:
    mine = ClientSideTool("ask_user", "Ask.", {"type": "object"})
    body = with_shelf(CapabilityRef("current_time"), tools=(mine,))
    async with inside("", tmp_path, Shelf("get_current_time", "ask_user", "axe"), session=body) as there:
        agent = await there.resolved()
    brought_by = {name: bound.capability_id for name, bound in agent.bound.items()}
    assert brought_by == {"get_current_time": "current_time", "axe": "shelf"}
    assert set(agent.client) == {"ask_user"}


async def test_a_discovered_tool_waits_for_approval_like_any_other(tmp_path: Path) -> None:
    body = with_shelf(CapabilityRef("tool_approval", {"mode": "protective"}))
    async with inside("", tmp_path, Shelf("axe", hints=ONCE), session=body) as there:
        agent = await there.resolved()
    assert agent.rules.gated == {"axe"}


async def test_no_transaction_is_open_during_discovery(database_url: str, tmp_path: Path) -> None:
    shelf = Shelf("axe")
    async with inside(database_url, tmp_path, shelf, {"text": "One."}, session=with_shelf()) as there:
        counted: Any = Counted(there.engine.database)
        shelf.watched = counted
        await replace(there, engine=replace(there.engine, database=counted)).ask()
    assert shelf.seen_open == [0]
