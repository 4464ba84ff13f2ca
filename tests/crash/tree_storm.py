"""A storm over trees of sessions: sub-agents three levels deep, with cancels and deletions meanwhile."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from tests.talk import Json, body_of, call, script

PATIENCE = 180.0
"""Seconds within which a storm must come to rest, and as many again for every four crashes. A turn may wait
for money that a lost call of another session holds: that is settled after 60 to 80 seconds."""
AWAY = 0.02
"""Seconds between two attempts to reach a server that is down, and between two looks at the database."""
DEPTH = 3
LEFT = (
    "SELECT (SELECT COUNT(*) FROM sessions WHERE deleted_at IS NULL AND status NOT IN ('idle', 'started')),"
    " (SELECT COUNT(*) FROM sessions WHERE news IS NOT NULL),"
    " (SELECT COUNT(*) FROM tasks WHERE finished_at IS NULL),"
    " (SELECT COUNT(*) FROM tasks WHERE wish IS NOT NULL)"
)
"""Counts what is not over yet: sessions at work, ends that parents have not heard of, tasks, and wishes."""
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
"""How often PostgreSQL has broken a deadlock: nobody would see one that was tried again."""
WHAT = ("sessions at work", "news", "tasks", "wishes")


class TreeStorm:
    """Clients who let trees grow, and disturb them, while the test crashes servers.

    Args:
        small: whether there are few trees, and no task lasts until its time limit.

    Attributes:
        roots: the sessions at the top.
        refused: answers with a status that no client should get.
        answers: how many answers there were, by status.
    """

    def __init__(
        self, urls: list[str], chance: random.Random, data: Path, database_url: str, *, small: bool = False
    ) -> None:
        self.urls = urls
        self.chance = chance
        self.roots: list[str] = []
        self.refused: list[str] = []
        self.answers: Counter[int] = Counter()
        self._data = data
        self._database_url = database_url
        self._small = small
        self._http = httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=None))

    async def run(self, crash: Callable[[], Awaitable[Any]], crashes: int) -> None:
        """Disturb all trees, and await `crash()` at random moments; returns when nothing is left to do."""
        trees, rounds = (2, 1) if self._small else (12, 5)
        async with self._http, asyncio.timeout(PATIENCE * (1 + crashes / 4)):
            self.roots = [await self._create() for _ in range(trees)]
            tending = [asyncio.create_task(self._tend(root, rounds)) for root in self.roots]
            for _ in range(crashes):
                await asyncio.sleep(0.1 + self.chance.random() * 0.5)
                await crash()
            await asyncio.gather(*tending)
            await self._rest()

    async def _create(self) -> str:
        # Calls that a kill interrupts are made again and again, which is no loop here.
        patient = {"ref": "loop_detection", "config": {"limit": 50}}
        body = {"capabilities": [{"ref": "subagents"}, patient]}
        made = await self._send("POST", "/v1/sessions", body, 201)
        return str(made["id"])

    # --- what happens to a tree ------------------------------------------------

    async def _tend(self, root: str, rounds: int) -> None:
        """Let the tree grow in every round, and disturb it."""
        for number in range(rounds):
            await self._say(root, grown(self.chance, f"{root[-6:]}.{number}", slow=not self._small))
            await asyncio.sleep(self.chance.random() * 0.4)
            await self._disturb(root, last=number == rounds - 1)

    async def _disturb(self, root: str, *, last: bool) -> None:
        what = self.chance.random()
        if what < 0.3:
            await self._say(root, script({"text": "Noted."}, ask="Meanwhile."))
        elif what < 0.45:
            await self._send("POST", f"/v1/sessions/{root}/cancel", None, 200)
        elif what < 0.85:
            child = await self._below(root)
            if child is not None and what < 0.65:
                await self._send("POST", f"/v1/sessions/{child}/cancel", None, 200, 404)
            elif child is not None:
                await self._send("DELETE", f"/v1/sessions/{child}", None, 200, 204, 404)
        elif last:
            await self._send("DELETE", f"/v1/sessions/{root}", None, 200, 204, 404)

    async def _below(self, session_id: str) -> str | None:
        """A session somewhere below another one; None if it has begun none."""
        found: str | None = None
        for _ in range(self.chance.randrange(1, DEPTH + 1)):
            path = f"/v1/sessions/{found or session_id}/events?types=task.created&limit=100"
            events = (await self._send("GET", path, None, 200, 404)).get("data")
            if not events:
                break
            task = self.chance.choice(events)["data"]["task"]
            found = task["links"]["child_session_id"]
        return found

    async def _say(self, session_id: str, text: str) -> None:
        await self._send("POST", f"/v1/sessions/{session_id}/messages", body_of(text), 201)

    async def _send(self, method: str, path: str, body: Json | None, *expected: int, **headers: str) -> Json:
        """Send a request, again and again to any server, until one answers; the key makes that harmless."""
        if method == "POST":
            headers["Idempotency-Key"] = f"{self.chance.getrandbits(64):x}"
        while True:
            try:
                url = self.chance.choice(self.urls) + path
                answer = await self._http.request(method, url, json=body, headers=headers)
            except httpx.TransportError:
                await asyncio.sleep(AWAY)
                continue
            self.answers[answer.status_code] += 1
            if answer.status_code in (503, 425) or "idempotency" in answer.text[:200]:
                await asyncio.sleep(AWAY)
                continue
            if answer.status_code not in expected:
                self.refused.append(f"{method} {path}: {answer.status_code}: {answer.text}")
            return dict(answer.json()) if answer.content else {}

    # --- the end ---------------------------------------------------------------

    async def _rest(self) -> None:
        """Wait until no session works, every task has ended, and everybody has heard of it."""
        counts: tuple[int, ...] = ()
        try:
            while any(counts := await self._left()) or not counts:
                await asyncio.sleep(AWAY)
        except asyncio.CancelledError:
            print("left:", dict(zip(WHAT, counts, strict=False)))
            raise

    async def _left(self) -> tuple[int, ...]:
        if self._database_url:
            return await counted(self._database_url, LEFT)
        return await asyncio.to_thread(self._left_in_file)

    def _left_in_file(self) -> tuple[int, ...]:
        connection = sqlite3.connect(f"file:{self._data / 'perdure.db'}?mode=ro", uri=True)
        try:
            return tuple(connection.execute(LEFT).fetchone())
        finally:
            connection.close()


async def counted(database_url: str, query: str) -> tuple[int, ...]:
    """The numbers that a query of PostgreSQL returns."""
    connection = await asyncpg.connect(database_url)
    try:
        return tuple(await connection.fetchrow(query))
    finally:
        await connection.close()


def grown(chance: random.Random, name: str, depth: int = 0, *, slow: bool) -> str:
    """A message whose script begins sub-agents, which begin others, down to the deepest level."""
    steps: list[Json] = []
    if depth < DEPTH and (depth == 0 or chance.random() < 0.7):
        names = [f"{name}.{number}" for number in range(chance.choice([1, 2, 2, 3]))]
        steps.append({"tool_calls": [_spawn(chance, each, depth + 1, slow=slow) for each in names]})
        if chance.random() < 0.5:
            steps.append({"tool_calls": [call("wait_tasks", until=chance.choice(["all", "any"]))]})
        if chance.random() < 0.2:
            steps.append({"tool_calls": [call("list_tasks")]})
    if depth and chance.random() < 0.3:
        report = call("report_to_parent", message=f"Part of {name}.", progress={"current": 1, "total": 2})
        steps.append({"tool_calls": [report]})
    last: Json = {"text": f"Answer of {name}.", "first_ms": chance.choice([0, 0, 50, 300])}
    if depth and chance.random() < 0.15:
        last = {"fail": {"code": "provider_auth"}}
    elif slow and depth and chance.random() < 0.08:
        last |= {"first_ms": 60_000}  # until its time limit
    return script(*steps, last, ask=f"{name}:")


def _spawn(chance: random.Random, name: str, depth: int, *, slow: bool) -> Json:
    arguments = {
        "name": name,
        "instructions": grown(chance, name, depth, slow=slow),
        "mode": chance.choice(["foreground", "background"]),
        "wake_policy": chance.choice(["on_terminal", "on_terminal", "on_activity", "silent"]),
        "time_limit": chance.choice([4, 6]),
    }
    return {"name": "spawn_agent", "arguments": arguments}


async def timed(what: Awaitable[Any]) -> None:
    """Await it, and print how long it took."""
    began = time.monotonic()
    await what
    print(f"the storm took {time.monotonic() - began:.1f} s")
