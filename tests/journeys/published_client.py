"""What the tests of the contract's published client share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from everruns_sdk import Event

from tests.server import Server
from tests.talk import PATIENCE


class Place:
    """A server with a login."""

    def __init__(self, server: Server, token: str) -> None:
        self.server = server
        self.token = token


async def followed(client: Any, session_id: str, until: str = "session.idled", **options: Any) -> list[Event]:
    """Return the events of a session up to the first of a type."""
    return await taken(client.events.stream(session_id, **options), until)


async def taken(stream: AsyncGenerator[Event, None], until: str) -> list[Event]:
    """Return the events of a stream up to the first of a type; close the stream."""
    seen = []
    async with asyncio.timeout(PATIENCE):
        async for event in stream:
            seen.append(event)
            if event.type == until:
                break
    await stream.aclose()
    return seen
