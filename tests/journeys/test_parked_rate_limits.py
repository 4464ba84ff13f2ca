"""A rate limit that ends far away parks the turn: it occupies no worker, and the sweep resumes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.forks import fork_session
from perdure.app.messages import post_message
from perdure.app.session_ends import cancel_turn, delete_session
from perdure.app.sessions import read_session
from perdure.domain.errors import Conflict, ModelError
from perdure.domain.events import Event, TurnFailedData, TurnParkedData
from perdure.domain.fallbacks import MAX_PARKED
from perdure.domain.messages import Controls, CreateMessage, InputMessage, TextPart
from perdure.domain.sessions import ForkSession, Session
from perdure.domain.times import from_rfc3339
from perdure.engine.advance import advance
from perdure.engine.context import SystemClock
from perdure.llm.driver import ModelRequest, ModelResponse, OnDelta
from perdure.llm.simulated import SimulatedDriver
from perdure.store.events import events_after
from perdure.store.sessions import look_session
from perdure.worker.sweep import Sweep
from perdure.worker.worker import Worker
from tests.inside import nobody
from tests.journeys.test_discovery import Inside, Shelf, inside, with_shelf
from tests.journeys.test_parked_turns import another_process, row_of

HOUR = 3_600.0


class Moved(SystemClock):
    """The machine's clock, some seconds ahead. It never sleeps."""

    ahead = 0.0

    def now(self) -> int:
        return super().now() + round(self.ahead * 1_000_000)

    async def sleep(self, seconds: float) -> None:
        self.ahead += seconds


class Limited(SimulatedDriver):
    """Refuses as many calls as it has waits for, in seconds; None for a refusal without a time."""

    def __init__(self, *waits: float | None) -> None:
        super().__init__([{"text": "At last."}, {"text": "And more."}])
        self.waits = list(waits)
        self.calls = 0

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        self.calls += 1
        if self.waits:
            on_delta("text", "Half of")
            raise ModelError(
                "Too many.", code="provider_rate_limited", transient=True, retry_after=self.waits.pop(0)
            )
        return await super().generate(request, on_delta)


class Limit(Inside, frozen=True):
    """A session whose model is limited."""

    limited: Limited
    clock: Moved

    async def events(self) -> list[Event]:
        return await self.app.database.read(lambda tx: events_after(tx, self.session.id, 0))

    async def kinds(self) -> list[str]:
        return [event.type for event in await self.events()]

    async def read(self) -> Session:
        return await read_session(self.app, self.owner, self.session.id)

    async def say(self, text: str, **controls: Any) -> None:
        body = CreateMessage(InputMessage((TextPart(text),)), Controls(**controls) if controls else None)
        await post_message(self.app, self.owner, self.session.id, body)

    async def sweep(self) -> int:
        """Sweep as another process does, and do what it finds."""
        other = another_process(self)
        found = await Sweep(other.engine, Worker(other.engine, nobody)).once()
        await advance(other.engine, self.session.id)
        return found


@asynccontextmanager
async def limited_model(url: str, folder: Path, *waits: float | None) -> AsyncIterator[Limit]:
    driver, clock = Limited(*waits), Moved()
    async with inside(url, folder, Shelf(), session=with_shelf()) as there:
        engine = replace(there.engine, drivers=lambda row, secrets: driver, clock=clock)
        yield Limit(there.app, engine, there.owner, there.session, there.driver, driver, clock)


async def test_the_turn_is_parked_and_goes_on_when_its_time_has_come(
    database_url: str, tmp_path: Path
) -> None:
    async with limited_model(database_url, tmp_path, HOUR) as there:
        await there.ask()
        assert (await there.kinds())[-5:] == [
            *("output.message.started", "output.message.withdrawn", "llm.generation", "reason.completed"),
            "turn.parked",
        ]
        parked = (await there.events())[-1].read(TurnParkedData)
        assert (parked.parked_kind, parked.error_code) == ("rate_limit", "provider_rate_limited")
        session = await there.read()
        (waits,) = session.parked_on
        assert (session.status, waits.kind, waits.until) == ("active", "rate_limit", parked.until)
        row = await row_of(there)
        assert (row.resting, row.wake_at) == (1, from_rfc3339(parked.until))
        assert await there.sweep() == 0
        there.clock.ahead = HOUR - 5
        assert await there.sweep() == 0
        assert there.limited.calls == 1
        there.clock.ahead = HOUR + 5
        assert await there.sweep() == 1
        assert (await there.kinds())[-8:] == [
            *("turn.resumed", "reason.started", "output.message.started", "output.message.completed"),
            *("llm.generation", "reason.completed", "turn.completed", "session.idled"),
        ]
        session = await there.read()
        assert (session.status, session.parked_on) == ("idle", ())
        row = await row_of(there)
        assert (row.wake_at, row.resting, row.recoveries) == (None, 0, 0)


async def test_a_turn_that_a_clock_ahead_has_parked_does_not_wait_until_then(
    database_url: str, tmp_path: Path
) -> None:
    async with limited_model(database_url, tmp_path, HOUR) as there:
        there.clock.ahead = 5 * HOUR
        await there.ask()
        assert (await there.kinds())[-1] == "turn.parked"
        there.clock.ahead = 0
        assert await there.sweep() == 1
        assert ((await there.kinds())[-1], there.limited.calls) == ("session.idled", 2)
        assert (await row_of(there)).recoveries == 0


async def test_a_message_makes_the_turn_try_at_once(database_url: str, tmp_path: Path) -> None:
    async with limited_model(database_url, tmp_path, HOUR, HOUR) as there:
        await there.ask()
        await there.say("Still there?")
        assert len((await there.read()).parked_on) == 1
        await advance(there.engine, there.session.id)
        assert (there.limited.calls, (await there.kinds())[-1]) == (2, "turn.parked")
        await there.say("And now?")
        await advance(there.engine, there.session.id)
        assert (await there.kinds())[-1] == "session.idled"
        assert (await there.kinds()).count("turn.started") == 1


async def test_a_queued_message_waits_for_its_own_turn(database_url: str, tmp_path: Path) -> None:
    async with limited_model(database_url, tmp_path, HOUR) as there:
        await there.ask()
        await there.say("Then this.", when_busy="queue")
        assert (await row_of(there)).resting == 1
        await advance(there.engine, there.session.id)
        assert there.limited.calls == 1
        with pytest.raises(Conflict, match="waits for the end of its model's rate limit"):
            await there.say("Not now.", when_busy="reject")
        there.clock.ahead = HOUR + 5
        await there.sweep()
        assert (await there.kinds()).count("turn.completed") == 2


async def test_a_cancel_ends_the_wait(database_url: str, tmp_path: Path) -> None:
    async with limited_model(database_url, tmp_path, HOUR) as there:
        await there.ask()
        await cancel_turn(there.app, there.owner, there.session.id)
        session = await there.read()
        assert (session.status, session.parked_on) == ("idle", ())
        there.clock.ahead = HOUR + 5
        assert await there.sweep() == 0
        assert there.limited.calls == 1
        await there.ask()
        assert (await there.kinds())[-1] == "session.idled"


async def test_a_deletion_ends_the_wait(database_url: str, tmp_path: Path) -> None:
    async with limited_model(database_url, tmp_path, HOUR) as there:
        await there.ask()
        await delete_session(there.app, there.owner, there.session.id)
        row = await there.app.database.read(lambda tx: look_session(tx, there.session.id))
        assert row is not None
        assert (row.wake_at, row.parked) == (None, None)
        there.clock.ahead = HOUR + 5
        assert await there.sweep() == 0


async def test_a_fork_does_not_wait(database_url: str, tmp_path: Path) -> None:
    async with limited_model(database_url, tmp_path, HOUR) as there:
        await there.ask()
        copy = await fork_session(there.app, there.owner, there.session.id, ForkSession())
        assert (copy.status, copy.parked_on) == ("idle", ())
        assert len((await there.read()).parked_on) == 1


async def test_a_short_wait_occupies_the_worker(database_url: str, tmp_path: Path) -> None:
    async with limited_model(database_url, tmp_path, 60.0, None) as there:
        await there.ask()
        assert "turn.parked" not in await there.kinds()
        assert there.limited.calls == 3
        assert there.clock.ahead >= 60


async def test_a_limit_that_never_ends_fails_the_turn_within_a_day(tmp_path: Path) -> None:
    async with limited_model("", tmp_path, *[5 * HOUR] * 9) as there:
        await there.ask()
        while (await there.kinds())[-1] == "turn.parked":
            there.clock.ahead += 5 * HOUR
            await there.sweep()
        failed = [event.get(TurnFailedData) for event in await there.events()]
        assert [data.error_code for data in failed if data] == ["provider_rate_limited"]
        assert there.clock.ahead * 1_000_000 <= MAX_PARKED
        assert (await there.kinds()).count("turn.parked") == 4
