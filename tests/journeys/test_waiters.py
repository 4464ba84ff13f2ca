"""Requests that wait for results: a lost wake-up costs all of them one read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from perdure.app.messages import post_message
from perdure.app.runs import wait_for_result
from perdure.app.session_ends import delete_session
from perdure.app.sessions import create_session
from perdure.app.waiters import Waiters
from perdure.domain.errors import NotFound
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.domain.sessions import CreateSession
from perdure.engine.advance import advance
from perdure.store.bus import LocalBus
from perdure.store.database import Body, Database, T
from tests.journeys.test_discovery import Shelf, inside, with_shelf

COUNT = 20


class Counted:
    """A database that counts its reads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.reads = 0

    async def read(self, body: Body[T], *, long: bool = False) -> T:
        self.reads += 1
        return await self._database.read(body, long=long)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


async def test_requests_that_wait_share_one_look_at_the_log(tmp_path: Path) -> None:
    async with inside("", tmp_path, Shelf(), session=with_shelf()) as there:
        app, owner, waiters = there.app, there.owner, Waiters(0.05)
        counted = Counted(app.database)
        deaf: Any = replace(app, database=counted, bus=LocalBus(), waiters=waiters)
        sent = []
        for _ in range(COUNT):
            session = await create_session(app, owner, CreateSession())
            message = CreateMessage(InputMessage((TextPart("Hello."),)))
            sent.append(await post_message(app, owner, session.id, message))
        waiting = [
            asyncio.create_task(wait_for_result(deaf, owner, each.session_id, each.sequence, 60))
            for each in sent
            if each.session_id is not None
        ]
        while counted.reads < 2 * COUNT:  # each has found its message, and looked once
            await asyncio.sleep(0)
        before = counted.reads
        while counted.reads < before + 3:
            assert not any(each.done() for each in waiting)
            await asyncio.sleep(0.01)
        for each in sent[1:]:
            assert each.session_id is not None
            await advance(there.engine, each.session_id)
        assert sent[0].session_id is not None
        await delete_session(app, owner, sent[0].session_id)
        gone, *results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(gone, NotFound)
        assert {getattr(each, "status", each) for each in results} == {"completed"}
        reads = counted.reads
        await asyncio.sleep(0.1)
        assert counted.reads == reads  # nobody waits, and nothing looks


async def test_nobody_waits_on_a_server_that_shuts_down(tmp_path: Path) -> None:
    async with inside("", tmp_path, Shelf(), session=with_shelf()) as there:
        app, owner = there.app, there.owner
        message = CreateMessage(InputMessage((TextPart("Hello."),)))
        sent = await post_message(app, owner, there.session.id, message)
        waiting = asyncio.create_task(wait_for_result(app, owner, there.session.id, sent.sequence, 60))
        await asyncio.sleep(0)
        app.waiters.end()
        assert (await waiting).status == "running"
        assert (await wait_for_result(app, owner, there.session.id, sent.sequence, 60)).status == "running"
