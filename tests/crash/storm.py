"""A storm: clients post, followers record what they see, and the test crashes servers meanwhile.

Everything random comes from one seed, which is printed. `PERDURE_SEED=n` sets the seed.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import httpx

from tests.crash.followers import AWAY, Followers, Session
from tests.talk import Json, body_of, call, new_talk, script

PATIENCE = 60.0
"""Seconds within which a storm must come to rest, and as many again for every four crashes."""

COUNTER = "/counter"
"""A file that gets one `x` with every edit."""


def seed() -> int:
    """The seed of this storm; it is printed, so that a failure can be reproduced."""
    chosen = int(os.environ.get("PERDURE_SEED") or random.randrange(1 << 32))
    print(f"PERDURE_SEED={chosen}")
    return chosen


class Storm:
    """The load on the servers at `urls`. A client that cannot reach its server tries any of them again.

    Attributes:
        crashes: how often `run` calls `crash`.
        refused: answers with a status that no client should get.
    """

    def __init__(
        self, urls: list[str], chance: random.Random, *, crashes: int, sessions: int = 6, clients: int = 4
    ) -> None:
        self.urls = urls
        self.chance = chance
        self.sessions: list[Session] = []
        self.refused: list[str] = []
        self.crashes = crashes
        self._counts = (sessions, clients, 4 + 2 * crashes)
        self._events = 0
        self._grown = asyncio.Condition()
        self._http = httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=None))
        self._followers = Followers(urls, chance, self._http, self._count)

    async def run(self, crash: Any) -> None:
        """Post all messages, and await `crash()` at random moments; returns when all sessions are at rest."""
        async with self._http:
            sessions, clients, messages = self._counts
            files = [{"path": COUNTER, "content": "|"}]
            ids = [await self._from_any_server(lambda url: self._create(url, files)) for _ in range(sessions)]
            self.sessions = [Session(session_id) for session_id in ids]
            async with asyncio.timeout(PATIENCE * (1 + self.crashes / 4)), asyncio.TaskGroup() as group:
                followers = [group.create_task(self._followers.follow(session)) for session in self.sessions]
                posts = [group.create_task(self._post(number, messages)) for number in range(clients)]
                for _ in range(self.crashes):
                    await self._after(self.chance.randrange(5, 60))
                    await asyncio.sleep(self.chance.random() * 0.05)
                    await crash()
                await asyncio.gather(*posts)
                for session in self.sessions:
                    await self._rest(session)
                for follower in followers:
                    follower.cancel()

    # --- clients ---------------------------------------------------------------

    async def _create(self, url: str, files: list[Json]) -> str:
        self._http.base_url = httpx.URL(url)
        # Calls that a kill interrupts are made again and again, which is no loop here.
        patient = {"ref": "loop_detection", "config": {"limit": 50}}
        return (await new_talk(self._http, initial_files=files, capabilities=[patient])).id

    async def _post(self, client: int, messages: int) -> None:
        """Post messages one after the other, each until it is acknowledged.

        The idempotency key makes repetitions harmless.
        """
        for number in range(messages):
            session = self.chance.choice(self.sessions)
            name = f"client {client} message {number}"
            body, key = body_of(script(*self._steps(name), ask=f"{name}:")), f"{client}/{number}/{session.id}"
            message = await self._from_any_server(
                lambda url, s=session, b=body, k=key: self._say(url, s, b, k)
            )
            session.acknowledged.append(message)

    def _steps(self, name: str) -> list[Json]:
        """A random script: tool calls, edits and slow or broken answers."""
        chance = self.chance
        edit = call("edit_file", path=COUNTER, old_text="|", new_text="|x")
        rounds = chance.choice(
            [
                [],
                [{"tool_calls": [edit], "first_ms": chance.randrange(30)}],
                [
                    {
                        "tool_calls": [
                            call("get_current_time"),
                            edit,
                            call("write_file", path=f"/{name}", content=name),
                        ]
                    }
                ],
                [{"tool_calls": [edit]}, {"text": "More.", "tool_calls": [call("read_file", path=COUNTER)]}],
            ]
        )
        last = {
            "text": f"Answer to {name}. " * 3,
            "first_ms": chance.randrange(100),
            "delay_ms": chance.choice([0, 0, 5]),
        }
        if chance.random() < 0.1:
            last |= {"cut_after": 2, "cut_times": 1}
        return [*rounds, last]

    async def _say(self, url: str, session: Session, body: Json, key: str) -> Json:
        answer = await self._http.post(
            url + session.path("/messages"), json=body, headers={"Idempotency-Key": key}
        )
        if answer.status_code == 503:
            raise ConnectionError
        if answer.status_code != 201:
            self.refused.append(f"{answer.status_code}: {answer.text}")
        answer.raise_for_status()
        return dict(answer.json())

    async def _rest(self, session: Session) -> None:
        at_rest = "idle" if session.acknowledged else "started"  # one that no message was sent to by chance
        while await self._from_any_server(lambda url: self._status(url, session)) != at_rest:
            await asyncio.sleep(AWAY)
        # A follower on another server gets the last events a moment after the row shows them.
        # One that is cancelled while it connects would leave its connection open.
        total = await self._from_any_server(lambda url: self._total(url, session))
        while len(session.seen) < total or not session.followed:
            await asyncio.sleep(AWAY)

    async def _status(self, url: str, session: Session) -> str:
        answer = await self._http.get(url + session.path())
        if answer.status_code == 503:
            raise ConnectionError
        answer.raise_for_status()
        return str(answer.json()["status"])

    async def _total(self, url: str, session: Session) -> int:
        answer = await self._http.get(url + session.path("/events/summary"))
        if answer.status_code == 503:
            raise ConnectionError
        answer.raise_for_status()
        return int(answer.json()["total"])

    async def _from_any_server(self, ask: Any) -> Any:
        """Ask random servers until one of them answers."""
        while True:
            try:
                return await ask(self.chance.choice(self.urls))
            except (httpx.TransportError, ConnectionError):
                await asyncio.sleep(AWAY)

    async def _count(self, _session: Session, _event: Json) -> None:
        async with self._grown:
            self._events += 1
            self._grown.notify_all()

    async def _after(self, events: int) -> None:
        """Wait until followers have seen this many more events, but at most five seconds."""
        target = self._events + events
        try:
            async with asyncio.timeout(5), self._grown:
                await self._grown.wait_for(lambda: self._events >= target)
        except TimeoutError:
            return
