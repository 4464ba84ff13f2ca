"""Followers whose wake-ups are lost, and forks of logs of any length."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec import Struct

from perdure.app import feed
from perdure.app.accounts import bootstrap
from perdure.app.feed import Follower, Want, open_follower
from perdure.app.forks import fork_session
from perdure.app.messages import post_message
from perdure.app.session_ends import delete_session
from perdure.app.sessions import create_session
from perdure.domain.accounts import Caller
from perdure.domain.events import Event, EventContext, FileWrittenData, NewEvent
from perdure.domain.ids import SessionId
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.domain.sessions import CreateSession, ForkSession
from perdure.settings import Settings
from perdure.store.database import Tx
from perdure.store.events import events_after
from perdure.store.sessions import append, get_session
from perdure.wiring import Parts, open_parts


class Place(Struct):
    """An installation without a worker, and a session in it."""

    parts: Parts
    owner: Caller
    session_id: SessionId

    async def say(self, text: str) -> None:
        body = CreateMessage(InputMessage((TextPart(text),)))
        await post_message(self.parts.app, self.owner, self.session_id, body)

    async def follower(self) -> Follower:
        follower = await open_follower(self.parts.app, self.owner, self.session_id, 0, Want())
        while await follower.frames(0.01):
            pass
        # From now on, it gets no wake-up.
        self.parts.bus.unsubscribe(follower._subscription)
        return follower


@pytest_asyncio.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    async with open_parts(Settings(data=str(tmp_path), database_url=database_url)) as parts:
        owner = await bootstrap(parts.app)
        session = await create_session(parts.app, owner, CreateSession())
        yield Place(parts, owner, session.id)


async def test_a_follower_finds_what_no_wake_up_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "POLL_EVERY", 0.0)
    await place.say("One.")
    follower = await place.follower()
    assert (await follower.frames(0.01), follower.behind) == ([], False)
    await place.say("Two.")
    assert (await follower.frames(0.01), follower.behind) == ([], True)
    assert [frame.type for frame in await follower.frames(0.01)] == ["input.message"]
    assert (await follower.frames(0.01), follower.behind) == ([], False)


async def test_a_follower_finds_that_its_session_was_deleted_without_a_wake_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "POLL_EVERY", 0.0)
    follower = await place.follower()
    await delete_session(place.parts.app, place.owner, place.session_id)
    for _ in range(2):
        await follower.frames(0.01)
    assert follower.gone


async def test_a_fork_has_the_whole_log_whether_or_not_it_is_copied_in_parts(place: Place) -> None:
    org_id, data = place.owner.organization_id, FileWrittenData("/a.txt", "write", False, 1)
    for count in (600, 2_000):

        async def write(tx: Tx, count: int = count) -> None:
            row = await get_session(tx, org_id, place.session_id, lock=True)
            events = [NewEvent(data, EventContext(), place.parts.app.now()) for _ in range(count)]
            await append(tx, row, events, now=place.parts.app.now(), progress=False)

        await place.parts.database.write(write)
        fork = await fork_session(place.parts.app, place.owner, place.session_id, ForkSession())
        assert await _log(place, fork.id) == await _log(place, place.session_id)


async def _log(place: Place, session_id: SessionId) -> list[tuple[int, str, str]]:
    async def read(tx: Tx) -> list[Event]:
        return await events_after(tx, session_id, 0, limit=10_000)

    return [(each.sequence, each.type, each.data) for each in await place.parts.database.read(read)]
