"""Perdure in this process, with a session that uses MCP servers, and its simulated model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.accounts import bootstrap
from perdure.app.approvals import submit_approvals
from perdure.app.context import App
from perdure.app.messages import post_message
from perdure.app.providers import create_model, create_provider
from perdure.app.sessions import create_session
from perdure.app.storage import put_secrets
from perdure.domain.accounts import Caller
from perdure.domain.decisions import Decision
from perdure.domain.events import Event, ToolCallRequestedData, ToolCompletedData
from perdure.domain.ids import OrgId
from perdure.domain.inbox import Decider
from perdure.domain.mcp_servers import InlineMcpServer
from perdure.domain.messages import CreateMessage, InputMessage, TextPart, text_of
from perdure.domain.providers import CreateModel, CreateProvider
from perdure.domain.sessions import CreateSession, NetworkAccess, Session
from perdure.domain.storage import SetSecrets
from perdure.domain.tools import APPROVE, ApprovalDecision, CapabilityRef, SubmitApprovals
from perdure.engine.advance import advance
from perdure.engine.context import Engine
from perdure.llm.simulated import SimulatedDriver
from perdure.settings import Settings
from perdure.store.events import events_after
from perdure.wiring import open_parts


class Host(Struct, frozen=True):
    """The parts, a session, and the session's model."""

    app: App
    engine: Engine
    owner: Caller
    session: Session
    driver: SimulatedDriver

    async def ask(self, said: str = "Hello.") -> None:
        """Post a message and work on it until the session is idle or parked."""
        message = CreateMessage(InputMessage((TextPart(said),)))
        await post_message(self.app, self.owner, self.session.id, message)
        await self.work()

    async def work(self) -> None:
        await advance(self.engine, self.session.id)

    async def log(self) -> list[Event]:
        return await self.app.database.read(lambda tx: events_after(tx, self.session.id, 0))

    async def ended(self) -> list[ToolCompletedData]:
        """How the calls ended, without the answers to questions."""
        found = [event.get(ToolCompletedData) for event in await self.log()]
        return [each for each in found if each is not None and each.tool_name != APPROVE]

    async def said(self) -> list[str]:
        """What the model read of each call."""
        return [text_of(each.result or ()) or str(each.error) for each in await self.ended()]

    async def questions(self) -> list[ToolCallRequestedData]:
        found = [event.get(ToolCallRequestedData) for event in await self.log()]
        return [each for each in found if each is not None]

    async def decide(self, decision: Decision) -> None:
        """Decide the open question, and go on."""
        asked = (await self.questions())[-1].tool_calls[0]
        body = SubmitApprovals((ApprovalDecision(asked.id, decision),))
        await submit_approvals(self.app, Decider(self.owner), self.session.id, body)
        await self.work()

    async def with_session(
        self,
        *,
        refs: tuple[CapabilityRef, ...] = (),
        servers: dict[str, InlineMcpServer] | None = None,
        network: NetworkAccess | None = None,
    ) -> Host:
        """The same with another session."""
        body = CreateSession(
            harness_name="base", capabilities=refs, mcp_servers=servers or {}, network_access=network
        )
        return replace(self, session=await create_session(self.app, self.owner, body))

    def forget_tools(self) -> None:
        """As a minute later: lists of tools are asked for again."""
        registry = self.app.registry
        registry.discoveries.__init__()  # type: ignore[misc]

    @property
    def session_org(self) -> OrgId:
        return self.owner.organization_id

    def offered(self) -> list[str]:
        """The tools of the last model call."""
        return [tool.name for tool in self.driver.requests[-1].tools]


@asynccontextmanager
async def hosting(
    url: str,
    folder: Path,
    *answers: dict[str, Any],
    servers: dict[str, InlineMcpServer] | None = None,
    refs: tuple[CapabilityRef, ...] = (),
    secrets: dict[str, str] | None = None,
    local: Path | None = None,
) -> AsyncIterator[Host]:
    """Open Perdure with a session that uses these servers; its model gives these answers.

    Args:
        local: the operator's file of servers.
    """
    driver = SimulatedDriver(list(answers))
    settings = Settings(
        data=str(folder / "data"),
        database_url=url,
        private_addresses=True,
        mcp_servers="" if local is None else str(local),
    )
    async with open_parts(settings) as parts:
        engine = replace(parts.engine, drivers=lambda row, secrets: driver)
        owner = await bootstrap(parts.app)
        provider = await create_provider(parts.app, owner, CreateProvider("Simulated", "llmsim"))
        await create_model(parts.app, owner, provider.id, CreateModel("simulated", "Simulated"))
        body = CreateSession(harness_name="base", capabilities=refs, mcp_servers=servers or {})
        session = await create_session(parts.app, owner, body)
        if secrets:
            await put_secrets(parts.app, owner, session.id, SetSecrets(secrets))
        yield Host(parts.app, engine, owner, session, driver)
