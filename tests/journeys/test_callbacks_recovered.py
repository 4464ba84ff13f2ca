"""Callbacks of calls that were cut off, have ended or are cancelled."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.callbacks import answer_callback, cancel_callback, open_callbacks
from perdure.app.messages import post_message
from perdure.app.sessions import create_session, read_session
from perdure.capabilities import (
    NOT_DONE,
    UNKNOWN,
    Capability,
    Later,
    Tool,
    ToolContext,
    ToolError,
    ToolOutcome,
    Verified,
    done,
    schema,
)
from perdure.domain.callbacks import CallbackResult
from perdure.domain.errors import Gone
from perdure.domain.events import ToolCompletedData
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.domain.sessions import Session
from perdure.engine.advance import advance
from perdure.store.database import Body, Database, Tx
from tests.journeys.test_discovery import Inside, Shelf, inside, with_shelf
from tests.journeys.test_found_tools import LaterClock, log_of, restarted
from tests.talk import PATIENCE, call, script

HOUR = 3600.0


class Desk(Shelf):
    """Tools that order something: the first attempt hangs where the call says."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []
        self.held = asyncio.Event()
        self.late: list[asyncio.Task[Any]] = []
        self.late_now, self.go_on = asyncio.Event(), asyncio.Event()

    def capability(self) -> Capability:
        steps = partial(Tool, parameters=schema({}), description="Order.", run=self._in_steps)
        plain = partial(Tool, parameters=schema({}), description="Order.", run=self._plain, timeout=0.5)
        tools = (
            steps("before_the_step", resumable=True),
            steps("in_the_step", resumable=True),
            steps("in_the_repeatable_step", resumable=True),
            steps("after_the_step", resumable=True),
            steps("after_a_step_with_all", resumable=True, run=self._all_in_a_step),
            plain("plain"),
            plain("found_done", verify=partial(_say, done("found"))),
            plain("found_not_done", verify=partial(_say, NOT_DONE)),
            plain("not_found", verify=partial(_say, UNKNOWN)),
            plain("outlasting", run=self._outlasting),
            plain("odd", run=self._odd),
            plain("slow", run=self._slow),
            plain("careless", run=self._careless),
        )
        return Capability("shelf", "Desk", "For tests.", "test", tools=lambda config: tools)

    async def _hang(self) -> None:
        if not self.held.is_set():
            self.held.set()
            await asyncio.Event().wait()

    async def _in_steps(self, context: ToolContext, arguments: object) -> Later:
        callback = await context.callback(HOUR)
        where = context.tool_call_id
        if where == "before_the_step":
            await self._hang()

        async def send() -> None:
            self.sent.append(callback.url)
            if where.startswith("in_the"):
                await self._hang()

        await context.step("send", send, idempotent="repeatable" in where)
        await self._hang()
        return Later("callback", callback.deadline)

    async def _all_in_a_step(self, context: ToolContext, arguments: object) -> Later:
        async def send() -> int:
            callback = await context.callback(HOUR)
            self.sent.append(callback.url)
            return callback.deadline

        deadline = await context.step("send", send)
        await self._hang()
        return Later("callback", int(str(deadline)))

    async def _plain(self, context: ToolContext, arguments: object) -> Later:
        callback = await context.callback(HOUR)
        self.sent.append(callback.url)
        await self._hang()
        return Later("callback", callback.deadline)

    async def _outlasting(self, context: ToolContext, arguments: object) -> Later:
        callback = await context.callback(HOUR)
        self.sent.append(callback.url)
        return Later("callback", callback.deadline + 10**12)

    async def _odd(self, context: ToolContext, arguments: object) -> Later:
        await context.callback(HOUR)
        return Later("client", context.now() + 10**9)

    async def _slow(self, context: ToolContext, arguments: object) -> ToolOutcome:
        self.sent.append((await context.callback(HOUR)).url)
        self.held.set()
        await self.go_on.wait()
        return ToolOutcome("too late")

    async def _careless(self, context: ToolContext, arguments: object) -> ToolOutcome:
        """Leave something running that opens a callback after the call."""

        async def afterwards() -> str:
            await self.late_now.wait()
            return (await context.callback(HOUR)).url

        self.late.append(asyncio.create_task(afterwards()))
        return ToolOutcome("gone")


async def _say(found: Verified, context: ToolContext, arguments: object) -> Verified:
    return found


async def ask(there: Inside, *names: str) -> None:
    """Have the model call each of these tools in an answer of its own, and run until the session rests."""
    steps = [{"tool_calls": [call(name, name)]} for name in names]
    message = InputMessage((TextPart(script(*steps, {"text": "Done."})),))
    await post_message(there.app, there.owner, there.session.id, CreateMessage(message))
    await advance(there.engine, there.session.id)


async def cut_off(there: Inside, desk: Desk, name: str) -> None:
    """Have the model call the tool, and its runner die where the tool hangs."""
    work = asyncio.create_task(ask(there, name))
    await desk.held.wait()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def answer(there: Inside, url: str, value: str = "here") -> None:
    await answer_callback(there.app, url.rsplit("/", 1)[1], CallbackResult(value))


async def ended(there: Inside) -> list[ToolCompletedData]:
    return [data for event in await log_of(there) if (data := event.get(ToolCompletedData))]


async def parked(there: Inside) -> Session:
    return await read_session(there.app, there.owner, there.session.id)


def text_of(data: ToolCompletedData) -> str:
    (part,) = data.result or (TextPart(data.error or ""),)
    assert isinstance(part, TextPart)
    return part.text


# By the tool: how often its URL is sent after all, and the call's result once the first of them is answered.
CUT_OFF = {
    "before_the_step": (1, "here"),
    "in_the_step": (1, "here"),
    "in_the_repeatable_step": (2, "here"),
    "after_the_step": (1, "here"),
    "after_a_step_with_all": (1, "here"),
    "plain": (1, "here"),
    "found_done": (1, "found"),
    "found_not_done": (2, "here"),
    "not_found": (1, "here"),
}


async def test_a_call_that_was_cut_off_goes_on_if_it_may_or_waits_for_whoever_has_its_url(
    database_url: str, tmp_path: Path
) -> None:
    desk = Desk()
    async with inside(database_url, tmp_path, desk, session=with_shelf()) as first:
        for name, (times, result) in CUT_OFF.items():
            desk.sent.clear()
            desk.held.clear()
            session = await create_session(first.app, first.owner, with_shelf())
            there = replace(first, session=session)
            await cut_off(there, desk, name)
            await advance(there.engine, session.id, again=True)
            assert len(desk.sent) == times, name
            if result == "here":
                assert [each.kind for each in (await parked(there)).parked_on or ()] == ["callback"], name
                await answer(there, desk.sent[0])
                await advance(there.engine, session.id)
            (data,) = await ended(there)
            assert (data.success, text_of(data), data.outcome_unknown) == (True, result, False), name
            assert (await log_of(there))[-1].type == "session.idled", name


@pytest.mark.parametrize("name", ["plain", "after_the_step"])
async def test_a_call_whose_tool_is_gone_after_a_crash_waits_for_its_callback(
    name: str, database_url: str, tmp_path: Path
) -> None:
    desk = Desk()
    async with inside(database_url, tmp_path, desk, session=with_shelf()) as first:
        await cut_off(first, desk, name)
        there = restarted(first, Without())
        await advance(there.engine, there.session.id, again=True)
        await answer(there, desk.sent[0])
        await advance(there.engine, there.session.id)
        assert [text_of(data) for data in await ended(there)] == ["here"]


class Without(Shelf):
    """What is left of the desk: a capability without tools."""

    def capability(self) -> Capability:
        return Capability("shelf", "Desk", "For tests.", "test")


async def test_a_call_waits_no_longer_than_its_callback_is_open(database_url: str, tmp_path: Path) -> None:
    async with inside(database_url, tmp_path, Desk(), session=with_shelf()) as there:
        await ask(there, "outlasting")
        (waits,) = (await parked(there)).parked_on or ()
        (opened,) = await open_callbacks(there.app, there.owner, there.session.id)
        assert waits.until[:19] == opened.expires_at[:19]
        assert waits.until <= opened.expires_at


async def test_a_call_waits_for_nothing_that_cannot_come(tmp_path: Path) -> None:
    async with inside("", tmp_path, Desk(), session=with_shelf()) as there:
        await ask(there, "odd")
        (data,) = await ended(there)
        assert (data.success, data.error) == (False, "A tool cannot defer its result to the kind 'client'.")


async def test_the_cancelled_callback_of_a_call_leaves_its_outcome_unknown(
    database_url: str, tmp_path: Path
) -> None:
    desk = Desk()
    async with inside(database_url, tmp_path, desk, session=with_shelf()) as first:
        for name in ("slow", "outlasting"):  # still running, and parked
            session = await create_session(first.app, first.owner, with_shelf())
            there = replace(first, session=session)
            work = asyncio.create_task(ask(there, name))
            await (desk.held.wait() if name == "slow" else work)
            (opened,) = await open_callbacks(there.app, there.owner, there.session.id)
            await cancel_callback(there.app, there.owner, there.session.id, opened.id)
            desk.go_on.set()
            await work
            await advance(there.engine, there.session.id)
            (data,) = await ended(there)
            assert (data.status, data.outcome_unknown) == ("cancelled", True)
            assert "may or may not have taken effect" in (data.error or "")
            with pytest.raises(Gone):
                await answer(there, desk.sent[-1])


async def test_no_callback_opens_after_its_call_has_ended_and_none_of_a_later_call_closes(
    database_url: str, tmp_path: Path
) -> None:
    desk = Desk()
    async with inside(database_url, tmp_path, desk, session=with_shelf()) as there:
        work = asyncio.create_task(ask(there, "careless", "slow"))
        await desk.held.wait()
        desk.late_now.set()
        (refused,) = await asyncio.gather(*desk.late, return_exceptions=True)
        assert isinstance(refused, ToolError)
        assert str(refused) == "the call has ended: it cannot open a callback"
        (opened,) = await open_callbacks(there.app, there.owner, there.session.id)
        assert opened.tool_call_id == "slow"
        await answer(there, desk.sent[0])
        desk.go_on.set()
        await work
        assert [text_of(data) for data in await ended(there)] == ["gone", "here"]


class Watched:
    """An SQLite that tells when a transaction is asked for, and commits it only when it may.

    Bodies run in a thread there, so that one can be held.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.asked, self.made, self.may_commit = asyncio.Event(), asyncio.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def write(self, body: Body[Any], *, single: bool = False) -> Any:
        loop = asyncio.get_running_loop()

        async def held(tx: Tx) -> Any:
            value = await body(tx)
            loop.call_soon_threadsafe(self.made.set)
            self.may_commit.wait(PATIENCE)
            return value

        self.asked.set()
        return await self._database.write(held, single=True)


async def test_an_answer_that_is_repeated_at_the_deadline_is_not_late_if_the_first_one_is_not(
    tmp_path: Path,
) -> None:
    desk = Desk()
    async with inside("", tmp_path, desk, session=with_shelf()) as there:
        await ask(there, "outlasting")
        in_time, late = Watched(there.app.database), Watched(there.app.database)
        late.may_commit.set()
        with_first = replace(there, app=replace(there.app, database=in_time))
        after = LaterClock(there, HOUR + 1)
        with_second = replace(there, app=replace(there.app, database=late, now=after.now))
        first = asyncio.create_task(answer(with_first, desk.sent[0]))
        await in_time.made.wait()
        second = asyncio.create_task(answer(with_second, desk.sent[0]))
        waiting = asyncio.create_task(late.asked.wait())
        await asyncio.wait({second, waiting}, return_when=asyncio.FIRST_COMPLETED)
        in_time.may_commit.set()
        assert await asyncio.gather(first, second, return_exceptions=True) == [None, None]
        waiting.cancel()
        with pytest.raises(Gone):
            await answer(with_second, desk.sent[0], "another")
