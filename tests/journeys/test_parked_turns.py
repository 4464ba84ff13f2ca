"""Turns that were parked continue from where they are, whoever worked on them meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.callbacks import answer_callback
from perdure.app.session_ends import delete_session
from perdure.capabilities import ONCE, Later, Tool, ToolContext, schema
from perdure.capabilities.model_choice import choose_model
from perdure.domain.callbacks import CallbackResult
from perdure.domain.errors import Fenced
from perdure.domain.turn import Calling
from perdure.engine.advance import advance
from perdure.engine.attempt import Attempt
from perdure.engine.conversation_cache import ConversationCache
from perdure.engine.run import OpenedSession, Run, read_session
from perdure.engine.turn_events import begin_model_call
from perdure.store.database import Tx
from perdure.store.parked_turns import ParkedTurns, read_turn
from perdure.store.sessions import SessionRow, get_session
from tests.journeys.test_discovery import Inside, inside, with_shelf
from tests.journeys.test_found_tools import Market, results
from tests.talk import call


class Orders(Market):
    """Makes orders whose results come through callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.tools = (Tool("order", "Order.", schema({}), self._order, ONCE),)

    async def _order(self, context: ToolContext, arguments: object) -> Later:
        callback = await context.callback(60)
        self.urls.append(callback.url)
        return Later("callback", callback.deadline)

    async def answer(self, there: Inside, value: str) -> None:
        """Answer the callback that was opened last."""
        await answer_callback(there.app, self.urls[-1].rsplit("/", 1)[1], CallbackResult(value))


class Counted:
    """The real database, with a count of its transactions."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def write(self, body: Any, **how: Any) -> Any:
        self.writes += 1
        return await self._database.write(body, **how)


OPEN = "SELECT session_id FROM callbacks WHERE answered_at IS NULL"
STORED = "SELECT session_id FROM callbacks"
LISTED = "SELECT id FROM callbacks WHERE session_id = 'x' AND answered_at IS NULL ORDER BY created_at"
ORDER = {"tool_calls": [call("order", "c1")]}


def another_process(there: Inside) -> Inside:
    """The same installation, from a process that has nothing in memory."""
    turns = ParkedTurns()
    fresh: dict[str, Any] = {"conversations": ConversationCache(), "claimed_epochs": {}, "turns": turns}
    return replace(there, app=replace(there.app, turns=turns), engine=replace(there.engine, **fresh))


def one_order(database_url: str, tmp_path: Path, orders: Orders) -> AbstractAsyncContextManager[Inside]:
    """A session whose model makes one order, and answers when its result is here."""
    return inside(database_url, tmp_path, orders, ORDER, {"text": "Here."}, session=with_shelf())


async def row_of(there: Inside) -> SessionRow:
    org_id = there.owner.organization_id
    return await there.app.database.read(lambda tx: get_session(tx, org_id, there.session.id))


async def test_a_turn_that_went_on_elsewhere_continues_from_its_log(
    database_url: str, tmp_path: Path
) -> None:
    orders = Orders()
    answers = (ORDER, ORDER, ORDER, {"text": "All here."}, {"text": "Next."})
    async with inside(database_url, tmp_path, orders, *answers, session=with_shelf()) as there:
        other = another_process(there)
        await there.ask()
        for number, (answered, worked) in enumerate(((there, other), (there, there), (other, other))):
            await orders.answer(answered, f"result {number}")
            await advance(worked.engine, there.session.id)
        assert await results(there) == ["result 0", "result 1", "result 2"]
        row = await row_of(there)
        assert (row.status, row.recoveries) == ("idle", 0)
        assert there.engine.turns.start_of(row).head == row.turn_after, "what was kept is of another turn"
        await there.ask()
        assert "All here." in str(there.driver.requests[-1].messages)


async def test_a_parked_turn_is_not_folded_again_and_its_first_append_claims_the_session(
    database_url: str, tmp_path: Path
) -> None:
    orders = Orders()
    async with one_order(database_url, tmp_path, orders) as there:
        await there.ask()
        parked = await row_of(there)
        assert there.engine.turns.start_of(parked).head == parked.head
        cold = await there.app.database.read(lambda tx: read_turn(tx, parked, ParkedTurns()))
        assert there.engine.turns.start_of(parked) == cold, "as the log tells"
        await orders.answer(there, "result")
        counted: Any = Counted(there.engine.database)
        await there.engine.meter.refresh(there.engine.database, there.engine.clock.now())
        await advance(replace(there.engine, database=counted), there.session.id)
        done = await row_of(there)
        assert (counted.writes, done.epoch, done.status) == (2, parked.epoch + 1, "idle")


async def test_a_runner_that_was_overtaken_before_its_first_append_leaves_the_session_to_the_other(
    database_url: str, tmp_path: Path
) -> None:
    orders = Orders()
    async with one_order(database_url, tmp_path, orders) as there:
        await there.ask()
        await orders.answer(there, "result")
        late = await Attempt(there.engine, there.session.id, again=False, retried=False, trouble=None).open()
        found = await read_session(
            another_process(there).engine, there.session.id, again=False, counted=False
        )
        assert late is not None
        assert isinstance(found, OpenedSession)
        fast = Run(there.engine, found.row, found.state, found.conversation, claimed=True)
        agent: Any = await there.resolved()
        choice: Any = await _choice(there)
        turn = fast.phase(Calling).turn
        assert await fast.commit(begin_model_call(fast, turn, agent, choice))
        with pytest.raises(Fenced):
            await late.commit(begin_model_call(late, turn, agent, choice))
        assert (late.claimed, (await row_of(there)).epoch) == (False, found.row.epoch)


async def test_open_callbacks_are_found_without_reading_the_answered_ones(
    database_url: str, tmp_path: Path
) -> None:
    orders = Orders()
    answers = (*(ORDER,) * 3, {"text": "Here."})
    async with inside(database_url, tmp_path, orders, *answers, session=with_shelf()) as there:

        async def sessions(sql: str) -> list[str]:
            return [row[0] for row in await there.app.database.read(lambda tx: tx.all(sql))]

        await there.ask()
        for left in (1, 1, 0):
            assert await sessions(OPEN) == [there.session.id]
            await orders.answer(there, "result")
            await orders.answer(there, "result")  # sent again
            await advance(there.engine, there.session.id)
            assert await sessions(OPEN) == [there.session.id] * left
        assert await sessions(STORED) == [there.session.id] * 3
        plan = await there.app.database.read(_plan)
        assert "callbacks_by_session" in plan
        assert "answered_at" in plan, "the index leads to the open ones alone"
        await delete_session(there.app, there.owner, there.session.id)
        assert await sessions(STORED) == []


async def _plan(tx: Tx) -> str:
    """How the database finds the open callbacks of a session, if it does not just read a small table."""
    if tx.dialect == "postgres":
        await tx.run("SET LOCAL enable_seqscan = off")
        await tx.run("SET LOCAL enable_bitmapscan = off")
    explain = "EXPLAIN" if tx.dialect == "postgres" else "EXPLAIN QUERY PLAN"
    return str([tuple(row) for row in await tx.all(f"{explain} {LISTED}")])


async def _choice(there: Inside) -> Any:
    async def body(tx: Any) -> Any:
        layers = await there._layers(tx)
        return await choose_model(
            *(tx, layers, None, there.engine.vault, there.engine.drivers, there.engine.fit)
        )

    return await there.app.database.read(body)


async def test_two_processes_that_continue_a_turn_at_once_make_one_model_call_in_its_log(
    database_url: str, tmp_path: Path
) -> None:
    orders = Orders()
    answers = (ORDER, {"text": "Here."}, {"text": "Here."}, {"text": "Here."})
    async with inside(database_url, tmp_path, orders, *answers, session=with_shelf()) as there:
        await there.ask()
        await orders.answer(there, "result")
        others = [there, *(another_process(there) for _ in range(3))]
        await asyncio.gather(*(advance(each.engine, there.session.id) for each in others))
        row = await row_of(there)
        assert (row.status, row.recoveries) == ("idle", 0)
        assert len(there.driver.requests) == 2
