"""Talking to a server in tests: sessions, scripts for the simulated model, and streams of events."""

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
"""Seconds after which something that should happen is taken for lost."""

Json = dict[str, Any]


def script(*steps: Json, ask: str = "Please.") -> str:
    """A user message that tells the simulated model what to do."""
    return f"{ask} [[sim {json.dumps(steps)}]]"


def call(name: str, _id: str | None = None, **arguments: Any) -> Json:
    """A tool call for a step of a script."""
    return {"name": name, "arguments": arguments} | ({} if _id is None else {"id": _id})


def body_of(text: str, **extra: Any) -> Json:
    """The body that posts a message."""
    return {"message": {"role": "user", "content": [{"type": "text", "text": text}]}, **extra}


def text_in(message: Json) -> str:
    """The text of a message."""
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")


def kinds_of(events: list[Json]) -> list[str]:
    """The types of the events, in order."""
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
        """The next frame; None at the end of the stream."""
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
        """The frames up to the first of these kinds (for which `where` holds), that one included."""
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
        """Every frame that is left."""
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
        """Post a message; it as the server has it."""
        return await post(self.http, self.path("/messages"), body_of(text, **extra))

    async def turn(self, *steps: Json, ask: str = "Please.") -> list[Json]:
        """Post a script, wait until the session rests, and give the events from the message on."""
        message = await self.say(script(*steps, ask=ask))
        return await self.logged_until("session.idled", after=message["sequence"] - 1)

    async def logged_until(self, *kinds: str, after: int = 0) -> list[Json]:
        """The log from `after` up to the first event of these kinds, waiting for it."""
        async with self.follow(after_sequence=after) as stream:
            return [frame.data for frame in await stream.until(*kinds) if frame.logged]

    async def read(self) -> Json:
        return await self._get()

    async def events(self, **query: Any) -> list[Json]:
        """The log, or the part of it that matches."""
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
        """A stream of the session's events."""
        async with self.http.stream(
            "GET", self.path("/sse"), params=query, headers=headers, timeout=PATIENCE
        ) as response:
            yield Stream(response)

    async def _get(self, rest: str = "", **query: Any) -> Any:
        answer = await self.http.get(self.path(rest), params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


async def new_talk(http: httpx.AsyncClient, **fields: Any) -> Talk:
    """A fresh session."""
    return Talk(http, (await post(http, "/v1/sessions", fields))["id"])


async def when(check: Any, patience: float = PATIENCE) -> None:
    """Look again and again until the check holds: for what no event tells."""
    async with asyncio.timeout(patience):
        while not await check():
            await asyncio.sleep(0.01)
