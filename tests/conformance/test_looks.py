"""Followers look together at the ends of the logs that they follow."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from perdure.app.accounts import bootstrap
from perdure.app.looks import MOST, Looks
from perdure.app.session_ends import delete_session
from perdure.app.sessions import create_session
from perdure.domain.errors import Unavailable
from perdure.domain.ids import SessionId
from perdure.domain.sessions import CreateSession
from perdure.settings import Settings
from perdure.store.wrapped import WrappedDatabase
from perdure.wiring import open_parts


class Counted(WrappedDatabase):
    """Counts reads, and fails them on request."""

    reads = 0
    fails = False

    async def read(self, body: Any, **how: Any) -> Any:
        self.reads += 1
        if self.fails:
            raise Unavailable("away")
        return await super().read(body, **how)


async def test_what_many_ask_for_is_one_read_of_the_present_ends(database_url: str, tmp_path: Path) -> None:
    async with open_parts(Settings(data=str(tmp_path), database_url=database_url)) as parts:
        app, owner = parts.app, await bootstrap(parts.app)
        ids = [(await create_session(app, owner, CreateSession())).id for _ in range(3)]
        await delete_session(app, owner, ids[2])
        counted, looks = Counted(parts.database), Looks()
        asked = [*ids, *ids, SessionId("session_" + "0" * 32)]
        heads = await asyncio.gather(*(looks.head(counted, each) for each in asked))
        assert heads == [1, 1, None, 1, 1, None, None]
        assert counted.reads == 1
        assert await looks.head(counted, ids[0]) == 1
        assert counted.reads == 2


async def test_a_failed_look_fails_those_who_asked_and_nobody_later(
    database_url: str, tmp_path: Path
) -> None:
    async with open_parts(Settings(data=str(tmp_path), database_url=database_url)) as parts:
        owner = await bootstrap(parts.app)
        session = await create_session(parts.app, owner, CreateSession())
        counted, looks = Counted(parts.database), Looks()
        counted.fails = True
        one, two, other = (
            asyncio.create_task(looks.head(counted, each))
            for each in (session.id, session.id, SessionId("session_" + "1" * 32))
        )
        await asyncio.sleep(0)
        one.cancel()  # its client has gone
        with pytest.raises(Unavailable):
            await two
        with pytest.raises(Unavailable):
            await other
        counted.fails = False
        assert await looks.head(counted, session.id) == 1


async def test_a_look_at_very_many_takes_several_statements(database_url: str, tmp_path: Path) -> None:
    async with open_parts(Settings(data=str(tmp_path), database_url=database_url)) as parts:
        counted, looks = Counted(parts.database), Looks()
        asked = [SessionId(f"session_{number:032x}") for number in range(MOST + 1)]
        assert set(await asyncio.gather(*(looks.head(counted, each) for each in asked))) == {None}
        assert counted.reads == 2
