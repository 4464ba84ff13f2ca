"""Messages to sessions at rest take one statement, if nothing speaks against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.agents import change_agent, create_agent
from perdure.app.messages import post_message
from perdure.app.session_ends import delete_session
from perdure.app.sessions import create_session
from perdure.app.storage import put_secrets
from perdure.domain.accounts import Caller
from perdure.domain.agents import CreateAgent, UpdateAgent
from perdure.domain.errors import InvalidInput, NotFound
from perdure.domain.events import Event
from perdure.domain.ids import SessionId
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.domain.sessions import CreateSession
from perdure.domain.storage import SetSecrets
from perdure.domain.variables import Variable
from perdure.store.database import Body
from perdure.store.known_sessions import MOST, KnownSessions
from perdure.store.sessions import look_session
from perdure.wiring import Parts
from tests.journeys.test_subagents_deliveries import at_rest, at_work, log_of
from tests.talk import script

SECRET = "sesame-open-4711"


class Watched:
    """The real database; notes of each write whether it was a single one, and the statements of it."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.writes: list[tuple[bool, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def write(self, body: Body[Any], *, single: bool = False) -> Any:
        async def counted(tx: Any) -> Any:
            statements: list[str] = []
            for name in ("all", "one", "run", "run_many", "append", "within"):
                setattr(tx, name, _noting(statements, name, getattr(tx, name)))
            try:
                return await body(tx)
            finally:
                self.writes.append((single, len(statements)))

        return await self._database.write(counted, single=single)


def _noting(statements: list[str], name: str, call: Any) -> Any:
    async def noted(*args: Any, **more: Any) -> Any:
        if statements and statements[-1] == "append":
            return await call(*args, **more)  # a part of that append, on SQLite
        statements.append(name)
        return await call(*args, **more)

    return noted


async def say(parts: Parts, owner: Caller, session_id: SessionId, text: str = "Hello.") -> Watched:
    """Post a message and wait for the end of its turn; return what was written for it."""
    watched = Watched(parts.database)
    body = CreateMessage(InputMessage((TextPart(script({"text": "Yes."}, ask=text)),)))
    app: Any = replace(parts.app, database=watched)
    await post_message(app, owner, session_id, body)
    await at_rest(parts, session_id)
    return watched


async def inputs_of(parts: Parts, session_id: SessionId) -> list[Event]:
    return [event for event in await log_of(parts, session_id) if event.type == "input.message"]


async def test_a_message_to_a_session_whose_turn_ended_here_is_one_statement(
    database_url: str, tmp_path: Path
) -> None:
    async with at_work(database_url, tmp_path) as (parts, owner, session):
        first = await say(parts, owner, session.id)
        assert first.writes == [(True, 2)]  # its row has to be read
        assert (await say(parts, owner, session.id)).writes == [(True, 1)]
        numbers = [event.sequence for event in await log_of(parts, session.id)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(await inputs_of(parts, session.id)) == 2


async def test_a_secret_that_was_stored_since_is_redacted(database_url: str, tmp_path: Path) -> None:
    async with at_work(database_url, tmp_path) as (parts, owner, session):
        await say(parts, owner, session.id)
        await put_secrets(parts.app, owner, session.id, SetSecrets({"door": SECRET}))
        tried = await say(parts, owner, session.id, f"It is {SECRET}.")
        assert [single for single, _ in tried.writes] == [True, True, False]
        again = await say(parts, owner, session.id, f"Really {SECRET}.")
        assert [single for single, _ in again.writes] == [False]  # it is known to have one
        logged = [event.data for event in await log_of(parts, session.id)]
        assert not any(SECRET in each for each in logged)


async def test_an_agent_that_has_got_a_variable_since_needs_its_value(
    database_url: str, tmp_path: Path
) -> None:
    async with at_work(database_url, tmp_path) as (parts, owner, _):
        app = parts.app
        agent, _ = await create_agent(app, owner, CreateAgent("helper", "You help."))
        session = await create_session(app, owner, CreateSession(agent_id=agent.id))
        await say(parts, owner, session.id)
        body = UpdateAgent(
            system_prompt="You help {{whom}}.", variables={"whom": Variable(description="Who is helped.")}
        )
        await change_agent(app, owner, agent.id, body)
        with pytest.raises(InvalidInput, match="whom"):
            await say(parts, owner, session.id)
        assert len(await inputs_of(parts, session.id)) == 1


async def test_what_this_process_knows_of_a_session_may_be_outdated(
    database_url: str, tmp_path: Path
) -> None:
    async with at_work(database_url, tmp_path) as (parts, owner, session):
        app = parts.app
        await say(parts, owner, session.id)
        old = await parts.database.read(lambda tx: look_session(tx, session.id))
        assert old is not None
        await say(parts, owner, session.id)
        app.known.put(old)  # as if another process had made the turn since, and this one had not heard of it
        watched = await say(parts, owner, session.id)
        assert [single for single, _ in watched.writes] == [True, True]
        assert len(await inputs_of(parts, session.id)) == 3
        app.known.put(replace(old, epoch=old.epoch + 7))
        await say(parts, owner, session.id)
        assert len(await inputs_of(parts, session.id)) == 4
        app.known.outdate(session.id, 10_000)
        assert app.known.take(owner.organization_id, session.id) is None


async def test_a_known_session_of_another_organization_or_a_deleted_one_is_not_found(
    database_url: str, tmp_path: Path
) -> None:
    async with at_work(database_url, tmp_path) as (parts, owner, session):
        await say(parts, owner, session.id)
        row = parts.app.known.at_rest(session.id)
        assert row is not None
        stranger: Any = replace(owner, organization_id=parts.app.new_id("organization"))
        with pytest.raises(NotFound):
            await say(parts, stranger, session.id)
        await delete_session(parts.app, owner, session.id)
        parts.app.known.put(row)
        with pytest.raises(NotFound):
            await say(parts, owner, session.id)


async def test_few_sessions_are_kept() -> None:
    known = KnownSessions()
    for number in range(MOST + 5):
        known.needs_lock(SessionId(f"session_{number}"))
    assert known.is_plain(SessionId("session_0"))
    assert not known.is_plain(SessionId(f"session_{MOST + 4}"))
