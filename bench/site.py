"""Use Perdure like its clients: sessions, messages, and one open stream for each followed session."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from bench.model import TOOL, Script, Stats
from bench.variant import Server
from bench.wire import Connection, connect

ENDED = frozenset({"turn.completed", "turn.failed", "turn.cancelled", "turn.sealed"})
WHOLE = ("output.message.completed", "turn.completed", "turn.failed")
LIVE = ("output.message.delta", *WHOLE)


class Turn(Struct, frozen=True):
    """A turn's times as its client saw them, in seconds from the moment before the POST, which is `began`."""

    began: float
    total: float
    first: float | None
    pieces: int


class Seat:
    """A session and the stream that follows it."""

    def __init__(self, session_id: str, feed: Connection) -> None:
        self.session_id = session_id
        self._path = f"/v1/sessions/{session_id}/messages"
        self._feed = feed

    async def say(self, post: Connection, script: Script | str) -> None:
        """Send a message."""
        body = msgspec.json.encode(
            {"message": {"role": "user", "content": [{"type": "text", "text": f"Hello. {script}"}]}}
        )
        await post.send("POST", self._path, body)

    async def turn(self, post: Connection, script: Script | str) -> Turn:
        """Send a message and follow its turn to the end.

        Raises:
            RuntimeError: the turn failed, or its answer was incomplete.
        """
        began = time.perf_counter()
        await self.say(post, script)
        return await self._rest(began)

    async def turn_over(self, lines: asyncio.Queue[Connection], script: Script | str) -> Turn:
        """As `turn`, over a connection that others use, too. What is waited for it counts."""
        began = time.perf_counter()
        line = await lines.get()
        try:
            await self.say(line, script)
        finally:
            lines.put_nowait(line)
        return await self._rest(began)

    async def _rest(self, began: float) -> Turn:
        first, pieces, whole = None, 0, False
        while True:
            frame = await self._feed.frame()
            if frame.event == "output.message.delta":
                first = frame.at if first is None else first
                pieces += 1
            elif frame.event == "output.message.completed":
                whole = b"END." in frame.data
            elif frame.event in ENDED:
                if frame.event != "turn.completed" or not whole:
                    raise RuntimeError(f"a turn did not complete: {frame.event} {frame.data[:300]!r}")
                return Turn(began, frame.at - began, None if first is None else first - began, pieces)

    def close(self) -> None:
        """Stop following."""
        self._feed.close()


class Site:
    """A server with a model and an agent. `desk` is a connection for requests that are sent one at a time."""

    def __init__(self, server: Server, desk: Connection, model_id: str, agent_id: str) -> None:
        self.server = server
        self.desk = desk
        self.model_id, self.agent_id = model_id, agent_id
        self._session = msgspec.json.encode({"agent_id": agent_id, "model_id": model_id})

    async def session(self, over: Connection | None = None) -> str:
        """Create a session; return its id."""
        answer = await (over or self.desk).send("POST", "/v1/sessions", self._session)
        return str(msgspec.json.decode(answer)["id"])

    async def seat(self, kinds: Sequence[str] = WHOLE, over: Connection | None = None) -> Seat:
        """Create a session and follow it."""
        return await self._follow(await self.session(over), kinds)

    async def seat_of(self, session_id: str, kinds: Sequence[str] = WHOLE) -> Seat:
        """Follow an existing session from now on."""
        newest = await self.desk.json("GET", f"/v1/sessions/{session_id}/events?limit=1&order_desc=true")
        return await self._follow(session_id, kinds, f"&since_id={newest['data'][0]['id']}")

    async def _follow(self, session_id: str, kinds: Sequence[str], since: str = "") -> Seat:
        feed = await connect(self.server.url)
        feed.follow(
            "GET", f"/v1/sessions/{session_id}/sse?{'&'.join(f'types={kind}' for kind in kinds)}{since}"
        )
        frame = await feed.frame()
        if frame.event != "connected":
            raise RuntimeError(f"expected the event `connected`, got {frame.event!r}")
        return Seat(session_id, feed)

    @contextlib.asynccontextmanager
    async def seats(self, count: int, kinds: Sequence[str] = WHOLE) -> AsyncIterator[list[Seat]]:
        """Create and follow many sessions; stop following them afterwards."""
        seats = [await self.seat(kinds) for _ in range(count)]
        try:
            yield seats
        finally:
            for seat in seats:
                seat.close()
            await asyncio.sleep(0)

    async def play(self, seats: Sequence[Seat], count: int, limit: int, script: Script) -> float:
        """Play `limit` turns, `count` at a time, in at least as many seats; return turns per second."""
        free = deque(seats)

        async def one(line: Connection, _number: int) -> None:
            seat = free.popleft()
            await seat.turn(line, script)
            free.append(seat)

        return await self.at_once(count, limit, one)

    async def at_once(
        self, count: int, limit: int, work: Callable[[Connection, int], Awaitable[Any]]
    ) -> float:
        """Call `work` `limit` times in `count` workers with a connection each; return calls per second."""
        numbers = iter(range(limit))
        lines = [await connect(self.server.url) for _ in range(count)]

        async def worker(line: Connection) -> None:
            for number in numbers:
                await work(line, number)

        began = time.perf_counter()
        await asyncio.gather(*map(worker, lines))
        took = time.perf_counter() - began
        for line in lines:
            line.close()
        return limit / took


@contextlib.asynccontextmanager
async def open_site(server: Server, model_url: str) -> AsyncIterator[Site]:
    """Register the model and an agent on a fresh server."""
    desk = await connect(server.url)
    provider = await desk.json(
        "POST",
        "/v1/providers",
        {
            "name": "bench",
            "provider_type": "openai_completions",
            "base_url": f"{model_url}/v1",
            "api_key": "none",
        },
    )
    model = await desk.json(
        "POST", f"/v1/providers/{provider['id']}/models", {"model_id": "bench", "display_name": "bench"}
    )
    agent = await desk.json(
        "POST",
        "/v1/agents",
        {
            "name": "bench",
            "system_prompt": "You help.",
            "harness_name": "base",
            "capabilities": [{"ref": capability_of(TOOL)}],
        },
    )
    try:
        yield Site(server, desk, model["id"], agent["id"])
    finally:
        desk.close()


def capability_of(tool: str) -> str:
    """Return the capability of a tool named `get_NAME`."""
    return tool.removeprefix("get_")


async def model_stats(model: Connection) -> Stats:
    """Return the model server's statistics."""
    return Stats(**await model.json("GET", "/stats"))


async def direct(model: Connection, script: Script) -> Turn:
    """Call the model directly, as the baseline for measures of a stream."""
    body = msgspec.json.encode(
        {"model": "bench", "stream": True, "messages": [{"role": "user", "content": f"Hello. {script}"}]}
    )
    began = time.perf_counter()
    model.follow("POST", "/v1/chat/completions", body)
    first, pieces, last = None, 0, began
    while True:
        frame = await model.frame()
        if b'"content"' in frame.data:
            first = frame.at if first is None else first
            pieces += 1
        last = frame.at
        if frame.data == b"[DONE]":
            await model.rest()
            return Turn(began, last - began, None if first is None else first - began, pieces)
