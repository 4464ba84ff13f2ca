"""A session that kills its server comes to an end, and takes no other session with it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import httpx
import pytest

from tests.crash import poisoned
from tests.crash.test_kills import prepare
from tests.server import Server
from tests.soak import amounts
from tests.talk import Json, Talk, kinds_of, new_talk, script, text_in

ROUNDS = 12
"""The most starts of a server, of which each may be killed."""


async def is_sealed(server: Server, session_id: str) -> bool:
    """Wait until the server is dead (False) or has sealed the session (True)."""
    async with httpx.AsyncClient(base_url=server.url, timeout=10) as http:
        for _ in range(600):
            try:
                if "turn.sealed" in kinds_of(await Talk(http, session_id).events()):
                    return True
            except httpx.TransportError:
                return False
            await asyncio.sleep(0.1)
    raise AssertionError("the server lives, and the session is not sealed")


async def outlive(server: Server, session_id: str) -> int:
    """Start the server again until it has sealed the session; returns how often it died."""
    for deaths in range(ROUNDS):
        if await is_sealed(server, session_id):
            return deaths
        await server.kill()
        with contextlib.suppress(RuntimeError):  # it died before it said where it listens
            await server.start()
    raise AssertionError(f"the session killed {ROUNDS} servers")


@pytest.mark.parametrize("bystanders", amounts(3, 20))
async def test_a_session_that_kills_its_server_is_sealed_and_the_others_complete(
    tmp_path: Path, bystanders: int
) -> None:
    await check_poison(Server(tmp_path), bystanders)


@pytest.mark.soak
async def test_a_session_that_kills_its_server_is_sealed_on_postgresql_too(
    postgres_url: str, tmp_path: Path
) -> None:
    await check_poison(Server(tmp_path, database_url=postgres_url), 3)


async def check_poison(server: Server, bystanders: int) -> None:
    server.program = (poisoned.__file__,)
    async with server:
        await prepare(server)
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            talks = [await new_talk(http) for _ in range(bystanders)]
            for talk in talks:  # a model call that outlasts two servers, but not a time alone
                await talk.say(script({"text": "Slow.", "first_ms": 3000}))
            poison = await new_talk(http)
            await poison.say(poisoned.PILL)
        deaths = await outlive(server, poison.id)
        assert deaths == 4  # the first attempt and three recoveries
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await check_seal(Talk(http, poison.id))
            for talk in talks:
                events = await Talk(http, talk.id).logged_until("session.idled")
                assert "turn.sealed" not in kinds_of(events)
                assert "turn.completed" in kinds_of(events)


async def check_seal(talk: Talk) -> None:
    """The session says why it ended, and can be read and forked."""
    message, sealed, idled = (await talk.events())[-3:]
    assert kinds_of([message, sealed, idled]) == ["output.message.completed", "turn.sealed", "session.idled"]
    assert sealed["data"]["reason"] == "no_progress"
    assert "3 times" in sealed["data"]["detail"]
    assert message["data"]["error_code"] == "no_progress"
    assert "the server stopped" in text_in(message["data"]["message"])
    assert (await talk.read())["status"] == "idle"
    assert [each["role"] for each in await talk.messages()] == ["user", "agent"]
    fork: Json = (await talk.http.post(talk.path("/fork"), json={"from_sequence": 1})).json()
    copy = Talk(talk.http, fork["id"])
    assert "turn.completed" in kinds_of(await copy.turn({"text": "Fine."}))
