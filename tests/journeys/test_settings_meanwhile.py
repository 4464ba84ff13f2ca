"""What changes during a turn holds for the next one, although its message takes one statement."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.accounts import bootstrap
from perdure.app.messages import post_message
from perdure.app.models import create_model
from perdure.app.providers import create_provider
from perdure.app.session_marks import archive_session
from perdure.app.sessions import change_session, create_session, read_session
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput
from perdure.domain.events import ReasonStartedData
from perdure.domain.ids import ModelId, SessionId
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.domain.providers import CreateModel, CreateProvider
from perdure.domain.sessions import CreateSession, UpdateSession
from perdure.engine.advance import advance
from perdure.settings import Settings
from perdure.store.database import Body
from perdure.wiring import Parts, open_parts
from perdure.worker.worker import Worker
from tests.inside import nobody
from tests.journeys.test_subagents_deliveries import at_rest, log_of
from tests.talk import script


class Meddling:
    """The real database; something happens right before the first write of a runner."""

    def __init__(self, database: Any, what: Callable[[], Awaitable[object]]) -> None:
        self._database = database
        self._what = [what]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def write(self, body: Body[Any], *, single: bool = False) -> Any:
        while self._what:
            await self._what.pop()()
        return await self._database.write(body, single=single)


class Place:
    """A session without a worker, and another model that it may have."""

    def __init__(self, parts: Parts, owner: Caller, session_id: SessionId, other: ModelId) -> None:
        self.parts, self.owner, self.session_id, self.other = parts, owner, session_id, other

    async def post(self, **more: Any) -> None:
        """Post a message."""
        text = script({"text": "Yes."}, ask="Hello.")
        body = CreateMessage(InputMessage((TextPart(text),)), **more)
        await post_message(self.parts.app, self.owner, self.session_id, body)

    async def turn(self, meanwhile: Callable[[], Awaitable[object]]) -> None:
        """Make a turn, and something else while it runs."""
        await self.post()
        engine: Any = replace(self.parts.engine, database=Meddling(self.parts.database, meanwhile))  # type: ignore[arg-type]
        await advance(engine, self.session_id)
        assert self.parts.app.known.at_rest(self.session_id) is not None

    async def next_turn(self) -> None:
        """Make a turn as any worker does."""
        await self.work(self.post)

    async def work(self, what: Callable[[], Awaitable[object]] | None = None) -> None:
        """Have a worker make the turns that wait, and do something once it is there."""
        worker = Worker(self.parts.engine, nobody)
        await worker.start()
        if what is not None:
            await what()
        await at_rest(self.parts, self.session_id)
        await worker.drain(0)

    async def models(self) -> list[str]:
        """The models that were called."""
        log = await log_of(self.parts, self.session_id)
        calls = [each.read(ReasonStartedData) for each in log if each.type == ReasonStartedData.kind]
        return [each.metadata.model for each in calls if each.metadata is not None]


@asynccontextmanager
async def place(database_url: str, folder: Path) -> AsyncIterator[Place]:
    async with open_parts(Settings(data=str(folder), database_url=database_url)) as parts:
        app, owner = parts.app, await bootstrap(parts.app)
        provider = await create_provider(app, owner, CreateProvider("Simulated", "llmsim"))
        await create_model(app, owner, provider.id, CreateModel("simulated", "Simulated"))
        other = await create_model(app, owner, provider.id, CreateModel("other", "Other"))
        session = await create_session(app, owner, CreateSession())
        yield Place(parts, owner, session.id, other.id)


async def test_a_model_that_is_chosen_during_a_turn_is_called_by_the_next_one(
    database_url: str, tmp_path: Path
) -> None:
    async with place(database_url, tmp_path) as at:
        body = UpdateSession(model_id=at.other)
        await at.turn(partial(change_session, at.parts.app, at.owner, at.session_id, body))
        await at.next_turn()
        assert await at.models() == ["simulated", "other"]


async def test_a_model_that_is_chosen_while_a_turn_waits_for_a_runner_is_called(
    database_url: str, tmp_path: Path
) -> None:
    async with place(database_url, tmp_path) as at:
        await at.next_turn()
        await at.post()
        await change_session(at.parts.app, at.owner, at.session_id, UpdateSession(model_id=at.other))
        await at.work()
        assert await at.models() == ["simulated", "other"]


async def test_a_message_brings_a_session_back_that_was_archived_during_its_turn(
    database_url: str, tmp_path: Path
) -> None:
    async with place(database_url, tmp_path) as at:
        await at.turn(partial(archive_session, at.parts.app, at.owner, at.session_id, archived=True))
        await at.next_turn()
        assert (await read_session(at.parts.app, at.owner, at.session_id)).archived_at is None


async def test_a_value_of_a_variable_that_the_agent_does_not_have_is_refused(
    database_url: str, tmp_path: Path
) -> None:
    async with place(database_url, tmp_path) as at:
        with pytest.raises(InvalidInput, match="whom"):
            await at.post(variables={"whom": "Ada"})
