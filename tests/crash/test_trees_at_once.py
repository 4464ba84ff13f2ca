"""Trees of sub-agents in which everything happens at once, on two processes: nobody deadlocks."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx

from tests.crash.storm import seed
from tests.crash.test_kills import KEY, prepare
from tests.crash.tree_storm import AWAY, DEADLOCKS, LEFT, counted
from tests.crash.tree_storm_checks import check_trees
from tests.server import Server, post
from tests.talk import Json, Talk, body_of, script

CHILDREN = 6
PATIENCE = 60.0


def family(name: str, depth: int = 0) -> str:
    """A message that begins many sub-agents in the background, each of which begins others."""
    if depth == 2:
        return script({"text": "Done.", "first_ms": 30})
    children = [
        {
            "name": "spawn_agent",
            "arguments": {
                "name": f"{name}.{number}",
                "instructions": family(f"{name}.{number}", depth + 1),
                "mode": "background" if number % 2 else "foreground",
                "wake_policy": "on_activity",
            },
        }
        for number in range(CHILDREN if depth == 0 else 2)
    ]
    return script({"tool_calls": children}, {"text": "Done."})


class Disturbed:
    """A tree whose sessions are cancelled and deleted from both sides while they end."""

    def __init__(self, clients: list[httpx.AsyncClient], chance: random.Random) -> None:
        self.clients = clients
        self.chance = chance

    def client(self) -> httpx.AsyncClient:
        return self.chance.choice(self.clients)

    async def play(self, number: int) -> None:
        http = self.client()
        made = await post(http, "/v1/sessions", {"capabilities": [{"ref": "subagents"}]})
        talk = Talk(http, made["id"])
        await talk.say(family(f"tree {number}"))
        await talk.logged_until("task.created")
        tasks = [each["data"]["task"] for each in await talk.events(types="task.created")]
        children = [task["links"]["child_session_id"] for task in tasks]
        ends = [self._send("POST", f"/v1/sessions/{child}/cancel") for child in children[::2]]
        ends += [self._send("DELETE", f"/v1/sessions/{child}") for child in children[1::3]]
        ends += [self._say(talk.id), self._send("POST", f"/v1/sessions/{talk.id}/cancel")]
        if number % 3 == 0:
            ends.append(self._send("DELETE", f"/v1/sessions/{talk.id}"))
        self.chance.shuffle(ends)
        await asyncio.gather(*ends)

    async def _say(self, session_id: str) -> None:
        body: Json = body_of(family("more"))
        await self._send("POST", f"/v1/sessions/{session_id}/messages", body)

    async def _send(self, method: str, path: str, body: Json | None = None) -> None:
        answer = await self.client().request(method, path, json=body)
        assert answer.status_code in (200, 201, 204, 404), (method, path, answer.status_code, answer.text)


async def test_ends_cancels_and_deletions_at_once_never_deadlock(postgres_url: str, tmp_path: Path) -> None:
    chance = random.Random(seed())
    left = Server(tmp_path / "left", database_url=postgres_url, environment=KEY)
    right = Server(tmp_path / "right", database_url=postgres_url, environment=KEY)
    async with left, right:
        await prepare(left)
        async with (
            asyncio.timeout(PATIENCE),
            httpx.AsyncClient(base_url=left.url, timeout=30) as one,
            httpx.AsyncClient(base_url=right.url, timeout=30) as two,
        ):
            disturbed = Disturbed([one, two], chance)
            await asyncio.gather(*(disturbed.play(number) for number in range(8)))
            while any(await counted(postgres_url, LEFT)):
                await asyncio.sleep(AWAY)
    for server in (left, right):
        log = server.log.read_text()
        for trouble in ("Traceback", "deadlock", "40P01"):
            assert trouble not in log, log[-3000:]
    assert await counted(postgres_url, DEADLOCKS) == (0,)
    await check_trees(tmp_path, postgres_url)
