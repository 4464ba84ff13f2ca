"""What journeys of sign-ins share: the servers, the browser, and what is looked for in logs and databases."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from tests.browser import Browser
from tests.oauth_server import OAuthServer
from tests.server import Server, post
from tests.talk import Json, Talk, call, new_talk, script

FIND = "mcp_crm__find"


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
    parts += await _rows(place.server.database_url)
    text = "\n".join(parts)
    found = [each for each in place.crm.secrets if each in text]
    assert place.crm.secrets
    assert found == []


async def _rows(url: str) -> list[str]:
    """Every row of a PostgreSQL database, as text; bytes as such, too."""
    if not url:
        return []
    connection = await asyncpg.connect(url)
    try:
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = [row for (name,) in names for row in await connection.fetch(f'SELECT * FROM "{name}"')]
    finally:
        await connection.close()
    values = [value for row in rows for value in row.values()]
    return [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in values]


def _files(folder: Path) -> list[Path]:
    return [each for each in folder.rglob("*") if each.is_file() and "perdure.db" in each.name]
