"""The limit of open sessions, near which whoever begins sub-agents waits for others, on PostgreSQL."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from perdure.app import children
from perdure.app.messages import post_message
from perdure.app.session_room import NEAR, room_for_session
from perdure.domain.limits import LimitValues
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.domain.sessions import CreateSession
from perdure.domain.tools import CapabilityRef
from perdure.engine.advance import advance
from perdure.store.database import NotSingle, Tx
from perdure.store.events import events_after
from perdure.store.limits import lock_sessions
from perdure.store.sessions import get_session
from tests.journeys.test_discovery import Inside, Shelf, inside

BODY = CreateSession(harness_name="base", capabilities=(CapabilityRef("subagents"),))
SPAWN = {"name": "spawn_agent", "arguments": {"name": "a", "instructions": "Go.", "mode": "background"}}
WAITS = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def limit(there: Inside, sessions: int) -> None:
    values = LimitValues(open_sessions=sessions)
    there.app.meter.learn(there.owner.organization_id, {"organization": values})


async def test_those_that_begin_many_sessions_at_once_wait_for_others_earlier(
    postgres_url: str, tmp_path: Path
) -> None:
    async with inside(postgres_url, tmp_path, Shelf(), session=BODY) as there:
        scope = (there.session.organization_id, there.owner.user_id)
        limit(there, 25 * NEAR + 1)

        async def room(tx: Tx, more: int) -> Any:
            return await room_for_session(there.app, tx, *scope, more)

        write = there.app.database.write
        assert await write(lambda tx: room(tx, 24), single=True) is None
        with pytest.raises(NotSingle):  # a hundred of these could pass the limit together
            await write(lambda tx: room(tx, 25), single=True)


async def test_a_spawn_near_the_limit_locks_in_the_order_of_others_that_open_sessions(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: tuple[dict[str, Any], ...] = ({"tool_calls": [SPAWN]}, {"text": "Begun."})
    async with inside(postgres_url, tmp_path, Shelf(), *answers, session=BODY) as there:
        limit(there, 50)
        locked, opened, looks = asyncio.Event(), 0, 0

        async def bring_back(tx: Tx) -> None:
            """As a message does that brings the parent back from the archive."""
            nonlocal opened
            opened += 1
            await get_session(tx, there.owner.organization_id, there.session.id, lock=True)
            locked.set()
            while not await tx.one(WAITS):
                pass
            await lock_sessions(tx, there.owner.organization_id)

        async def meanwhile(*args: Any) -> Any:
            there_too.append(asyncio.create_task(there.app.database.write(bring_back)))
            await locked.wait()
            return await check(*args)

        async def looked(*args: Any) -> Any:
            nonlocal looks
            looks += 1
            return await look(*args)

        there_too: list[asyncio.Task[None]] = []
        check, look = children.checked_output, children.look_around
        monkeypatch.setattr(children, "checked_output", meanwhile)
        monkeypatch.setattr(children, "look_around", looked)
        await post_message(
            there.app, there.owner, there.session.id, CreateMessage(InputMessage((TextPart("Hello."),)))
        )
        async with asyncio.timeout(30):
            await advance(there.engine, there.session.id)
            await there_too[0]
        events = await there.app.database.read(lambda tx: events_after(tx, there.session.id, 0))
    assert [event.type for event in events].count("task.created") == 1
    assert (opened, looks) == (1, 2), "one of them was undone to end a deadlock"
