"""A session wakes at the earliest deadline of what is still parked, whatever happened to the other calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from perdure.app.callbacks import answer_callback, cancel_callback, open_callbacks
from perdure.app.messages import post_message
from perdure.app.session_ends import cancel_turn, delete_session
from perdure.capabilities import ONCE, Later, Tool, ToolContext, schema
from perdure.capabilities.port import Callback
from perdure.domain.callbacks import CallbackResult
from perdure.domain.calls import Parked
from perdure.domain.events import NewEvent, ToolParkedData
from perdure.domain.messages import Controls, CreateMessage, InputMessage, TextPart
from perdure.domain.parked import next_deadline
from perdure.domain.projection import Projection, project
from perdure.domain.turn import Calling
from perdure.engine.advance import advance
from perdure.store.events import events_after
from perdure.store.parked_turns import ParkedTurns, read_turn
from perdure.store.sessions import SessionRow, look_session
from tests.journeys.test_discovery import Inside, inside, with_shelf
from tests.journeys.test_parked_turns import Orders, another_process
from tests.talk import call, script

SOON, LATER, LAST = 60.0, 600.0, 6_000.0


class Several(Orders):
    """Makes orders with callbacks of several lengths, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.during: Callable[[], Awaitable[None]] | None = None
        self.by_seconds: dict[float, Callback] = {}
        parameters = schema({"seconds": {"type": "array", "items": {"type": "number"}}}, "seconds")
        self.tools = (Tool("order", "Order.", parameters, self._order_all, ONCE),)

    async def _order_all(self, context: ToolContext, arguments: Any) -> Later:
        opened = [await context.callback(seconds) for seconds in arguments["seconds"]]
        self.by_seconds |= dict(zip(arguments["seconds"], opened, strict=True))
        if self.during is not None:
            await self.during()
        return Later("callback", max(callback.deadline for callback in opened))

    async def answer_of(self, there: Inside, seconds: float) -> None:
        """Answer the callback that is open for this long."""
        token = self.by_seconds[seconds].url.rsplit("/", 1)[1]
        await answer_callback(there.app, token, CallbackResult("result"))


def orders_of(*calls: tuple[float, ...]) -> dict[str, Any]:
    return {
        "tool_calls": [
            call("order", f"c{number}", seconds=list(seconds)) for number, seconds in enumerate(calls)
        ]
    }


def parked(
    url: str, folder: Path, orders: Several, *calls: tuple[float, ...]
) -> AbstractAsyncContextManager[Inside]:
    """A session whose model makes these orders, and has more to say afterwards."""
    answers = (orders_of(*calls), {"text": "Here."}, {"text": "So."})
    return inside(url, folder, orders, *answers, session=with_shelf())


async def row_of(there: Inside) -> SessionRow:
    row = await there.app.database.read(lambda tx: look_session(tx, there.session.id))
    assert row is not None
    return row


async def cancel(there: Inside, seconds: float) -> None:
    """Cancel the callback that is open for this long."""
    for each in await open_callbacks(there.app, there.owner, there.session.id):
        stored = await there.app.database.read(
            lambda tx, each=each: tx.one(  # type: ignore[misc]
                "SELECT deadline - created_at FROM callbacks WHERE id = ?", each.id
            )
        )
        assert stored is not None
        if stored[0] == seconds * 1_000_000:
            await cancel_callback(there.app, there.owner, there.session.id, each.id)
            return
    raise AssertionError(f"no callback is open for {seconds} seconds")


async def waits(there: Inside) -> list[float]:
    """How long each parked call still waits, in seconds, once everything that knows it was compared."""
    row = await row_of(there)
    assert row.wake_at == next_deadline(row.parked_calls())
    state = await there.app.database.read(lambda tx: read_turn(tx, row, ParkedTurns()))
    calls = state.calls if isinstance(state, Calling) else ()
    by_log = {each.id: each.status.until for each in calls if isinstance(each.status, Parked)}
    assert {each.tool_call_id: each.until for each in row.parked_calls()} == by_log
    kept = await there.app.database.read(lambda tx: read_turn(tx, row, there.app.turns))
    assert kept == state
    left = [(until - there.app.now()) / 1_000_000 for until in by_log.values()]
    return sorted(next(each for each in (SOON, LATER, LAST) if seconds <= each) for seconds in left)


async def test_a_cancel_of_any_callback_leaves_the_earliest_deadline_of_the_calls_that_still_wait(
    database_url: str, tmp_path: Path
) -> None:
    orders = Several()
    async with parked(database_url, tmp_path, orders, (SOON,), (LATER,), (LAST,)) as there:
        await there.ask()
        assert await waits(there) == [SOON, LATER, LAST]
        await cancel(there, LAST)
        assert await waits(there) == [SOON, LATER]
        await advance(there.engine, there.session.id)
        assert await waits(there) == [SOON, LATER]
        await cancel(there, SOON)
        assert await waits(there) == [LATER]
        await orders.answer_of(there, LATER)
        assert await waits(there) == []


async def test_an_answer_leaves_the_earliest_deadline_of_the_calls_that_still_wait(
    database_url: str, tmp_path: Path
) -> None:
    orders = Several()
    async with parked(database_url, tmp_path, orders, (LATER,), (SOON,), (LAST,)) as there:
        await there.ask()
        for seconds, left in ((SOON, [LATER, LAST]), (LATER, [LAST]), (LAST, [])):
            await orders.answer_of(there, seconds)
            assert await waits(there) == left
            await advance(there.engine, there.session.id)
        assert (await row_of(there)).status == "idle"


async def test_a_call_waits_no_longer_than_its_last_callback_that_is_still_open(
    database_url: str, tmp_path: Path
) -> None:
    orders = Several()
    async with parked(database_url, tmp_path, orders, (SOON, LAST, LATER)) as there:
        await there.ask()
        assert await waits(there) == [LAST]
        await cancel(there, SOON)
        assert await waits(there) == [LAST]
        await cancel(there, LAST)
        assert await waits(there) == [LATER]
        row = await row_of(there)
        assert (row.status, row.resting) == ("active", 1)
        parks = [
            data
            for event in await there.app.database.read(lambda tx: events_after(tx, there.session.id, 0))
            if (data := event.get(ToolParkedData))
        ]
        assert [round(each.timeout_ms / 1000) for each in parks] == [LAST, LATER]
        # It is the same in another process, which has nothing in memory.
        await advance(another_process(there).engine, there.session.id)
        assert await waits(there) == [LATER]
        await cancel(there, LATER)
        await advance(there.engine, there.session.id)
        assert (await row_of(there)).wake_at is None
        assert (await row_of(there)).status == "idle"


async def test_a_callback_that_is_cancelled_while_its_tool_runs_is_not_waited_for(
    database_url: str, tmp_path: Path
) -> None:
    orders = Several()
    async with parked(database_url, tmp_path, orders, (SOON, LAST)) as there:

        async def during() -> None:
            await cancel(there, LAST)

        orders.during = during
        await there.ask()
        assert await waits(there) == [SOON]


async def test_a_call_fails_at_once_if_its_other_callbacks_are_too_late_already(
    database_url: str, tmp_path: Path
) -> None:
    orders = Several()
    async with parked(database_url, tmp_path, orders, (SOON, LAST)) as there:
        await there.ask()
        sql = "UPDATE callbacks SET deadline = ? WHERE deadline - created_at = ?"
        await there.app.database.write(lambda tx: tx.run(sql, there.app.now(), round(SOON * 1_000_000)))
        await cancel(there, LAST)
        assert await waits(there) == []
        await advance(there.engine, there.session.id)
        assert (await row_of(there)).status == "idle"


@pytest.mark.parametrize("how", ["cancel", "delete", "interrupt", "steer"])
async def test_the_end_of_the_wait_of_all_calls_leaves_no_deadline(
    how: str, database_url: str, tmp_path: Path
) -> None:
    orders = Several()
    async with parked(database_url, tmp_path, orders, (SOON,), (LAST,)) as there:
        await there.ask()
        await cancel(there, SOON)
        if how == "cancel":
            await cancel_turn(there.app, there.owner, there.session.id)
        elif how == "delete":
            await delete_session(there.app, there.owner, there.session.id)
        else:
            body = CreateMessage(
                InputMessage((TextPart(script({"text": "So."}, ask="Now.")),)),
                controls=Controls(when_busy="steer" if how == "steer" else "interrupt"),
            )
            await post_message(there.app, there.owner, there.session.id, body)
            row = await row_of(there)
            assert row.wake_at == next_deadline(row.parked_calls())
            await advance(there.engine, there.session.id)
        row = await row_of(there)
        assert (row.wake_at, row.parked, row.status) == (None, None, "idle")


async def test_the_projection_of_the_whole_log_is_that_of_the_row(database_url: str, tmp_path: Path) -> None:
    orders = Several()
    async with parked(database_url, tmp_path, orders, (SOON, LATER), (LAST,)) as there:
        await there.ask()
        await cancel(there, LATER)
        log = await there.app.database.read(lambda tx: events_after(tx, there.session.id, 0))
        whole = project(
            Projection(), [NewEvent(event.decoded(), event.context_struct(), event.ts) for event in log]
        )
        assert whole == (await row_of(there)).projection()
        assert whole.wake_at == next_deadline(whole.parked)
