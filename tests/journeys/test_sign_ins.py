"""Calls of MCP servers that wait for a sign-in, and go on after it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.browser import Browser
from tests.oauth_server import OAuthServer, oauth_server
from tests.postgres_server import PostgresServer
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, call, kinds_of, new_talk, script

FIND = "mcp_crm__find"
pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass
class Place:
    """A Perdure server, an MCP server with its authorization server, and a browser."""

    server: Server
    http: httpx.AsyncClient
    crm: OAuthServer
    browser: Browser
    names: int = 0

    async def register(self, acts_as: str = "user", **more: Any) -> str:
        self.names += 1
        body = {"name": "crm", "url": self.crm.mcp, "auth_mode": "o_auth", "acts_as": acts_as, **more}
        for old in (await self.http.get("/v1/mcp-servers")).json()["data"]:
            assert (await self.http.post(f"/v1/mcp-servers/{old['id']}/delete")).status_code < 300
        return str((await post(self.http, "/v1/mcp-servers", body))["id"])

    async def talk(self, provider: str, **config: Any) -> Talk:
        return await new_talk(
            self.http, harness_name="base", capabilities=[{"ref": f"mcp:{provider}", "config": config}]
        )

    async def find(self, talk: Talk, *more: Json, then: str = "Done.") -> Json:
        """Have the model call the tool; return the event that parks the call."""
        await talk.say(script({"tool_calls": [call(FIND, _id="c1", who="Ada"), *more]}, {"text": then}))
        events = await talk.logged_until("act.completed")
        return next(event["data"] for event in events if event["type"] == "tool.parked")

    async def connections(self) -> list[Json]:
        found: list[Json] = (await self.http.get("/v1/user/connections")).json()["data"]
        return found

    async def link(self, provider: str) -> str:
        answer = await self.http.post(f"/v1/user/connections/{provider}/sign-in")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["url"])


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def perdure(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Server]:
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    environment = {"PERDURE_PRIVATE_ADDRESSES": "true", "PERDURE_LOG_LEVEL": "debug"}
    data = tmp_path_factory.mktemp("sign-ins")
    async with Server(data, database_url=url, environment=environment) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use_simulated_model(http)
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def place(perdure: Server) -> AsyncIterator[Place]:
    async with (
        httpx.AsyncClient(base_url=perdure.url, timeout=30) as http,
        oauth_server() as crm,
        Browser() as browser,
    ):
        yield Place(perdure, http, crm, browser)


def completed(events: list[Json], call_id: str = "c1") -> Json:
    return next(
        event["data"]
        for event in events
        if event["type"] == "tool.completed" and event["data"]["tool_call_id"] == call_id
    )


async def nowhere(place: Place, events: list[Json]) -> None:
    """No token, code or secret is in the log, the server's log, or any file of the database."""
    parts = [json.dumps(events), place.server.log.read_text()]
    parts += [each.read_bytes().decode("latin-1") for each in _files(place.server.data)]
    text = "\n".join(parts)
    found = [each for each in place.crm.secrets if each in text]
    assert place.crm.secrets
    assert found == []


def _files(folder: Path) -> list[Path]:
    return [each for each in folder.rglob("*") if each.is_file() and "perdure.db" in each.name]


async def test_a_call_waits_for_a_sign_in_and_goes_on_after_it(place: Place) -> None:
    provider = await place.register()
    talk = await place.talk(provider)
    parked = await place.find(talk)
    session = await talk.read()
    assert session["status"] == "waiting_for_tool_results"
    assert [(each["kind"], each["tool_call_id"]) for each in session["parked_on"]] == [("sign_in", "c1")]
    assert parked["kind"] == "sign_in"
    assert parked["sign_in_url"].startswith(f"{place.server.url}/v1/oauth/start/input_")
    assert 6.9 * 86_400_000 < parked["timeout_ms"] <= 7 * 86_400_000
    (pending,) = await place.connections()
    assert (pending["status"], pending["provider"], pending["session_ids"]) == (
        "pending",
        provider,
        [talk.id],
    )
    assert pending["sign_in_url"] == parked["sign_in_url"]
    (asked,) = (await place.http.get(talk.path("/input-requests"))).json()["data"]
    assert (asked["mode"], asked["server"], asked["tool_call_id"]) == ("sign_in", "crm", "c1")

    page = await place.browser.sign_in(parked["sign_in_url"])
    assert (page.status_code, "Signed in at crm" in page.text) == (200, True)
    assert page.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    events = await talk.logged_until("session.idled")
    kinds = [kind for kind in kinds_of(events) if kind.startswith("tool.")]
    assert kinds == ["tool.started", "tool.parked", "tool.resumed", "tool.started", "tool.completed"]
    keys = {event["data"]["effect_key"] for event in events if event["type"] == "tool.started"}
    assert len(keys) == 1
    done = completed(events)
    assert done["success"] is True
    assert "ada found it with [secret" in done["result"][0]["text"], "a token that comes back is redacted"
    assert done["acted_as"]["kind"] == "user"
    assert done["acted_as"]["user_id"] == session["owner_id"] if "owner_id" in session else True
    assert place.crm.faults == []
    (connected,) = await place.connections()
    assert (connected["status"], connected["scopes"]) == ("connected", ["crm:read", "offline_access"])
    assert "parked_on" not in await talk.read()
    await nowhere(place, events)
