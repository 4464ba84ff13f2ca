"""kill -9 while agents are changed: every change that is there has its entry, and every entry its change."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tests.journeys.people import get, new_agent
from tests.server import Server
from tests.talk import Json

WRITERS, ROUNDS = 6, 3


async def test_changes_and_their_entries_survive_kills_together(database_url: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", database_url=database_url)
    async with server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            org = (await get(http, "/v1/orgs"))["data"][0]["id"]
            agents = [(await new_agent(http, description="0"))["id"] for _ in range(WRITERS)]
        answered: set[tuple[str, str]] = set()
        for number in range(ROUNDS):
            enough = asyncio.Event()
            writers = [
                asyncio.create_task(_write(server.url, each, number, answered, enough)) for each in agents
            ]
            await enough.wait()
            await server.kill()
            await asyncio.gather(*writers)
            await server.start()
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            log = (await get(http, f"/v1/orgs/{org}/audit-logs", limit=1000))["data"]
            for agent in agents:
                await _check(http, agent, [each for each in log if each["entity"]["id"] == agent], answered)
    assert len(answered) >= ROUNDS * WRITERS


async def _write(
    url: str, agent: str, number: int, answered: set[tuple[str, str]], enough: asyncio.Event
) -> None:
    """Change an agent again and again until the server is gone."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        for count in range(40):
            text = f"{number}.{count}"
            try:
                changed = await http.patch(f"/v1/agents/{agent}", json={"description": text})
            except httpx.HTTPError:
                return
            if changed.status_code == 200:
                answered.add((agent, text))
            if count == 4:
                enough.set()
    enough.set()


async def _check(
    http: httpx.AsyncClient, agent: str, entries: list[Json], answered: set[tuple[str, str]]
) -> None:
    """Check that the entries of an agent are one chain, which ends with how the agent is."""
    entries.reverse()
    assert entries[0]["action"] == "agent.created"
    texts = [each["after"]["description"] for each in entries]
    assert [each["before"]["description"] for each in entries[1:]] == texts[:-1]
    assert (await get(http, f"/v1/agents/{agent}"))["description"] == texts[-1]
    assert {text for name, text in answered if name == agent} <= set(texts)
    found = (await get(http, f"/v1/history/{agent}", limit=1000))["data"]
    assert [each["revision"] for each in found] == list(range(len(texts), 0, -1))
    assert [each["audit_entry_id"] for each in reversed(found)] == [each["id"] for each in entries]
