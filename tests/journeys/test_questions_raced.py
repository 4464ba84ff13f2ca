"""Answers to an agent's questions that race with their deadline, in two processes whose clocks differ."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from perdure.app.questions import submit_results
from perdure.domain.calls import Parked
from perdure.domain.errors import PerdureError
from perdure.domain.events import ToolCompletedData
from perdure.domain.inbox import Decider
from perdure.domain.messages import text_of
from perdure.domain.sessions import CreateSession
from perdure.domain.tools import SubmitToolResults, ToolCallResult
from perdure.domain.turn import Calling
from perdure.engine.advance import advance
from perdure.store.events import events_after
from perdure.store.parked_turns import ParkedTurns, read_turn
from tests.journeys.test_discovery import Inside, Shelf, inside
from tests.journeys.test_parked_rate_limits import Moved
from tests.journeys.test_parked_turns import another_process, row_of
from tests.journeys.test_questions import COLOUR, TOKEN, asking

IN_GENERIC = CreateSession(harness_name="generic")
LATE = 301.0
"""Seconds after which the deadline has passed."""


async def answer(there: Inside, **answers: str) -> str:
    """Answer the question; returns the code of the error, or an empty text."""
    body = SubmitToolResults((ToolCallResult("q1", {"answers": answers}),))
    try:
        await submit_results(there.app, Decider(there.owner), there.session.id, body)
    except PerdureError as error:
        return error.code
    return ""


async def ends(there: Inside) -> list[ToolCompletedData]:
    events = await there.app.database.read(lambda tx: events_after(tx, there.session.id, 0, limit=500))
    return [data for event in events if (data := event.get(ToolCompletedData)) is not None]


def later(there: Inside, seconds: float) -> Inside:
    """Another process of the same installation, whose clock is ahead."""
    clock = Moved()
    clock.ahead = seconds
    other = another_process(there)
    return replace(other, app=replace(other.app, now=clock.now), engine=replace(other.engine, clock=clock))


async def test_an_answer_and_the_deadline_at_once_end_the_call_once(
    database_url: str, tmp_path: Path
) -> None:
    rounds = 6
    answers: list[Any] = [step for _ in range(rounds) for step in (asking(COLOUR), {"text": "Well."})]
    async with inside(database_url, tmp_path, Shelf(), *answers, session=IN_GENERIC) as there:
        for number in range(rounds):
            await there.ask()
            before = len(await ends(there))
            late = asyncio.ensure_future(advance(later(there, LATE).engine, there.session.id))
            if number % 2:
                await asyncio.sleep(0)  # the other process begins first
            code, _ = await asyncio.gather(answer(there, colour="red"), late)
            new = (await ends(there))[before:]
            assert len(new) == 1
            assert ('"red"' in text_of(new[0].result or ())) == (code == "")
            assert (new[0].status == "timeout") == (code != "")
            await advance(there.engine, there.session.id)
            assert (await row_of(there)).status == "idle"


async def test_a_late_answer_is_refused_before_the_deadline_was_noticed_and_stores_no_secret(
    database_url: str, tmp_path: Path
) -> None:
    steps = (asking(TOKEN), {"text": "Well."})
    async with inside(database_url, tmp_path, Shelf(), *steps, session=IN_GENERIC) as there:
        await there.ask()
        assert await answer(later(there, LATE), token="correct-horse") == "questions_closed"
        assert await ends(there) == []
        row = await row_of(there)
        assert row.status == "waiting_for_tool_results"
        state = await there.app.database.read(lambda tx: read_turn(tx, row, ParkedTurns()))
        assert isinstance(state, Calling)
        (call,) = state.calls
        assert isinstance(call.status, Parked)
        assert (call.status.kind, row.wake_at) == ("question", call.status.until)
        assert await answer(there, token="correct-horse") == ""
        await advance(there.engine, there.session.id)
        assert (await row_of(there)).status == "idle"


async def test_an_answer_to_nothing_is_refused(database_url: str, tmp_path: Path) -> None:
    async with inside(database_url, tmp_path, Shelf(), {"text": "Hi."}, session=IN_GENERIC) as there:
        assert await answer(there, colour="red") == "not_waiting_for_tool_results"
