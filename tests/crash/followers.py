"""Clients that follow sessions through crashes, and record what they see."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx

from perdure.domain.events import LIVE_TYPES
from perdure.domain.sse import SseParser
from tests.talk import Json

AWAY = 0.02
"""Seconds between two attempts to reach a server that is down."""


@dataclass
class Session:
    """What the clients know about one session of a storm."""

    id: str
    acknowledged: list[Json] = field(default_factory=list)
    seen: list[Json] = field(default_factory=list)
    """The events that the follower received, in that order."""
    moments: list[float] = field(default_factory=list)
    """When it received each of them, in seconds of the test's monotonic clock."""
    followed: bool = False
    """Whether the follower is connected."""

    def path(self, rest: str = "") -> str:
        return f"/v1/sessions/{self.id}{rest}"


class Followers:
    """Follows sessions on any of the servers.

    Args:
        saw: awaited for every event of a log that a follower has received.

    Attributes:
        connections: how often a stream was opened.
    """

    def __init__(
        self,
        urls: list[str],
        chance: random.Random,
        http: httpx.AsyncClient,
        saw: Callable[[Session, Json], Awaitable[None]],
    ) -> None:
        self.connections = 0
        self._urls = urls
        self._chance = chance
        self._http = http
        self._saw = saw

    async def follow(self, session: Session) -> None:
        """Follow until cancelled; each connection continues where the last one ended."""
        while True:
            try:
                await self._follow_once(session, self._chance.choice(self._urls))
            except (httpx.TransportError, ConnectionError):
                await asyncio.sleep(AWAY)

    async def _follow_once(self, session: Session, url: str) -> None:
        parser = SseParser()
        headers = {"Last-Event-ID": session.seen[-1]["id"]} if session.seen else {}
        async with self._http.stream("GET", url + session.path("/sse"), headers=headers) as response:
            if response.status_code != 200:
                raise ConnectionError
            session.followed = True
            self.connections += 1
            try:
                async for chunk in response.aiter_raw():
                    for frame in parser.feed(chunk):
                        if frame.event not in LIVE_TYPES and frame.event not in (
                            "connected",
                            "disconnecting",
                        ):
                            session.seen.append(json.loads(frame.data))
                            session.moments.append(time.monotonic())
                            await self._saw(session, session.seen[-1])
            finally:
                session.followed = False
