"""Helpers for tests with a server: sessions, scripts for the simulated model, and streams of events."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from perdure.domain.events import LIVE_TYPES
from perdure.domain.sse import SseParser
from tests.server import post

PATIENCE = 30.0
"""Timeout in seconds for anything that should happen."""

Json = dict[str, Any]


def script(*steps: Json, ask: str = "Please.") -> str:
    """Build a user message with a script for the simulated model."""
    return f"{ask} [[sim {json.dumps(steps)}]]"


def call(name: str, _id: str | None = None, **arguments: Any) -> Json:
    """Build a tool call for a step of a script."""
    return {"name": name, "arguments": arguments} | ({} if _id is None else {"id": _id})


def body_of(text: str, **extra: Any) -> Json:
    """Build the body that posts a message."""
    return {"message": {"role": "user", "content": [{"type": "text", "text": text}]}, **extra}


def text_in(message: Json) -> str:
    """Return the text of a message."""
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")


def kinds_of(events: list[Json]) -> list[str]:
    """Return the types of the events, in order."""
    return [event["type"] for event in events]


@dataclass(frozen=True)
class Seen:
    """A frame of a stream."""

    kind: str
    data: Json
    id: str | None

    @property
    def live(self) -> bool:
        return self.kind in LIVE_TYPES

    @property
    def logged(self) -> bool:
        return not self.live and self.kind not in ("connected", "disconnecting")


class Stream:
    """An open stream of events."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.raw = b""
        self._chunks = response.aiter_raw()
        self._parser = SseParser()
        self._ready: deque[Seen] = deque()

    async def next(self) -> Seen | None:
        """Return the next frame; None at the end of the stream."""
        async with asyncio.timeout(PATIENCE):
            while not self._ready:
                chunk = await anext(self._chunks, None)
                if chunk is None:
                    return None
                self.raw += chunk
                for frame in self._parser.feed(chunk):
                    self._ready.append(Seen(frame.event, json.loads(frame.data), frame.id))
        return self._ready.popleft()

    async def until(self, *kinds: str, where: Any = None) -> list[Seen]:
        """Return the frames up to and including the first of these kinds that satisfies `where`."""
        seen: list[Seen] = []
        while True:
            frame = await self.next()
            if frame is None:
                raise AssertionError(
                    f"the stream ended before any of {kinds}: {[each.kind for each in seen]}"
                )
            seen.append(frame)
            if frame.kind in kinds and (where is None or where(frame.data)):
                return seen

    async def to_end(self) -> list[Seen]:
        """Return all remaining frames."""
        seen: list[Seen] = []
        while (frame := await self.next()) is not None:
            seen.append(frame)
        return seen


class Talk:
    """One session, and a client that works with it."""

    def __init__(self, http: httpx.AsyncClient, session_id: str) -> None:
        self.http = http
        self.id = session_id

    def path(self, rest: str = "") -> str:
        return f"/v1/sessions/{self.id}{rest}"

    async def say(self, text: str, **extra: Any) -> Json:
        """Post a message; return the server's version of it."""
        return await post(self.http, self.path("/messages"), body_of(text, **extra))

    async def turn(self, *steps: Json, ask: str = "Please.") -> list[Json]:
        """Post a script and wait until the session is idle; return the events from the message on."""
        message = await self.say(script(*steps, ask=ask))
        return await self.logged_until("session.idled", after=message["sequence"] - 1)

    async def logged_until(self, *kinds: str, after: int = 0) -> list[Json]:
        """Wait for the first event of these kinds; return the log from `after` up to it."""
        async with self.follow(after_sequence=after) as stream:
            return [frame.data for frame in await stream.until(*kinds) if frame.logged]

    async def read(self) -> Json:
        return await self._get()

    async def events(self, **query: Any) -> list[Json]:
        """Return the log, or the part of it that matches."""
        found: list[Json] = (await self._get("/events", limit=1000, **query))["data"]
        return found

    async def messages(self) -> list[Json]:
        found: list[Json] = (await self._get("/messages"))["data"]
        return found

    async def cancel(self) -> str:
        return str((await post(self.http, self.path("/cancel"), None, 200))["status"])

    async def answer(self, *results: Json, status: int = 200) -> Json:
        """Answer client-side tool calls."""
        return await post(self.http, self.path("/tool-results"), {"tool_results": list(results)}, status)

    @asynccontextmanager
    async def follow(self, headers: dict[str, str] | None = None, **query: Any) -> AsyncIterator[Stream]:
        """Open a stream of the session's events."""
        async with self.http.stream(
            "GET", self.path("/sse"), params=query, headers=headers, timeout=PATIENCE
        ) as response:
            yield Stream(response)

    async def _get(self, rest: str = "", **query: Any) -> Any:
        answer = await self.http.get(self.path(rest), params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


async def new_talk(http: httpx.AsyncClient, **fields: Any) -> Talk:
    """Create a session."""
    return Talk(http, (await post(http, "/v1/sessions", fields))["id"])


async def when(check: Any, patience: float = PATIENCE) -> None:
    """Poll until the check holds, for changes that no event announces."""
    async with asyncio.timeout(patience):
        while not await check():
            await asyncio.sleep(0.01)
