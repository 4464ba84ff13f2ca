"""`kill -9` while people and sessions write memories: nothing acknowledged is lost, nothing is half done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.journeys.stores import Store, mounts, sha, talk_with
from tests.server import Server, post, use_simulated_model
from tests.soak import amounts
from tests.talk import Json, Talk, call, new_talk, script, when

WRITERS = 4


@pytest.fixture
async def client(any_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=any_server.url, timeout=30) as http:
        await use_simulated_model(http)
        yield http


class Writer:
    """Writes texts of its own to one file, and notes which the server acknowledged."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self.acknowledged: list[str] = []
        self.tries = 0

    async def write_until(self, over: asyncio.Event) -> None:
        while not over.is_set():
            self.tries += 1
            text = f"{self.name} {self.tries}"
            path = f"{self.store.base}/fs/{self.name}.md"
            try:
                answer = await self.store.http.put(path, json={"content": text})
                if answer.status_code == 404:
                    answer = await self.store.http.post(path, json={"content": text})
            except httpx.TransportError:
                await asyncio.sleep(0)
                continue
            if answer.status_code in (200, 201):
                self.acknowledged.append(text)


async def whole(store: Store) -> list[Json]:
    """Check that files, versions and totals agree; return all versions, oldest first."""
    versions: list[Json] = []
    before: Any = None
    while True:
        query = {"limit": 1000} | ({} if before is None else {"before_sequence": before})
        page = await store.versions(**query)
        if not page:
            break
        versions += page
        before = page[-1]["sequence"]
    versions.reverse()
    assert [each["sequence"] for each in versions] == list(range(1, len(versions) + 1))
    files = (await store.send("GET", "/fs", 200, params={"recursive": True}))["data"]
    newest = {each["path"]: each for each in versions}
    kept = {path: each["content_hash"] for path, each in newest.items() if each["operation"] != "delete"}
    assert {each["path"]: each["content_hash"] for each in files if not each["is_directory"]} == kept
    for path in newest:
        numbers = [each["version"] for each in versions if each["path"] == path]
        assert numbers == list(range(1, len(numbers) + 1))
    memory = await store.send("GET", "", 200)
    assert memory["size_bytes"] == sum(each["size_bytes"] for each in files)
    assert memory["file_count"] == len(files)
    assert memory["history_bytes"] == sum(each["size_bytes"] for each in versions)
    for path, hash_ in kept.items():
        assert sha(await store.text(path)) == hash_
    return versions


@pytest.mark.parametrize("kills", amounts(2, 12))
async def test_no_acknowledged_write_is_lost(
    any_server: Server, client: httpx.AsyncClient, kills: int
) -> None:
    store = Store(client, await post(client, "/v1/memories", {"name": "storm"}))
    writers = [Writer(store, f"w{number}") for number in range(WRITERS)]
    over = asyncio.Event()
    tasks = [asyncio.create_task(each.write_until(over)) for each in writers]
    for _ in range(kills):
        known = sum(len(each.acknowledged) for each in writers)
        while sum(len(each.acknowledged) for each in writers) < known + 10:
            await asyncio.sleep(0)
        await any_server.restart()
    over.set()
    await asyncio.gather(*tasks)
    versions = await whole(store)
    hashes = {each.get("content_hash") for each in versions}
    for writer in writers:
        assert writer.acknowledged
        assert {sha(text) for text in writer.acknowledged} <= hashes


@pytest.mark.parametrize("kills", amounts(2, 6))
async def test_a_killed_session_writes_its_memory_once(
    any_server: Server, client: httpx.AsyncClient, kills: int
) -> None:
    """Turns that write one memory go on after each kill, and no write is lost or doubled."""
    store = Store(client, await post(client, "/v1/memories", {"name": "shared"}))
    talks = [await talk_with(store) for _ in range(3)]
    for talk in talks:
        folder = f"/memories/notes/{talk.id[-8:]}"
        steps: list[Json] = [
            {"tool_calls": [call("write_file", path=f"{folder}/{number}.md", content=f"{number}\n")]}
            for number in range(8)
        ]
        await talk.say(script(*steps, {"text": "Done."}))
    for _ in range(kills):
        before = len(await store.versions())

        async def grown(known: int = before) -> bool:
            return len(await store.versions()) > known or known == 24

        await when(grown)
        await any_server.restart()
    for talk in talks:
        await talk.logged_until("session.idled")
    versions = await whole(store)
    assert len(versions) == 24
    assert {each["session_id"] for each in versions} == {talk.id for talk in talks}


async def test_a_session_is_closed_before_the_log_has_what_a_memory_holds(
    any_server: Server, client: httpx.AsyncClient
) -> None:
    """Killed at any moment of the first read: the log never has the text while the session is open."""
    mine = mounts({"name": "me", "scope": "user", "mode": "read_write"})
    writes = {"tool_calls": [call("write_file", path="/memories/me/a.md", content="swordfish\n")]}
    await (await new_talk(client, capabilities=mine)).turn(writes, {"text": "ok"})
    agent = await post(client, "/v1/agents", {"name": "reader", "system_prompt": "Read."})
    talk = await new_talk(client, agent_id=agent["id"])
    changed = await client.patch(f"/v1/agents/{agent['id']}", json={"capabilities": mine})
    assert changed.status_code == 200
    reads = {"tool_calls": [call("read_file", path="/memories/me/a.md")]}
    await talk.say(script(reads, {"text": "ok"}))
    await talk.logged_until("tool.started", "tool.completed")
    await any_server.restart()
    await talk.logged_until("session.idled")
    token = await post(client, "/v1/users/me/tokens", {"name": "mine"})
    await any_server.restart()
    headers = {"authorization": f"Bearer {token['token']}"}
    async with httpx.AsyncClient(base_url=any_server.url, timeout=30, headers=headers) as mine_now:
        other = await post(mine_now, "/v1/users", {"email": "b@example.com", "name": "b", "role": "member"})
        theirs = await post(mine_now, f"/v1/users/{other['id']}/tokens", {"name": "b"})
        assert "swordfish" in (await mine_now.get(talk.path("/events"))).text
    headers = {"authorization": f"Bearer {theirs['token']}"}
    async with httpx.AsyncClient(base_url=any_server.url, timeout=30, headers=headers) as b:
        assert (await b.get(Talk(b, talk.id).path("/events"))).status_code == 404
