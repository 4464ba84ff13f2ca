"""Tokens of MCP servers in the test's own process: kept, refreshed by one at a time, and forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app import grants
from perdure.app.context import App
from perdure.app.grants import Held, keep_grant, revoke_quietly, usable_grant
from perdure.app.mcp_servers import create_server
from perdure.domain.connections import SignInServer, inline_key
from perdure.domain.mcp import McpUnreachable
from perdure.domain.mcp_servers import CreateMcpServer
from perdure.domain.oauth import Grant
from perdure.domain.tools import CapabilityRef
from perdure.llm.driver import ModelRequest, ModelResponse, OnDelta
from perdure.llm.simulated import SimulatedDriver
from perdure.net.oauth import place_of
from perdure.store.connections import (
    ConnectionRow,
    begin_refresh,
    find_client,
    find_connection,
    give_up_refresh,
    put_client,
    remove_connection,
)
from tests.conformance.places import soon
from tests.journeys.mcp_inside import Host, hosting
from tests.oauth_server import OAuthServer, oauth_server
from tests.talk import call
from tests.unit.test_oauth import INSIDE, signed_in_at

SECOND = 1_000_000
WHO = "user_1"


class Crm:
    """An MCP server that wants a sign-in, and what this server has of it."""

    def __init__(self, host: Host, server: OAuthServer) -> None:
        self.host, self.app, self.server = host, host.app, server
        self.sign_in = SignInServer(inline_key(server.mcp), "crm", server.mcp)
        self.key = (host.session_org, WHO, self.sign_in.key)

    async def grant(self) -> Grant:
        return (await signed_in_at(self.server, await place_of(self.server.mcp, INSIDE)))[0]

    async def keep(self, *, ends_in: int = 3600, stored_ago: int = 3600, **fields: Any) -> Grant:
        """Store tokens that end in so many seconds, as of so many seconds ago."""
        now = self.app.now()
        grant = replace(await self.grant(), expires_at=now + ends_in * SECOND, **fields)
        await self.store(grant, replace(self.app, now=lambda: now - stored_ago * SECOND))
        return grant

    async def store(self, grant: Grant, app: App, who: str = WHO) -> Held:
        org, server = self.host.session_org, self.sign_in
        return await app.database.write(lambda tx: keep_grant(app, tx, org, who, server, grant, None))

    async def usable(self, url: str | None = None, stale: int | None = None) -> Held | None:
        return await soon(usable_grant(self.app, *self.key, url or self.server.mcp, stale))

    async def row(self) -> ConnectionRow | None:
        return await self.app.database.read(lambda tx: find_connection(tx, *self.key))


@pytest.fixture
async def crm(tmp_path: Path) -> AsyncIterator[Crm]:
    async with hosting("", tmp_path) as host, oauth_server() as server:
        yield Crm(host, server)


async def test_tokens_are_used_only_where_they_were_given_and_as_long_as_they_last(crm: Crm) -> None:
    assert await crm.usable() is None
    grant = await crm.keep()
    held = await crm.usable()
    assert held is not None
    assert (held.grant.access_token, held.version) == (grant.access_token, 1)
    assert await crm.usable(url=f"{crm.server.mcp}/other") is None
    assert crm.server.refreshed == 0


async def test_tokens_that_end_soon_or_were_refused_are_refreshed(crm: Crm) -> None:
    grant = await crm.keep(ends_in=30)
    first = await crm.usable()
    assert first is not None
    assert first.version == 2
    assert first.grant.access_token != grant.access_token
    second = await crm.usable(stale=2)
    assert second is not None
    assert (second.version, crm.server.refreshed) == (3, 2)
    assert crm.server.faults == []


async def test_tokens_of_a_short_life_are_not_refreshed_at_once(crm: Crm) -> None:
    await crm.keep(ends_in=10, stored_ago=0)
    held = await crm.usable()
    assert held is not None
    assert (held.version, crm.server.refreshed) == (1, 0)


async def test_tokens_that_cannot_be_refreshed_are_used_to_their_end_and_then_removed(crm: Crm) -> None:
    await crm.keep(ends_in=30, refresh_token=None)
    held = await crm.usable()
    assert held is not None
    assert held.version == 1
    assert await crm.usable(stale=1) is None
    assert await crm.row() is None


async def test_while_nobody_can_be_asked_tokens_are_used_to_their_end(crm: Crm) -> None:
    await crm.keep(ends_in=30)
    crm.server.lies.down = True
    held = await crm.usable()
    assert held is not None
    assert held.version == 1
    with pytest.raises(McpUnreachable, match="The sign-in at crm cannot be renewed"):
        await crm.usable(stale=1)
    crm.server.lies.down = False
    fresh = await crm.usable(stale=1)
    assert fresh is not None
    assert fresh.version == 2, "it was given up, so that the next one may try"


async def test_tokens_that_were_revoked_are_forgotten(crm: Crm) -> None:
    await crm.keep(ends_in=30)
    crm.server.grants[0].revoked = True
    assert await crm.usable() is None
    assert await crm.row() is None


async def test_a_client_that_the_server_does_not_know_any_more_is_forgotten_too(tmp_path: Path) -> None:
    async with hosting("", tmp_path) as host, oauth_server() as server:
        crm = Crm(host, server)
        grant = await crm.keep(ends_in=30)
        where = (host.session_org, grant.issuer, grant.client.redirect_uri)
        await crm.app.database.write(lambda tx: put_client(tx, *where, b"sealed", 0))
        server.clients.clear()
        assert await crm.usable() is None
        assert await crm.app.database.read(lambda tx: find_client(tx, *where)) is None


async def test_what_is_removed_while_it_is_refreshed_is_revoked(crm: Crm) -> None:
    await crm.keep(ends_in=30)

    async def remove() -> None:
        await crm.app.database.write(lambda tx: remove_connection(tx, *crm.key, 1))

    crm.server.before_answer = remove
    assert await crm.usable() is None
    assert (crm.server.refreshed, crm.server.grants[0].revoked) == (1, True)
    assert await crm.row() is None


async def test_one_process_refreshes_and_others_wait_for_it(
    crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    await crm.keep(ends_in=30)
    row = await crm.row()
    assert row is not None
    now = crm.app.now()
    database = crm.app.database
    assert await database.write(lambda tx: begin_refresh(tx, row, now + 30 * SECOND, now))
    monkeypatch.setattr(grants, "PATIENCE", 0.0)
    with pytest.raises(McpUnreachable, match="is being renewed for too long"):
        await crm.usable()
    assert crm.server.refreshed == 0
    monkeypatch.undo()
    monkeypatch.setattr(grants, "PAUSE", 0.001)
    waiting = asyncio.create_task(crm.usable())
    await database.write(lambda tx: give_up_refresh(tx, row))
    held = await waiting
    assert held is not None
    assert (held.version, crm.server.refreshed) == (2, 1)


async def test_a_server_that_cannot_be_told_to_revoke_tokens_is_noted(
    crm: Crm, caplog: pytest.LogCaptureFixture
) -> None:
    grant = await crm.grant()
    await revoke_quietly(crm.app, crm.sign_in, grant)
    assert crm.server.grants[0].revoked
    caplog.set_level("INFO", "perdure.sign_in")
    await revoke_quietly(crm.app, replace(crm.sign_in, url="ftp://a.example"), grant)
    assert "the tokens at crm could not be revoked" in caplog.text
    assert grant.access_token not in caplog.text


# --- the tool that stands for a server's tools ---------------------------------

SIGN_IN = "mcp_crm__sign_in"


class Meanwhile:
    """A model whose first answer comes after something has happened."""

    def __init__(self, driver: SimulatedDriver, happens: Any) -> None:
        self.driver, self.happens = driver, happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self.driver, name)

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        if self.happens is not None:
            happens, self.happens = self.happens, None
            await happens()
        return await self.driver.generate(request, on_delta)


class Meeting(Crm):
    """A session whose model calls the tool that asks for a sign-in."""

    async def begin(self, happens: Any = None) -> None:
        self.server.lies.lists_openly = False
        body = CreateMcpServer("crm", self.server.mcp, auth_mode="o_auth", acts_as="user")
        server = await create_server(self.app, self.host.owner, body)
        self.sign_in = SignInServer(server.id, "crm", self.server.mcp)
        driver: Any = Meanwhile(self.host.driver, happens)
        engine = replace(self.host.engine, drivers=lambda row, secrets: driver)
        host = await self.host.with_session(refs=(CapabilityRef(f"mcp:{server.id}"),))
        self.host = replace(host, engine=engine)
        await self.host.ask()

    async def store_mine(self, spoil: Any = None) -> None:
        await self.store(await self.grant(), self.app, self.host.owner.user_id)
        if spoil is not None:
            spoil(self.server.grants[0])

    def offered_then(self) -> list[list[str]]:
        return [[tool.name for tool in request.tools] for request in self.host.driver.requests]


@pytest.fixture
async def meeting(tmp_path: Path) -> AsyncIterator[Meeting]:
    steps: list[dict[str, Any]] = [{"tool_calls": [call(SIGN_IN)]}, {"text": "Done."}]
    async with hosting("", tmp_path, *steps) as host, oauth_server() as server:
        yield Meeting(host, server)


async def parked(meeting: Meeting) -> list[str]:
    return [event.type for event in await meeting.host.log() if event.type == "tool.parked"]


async def test_the_tool_waits_for_a_sign_in(meeting: Meeting) -> None:
    await meeting.begin()
    assert await parked(meeting) == ["tool.parked"]
    assert await meeting.host.ended() == []
    assert meeting.offered_then() == [[SIGN_IN]]


async def test_somebody_who_has_signed_in_meanwhile_gets_the_tools(meeting: Meeting) -> None:
    await meeting.begin(meeting.store_mine)
    assert await meeting.host.said() == ["Signed in at crm. Its tools are available from now on."]
    assert meeting.offered_then() == [[SIGN_IN], ["mcp_crm__find"]]


async def test_a_token_that_is_refused_is_renewed_once(meeting: Meeting) -> None:
    def spoil(tokens: Any) -> None:
        tokens.access = "another"

    await meeting.begin(partial(meeting.store_mine, spoil))
    assert await meeting.host.said() == ["Signed in at crm. Its tools are available from now on."]
    assert meeting.server.refreshed == 1


async def test_a_sign_in_that_was_revoked_is_asked_for_again(meeting: Meeting) -> None:
    def spoil(tokens: Any) -> None:
        tokens.revoked = True

    await meeting.begin(partial(meeting.store_mine, spoil))
    assert await parked(meeting) == ["tool.parked"]
    assert meeting.server.refreshed == 0
