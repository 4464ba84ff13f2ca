"""kill -9 around a sign-in: every call that waits for it goes on, and no grant is lost silently."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.browser import Browser
from tests.crash import dying_before_resuming
from tests.oauth_server import OAuthServer, oauth_server
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, call, kinds_of, new_talk, script

INSIDE = {"PERDURE_PRIVATE_ADDRESSES": "true"}


@asynccontextmanager
async def serving(database_url: str, folder: Path) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    server = Server(folder / "data", database_url=database_url, environment=INSIDE)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        yield server, http


async def register(http: httpx.AsyncClient, crm: OAuthServer) -> str:
    body = {"name": "crm", "url": crm.mcp, "auth_mode": "o_auth", "acts_as": "user"}
    return str((await post(http, "/v1/mcp-servers", body))["id"])


async def finds(http: httpx.AsyncClient, provider: str) -> Talk:
    talk = await new_talk(http, harness_name="base", capabilities=[{"ref": f"mcp:{provider}"}])
    await talk.say(script({"tool_calls": [call("mcp_crm__find", _id="c1", who="Ada")]}, {"text": "Done."}))
    return talk


async def parked(talk: Talk) -> Json:
    events = await talk.logged_until("act.completed")
    return [event["data"] for event in events if event["type"] == "tool.parked"][-1]


async def successes(talk: Talk) -> list[bool]:
    events = await talk.logged_until("session.idled")
    return [event["data"]["success"] for event in events if event["type"] == "tool.completed"]


async def test_calls_whose_tokens_are_stored_go_on_after_a_kill(database_url: str, tmp_path: Path) -> None:
    async with (
        serving(database_url, tmp_path) as (server, http),
        oauth_server() as crm,
        Browser() as browser,
    ):
        provider = await register(http, crm)
        talks = [await finds(http, provider) for _ in range(3)]
        urls = [(await parked(talk))["sign_in_url"] for talk in talks]
        await server.kill()
        server.program = (dying_before_resuming.__file__,)
        await server.start()
        with pytest.raises(httpx.HTTPError):
            await browser.sign_in(urls[0])
        await server.kill()
        server.program = ()
        await server.start()
        assert [await successes(talk) for talk in talks] == [[True]] * 3
        for talk in talks:
            assert kinds_of(await talk.events()).count("tool.resumed") == 1
        assert (len(crm.grants), crm.faults) == (1, [])


@pytest.mark.soak  # waits until the dead process no longer counts: 30 seconds
async def test_a_kill_between_a_refresh_and_its_storage_asks_for_a_new_sign_in(
    database_url: str, tmp_path: Path
) -> None:
    """The server has revoked the old refresh token, and only the dead process had the new one."""
    async with (
        serving(database_url, tmp_path) as (server, http),
        oauth_server() as crm,
        Browser() as browser,
    ):
        provider = await register(http, crm)
        link = await http.post(f"/v1/user/connections/{provider}/sign-in")
        assert (await browser.sign_in(link.json()["url"])).status_code == 200
        killed = asyncio.Event()

        async def die() -> None:
            killed.set()
            await server.kill()

        crm.grants[0].until = 0.0
        crm.before_answer = die
        talk = await finds(http, provider)
        await asyncio.wait_for(killed.wait(), 30)
        crm.before_answer = None
        await server.start()
        events = await talk.logged_until("tool.parked", "tool.completed")
        if events[-1]["type"] == "tool.completed":  # not made, and nobody knows: the model is told so
            assert events[-1]["data"]["status"] == "interrupted"
            await talk.logged_until("session.idled")
            talk = await finds(http, provider)
        again = await parked(talk)
        assert crm.faults == ["an old refresh token was used again"]
        assert (await browser.sign_in(again["sign_in_url"])).status_code == 200
        assert (await successes(talk))[-1]
