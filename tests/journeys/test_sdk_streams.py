"""The published client's streams continue when the server is killed or cuts them off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from everruns_sdk import Event, Everruns

from tests.journeys.keyed import with_login
from tests.server import Server
from tests.talk import call, script

# Its own advice on which of its two clients to use.
pytestmark = pytest.mark.filterwarnings("ignore:Everruns.*deprecated:DeprecationWarning")


def at(tmp_path: Path, database_url: str, **environment: str) -> Server:
    return Server(tmp_path / "data", database_url=database_url, environment=environment)


def check_once_each(events: list[Event]) -> None:
    """Check that every logged event was received exactly once, from the first on."""
    sequences = [each.sequence for each in events if each.sequence is not None]
    assert sequences == list(range(1, len(sequences) + 1))


@pytest.mark.parametrize("base", ["", "/api"])
async def test_a_stream_continues_after_the_server_was_killed_and_restarted(
    tmp_path: Path, database_url: str, base: str
) -> None:
    async with at(tmp_path, database_url) as server:
        token = await with_login(server)
        async with Everruns(api_key=token, base_url=server.url + base) as sdk:
            session = await sdk.sessions.create()
            stream = sdk.events.stream(session.id, exclude=["output.message.delta"])
            seen, killed = [], False
            await sdk.messages.create(
                session.id,
                script({"tool_calls": [call("get_current_time")]}, {"text": "x y z", "delay_ms": 400}),
            )
            async with asyncio.timeout(60):
                async for event in stream:
                    seen.append(event)
                    if event.type == "act.completed" and not killed:
                        killed = True
                        await server.restart()
                    if event.type == "session.idled":
                        break
            await stream.aclose()
        check_once_each(seen)
        assert [each.type for each in seen][-2:] == ["turn.completed", "session.idled"]


async def test_a_stream_continues_when_the_server_cycles_connections(
    tmp_path: Path, database_url: str
) -> None:
    async with at(tmp_path, database_url, PERDURE_STREAM_CYCLE_SECONDS="0.3") as server:
        token = await with_login(server)
        async with Everruns(api_key=token, base_url=server.url) as sdk:
            session = await sdk.sessions.create()
            stream = sdk.events.stream(session.id, exclude=["output.message.delta"])
            seen = []
            connections = 0
            connect = stream._connect

            def counted() -> AsyncIterator[Event]:
                nonlocal connections
                connections += 1
                return connect()

            stream._connect = counted  # type: ignore[method-assign]
            await sdk.messages.create(
                session.id, script({"text": "one two three four five", "delay_ms": 300})
            )
            async with asyncio.timeout(60):
                async for event in stream:
                    seen.append(event)
                    if event.type == "session.idled":
                        break
            await stream.aclose()
        check_once_each(seen)
        assert connections > 2
        assert stream.retry_count == 0
