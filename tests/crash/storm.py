"""A storm: clients that post, followers that write down what they see, and somebody who kills in the middle
of it.

Everything random comes from one seed, which is printed. `PERDURE_SEED=n` takes that one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from dataclasses import dataclass, field
from typing import Any

import httpx

from perdure.domain.events import LIVE_TYPES
from perdure.domain.sse import SseParser
from tests.talk import Json, body_of, call, new_talk, script

PATIENCE = 60.0
"""Seconds, and as many again for every four crashes, after which a storm that does not come to rest is a
failure."""

AWAY = 0.02
"""Seconds between two attempts to reach a server that is down."""

COUNTER = "/counter"
"""A file with one `x` for every edit that took place."""


def seed() -> int:
    """The seed of this storm; it is printed, so that a failure can be had again."""
    chosen = int(os.environ.get("PERDURE_SEED") or random.randrange(1 << 32))
    print(f"PERDURE_SEED={chosen}")
    return chosen


@dataclass
class Session:
    """One session of the storm, as its clients know it."""

    id: str
    acknowledged: list[Json] = field(default_factory=list)
    seen: list[Json] = field(default_factory=list)
    """What its follower saw, in that order."""

    def path(self, rest: str = "") -> str:
        return f"/v1/sessions/{self.id}{rest}"


class Storm:
    """The load. `urls` are the servers.

    A client whose server is away goes to another one, or to the same once more.

    Attributes:
        crashes: how often `run` crashes something.
        refused: answers with a status that no client should ever see.
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

    async def run(self, crash: Any) -> None:
        """Post everything while `crash()` is awaited now and then, at random moments.

        Return when all is at rest.
        """
        sessions, clients, messages = self._counts
        files = [{"path": COUNTER, "content": "|"}]
        made = [await self._when_there(lambda url: self._create(url, files)) for _ in range(sessions)]
        self.sessions = [Session(session_id) for session_id in made]
        async with asyncio.timeout(PATIENCE * (1 + self.crashes / 4)), asyncio.TaskGroup() as group:
            followers = [group.create_task(self._follow(session)) for session in self.sessions]
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
        await self._http.aclose()

    # --- clients ---------------------------------------------------------------

    async def _create(self, url: str, files: list[Json]) -> str:
        self._http.base_url = httpx.URL(url)
        return (await new_talk(self._http, initial_files=files)).id

    async def _post(self, client: int, messages: int) -> None:
        """Post messages one after the other, each until it is acknowledged.

        The key makes a repetition harmless.
        """
        for number in range(messages):
            session = self.chance.choice(self.sessions)
            name = f"client {client} message {number}"
            body, key = body_of(script(*self._steps(name), ask=f"{name}:")), f"{client}/{number}/{session.id}"
            message = await self._when_there(lambda url, s=session, b=body, k=key: self._say(url, s, b, k))
            session.acknowledged.append(message)

    def _steps(self, name: str) -> list[Json]:
        """A script with a bit of everything."""
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
        while await self._when_there(lambda url: self._status(url, session)) != "idle":
            await asyncio.sleep(AWAY)
        # A follower on another server hears of the last events a moment later than the row shows them.
        total = await self._when_there(lambda url: self._total(url, session))
        while len(session.seen) < total:
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

    async def _when_there(self, ask: Any) -> Any:
        """Ask one server after the other until one of them is there to answer."""
        while True:
            try:
                return await ask(self.chance.choice(self.urls))
            except (httpx.TransportError, ConnectionError):
                await asyncio.sleep(AWAY)

    # --- followers -------------------------------------------------------------

    async def _follow(self, session: Session) -> None:
        """Follow for ever, from where the last connection ended."""
        while True:
            try:
                await self._follow_once(session, self.chance.choice(self.urls))
            except (httpx.TransportError, ConnectionError):
                await asyncio.sleep(AWAY)

    async def _follow_once(self, session: Session, url: str) -> None:
        parser = SseParser()
        headers = {"Last-Event-ID": session.seen[-1]["id"]} if session.seen else {}
        async with self._http.stream("GET", url + session.path("/sse"), headers=headers) as response:
            if response.status_code != 200:
                raise ConnectionError
            async for chunk in response.aiter_raw():
                for frame in parser.feed(chunk):
                    if frame.event not in LIVE_TYPES and frame.event not in ("connected", "disconnecting"):
                        session.seen.append(json.loads(frame.data))
                        await self._count()

    async def _count(self) -> None:
        async with self._grown:
            self._events += 1
            self._grown.notify_all()

    async def _after(self, events: int) -> None:
        """Wait until followers have seen so many more events, or for no longer than the storm takes
        anyhow."""
        wanted = self._events + events
        try:
            async with asyncio.timeout(5), self._grown:
                await self._grown.wait_for(lambda: self._events >= wanted)
        except TimeoutError:
            return
