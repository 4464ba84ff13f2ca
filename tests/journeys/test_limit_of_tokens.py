"""The limit of tokens per minute parks a turn before its next model call, until there is room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from perdure.app.limits import change_limits, read_limits
from perdure.domain.events import TurnParkedData
from perdure.domain.limits import ChangeLimits, UpdateLimits
from perdure.domain.times import from_rfc3339
from perdure.engine.advance import advance
from perdure.store.meter import Meter
from tests.journeys.test_discovery import Shelf, inside, with_shelf
from tests.journeys.test_parked_rate_limits import Limit, Limited, Moved
from tests.journeys.test_parked_turns import row_of

MINUTE = 60.0


@asynccontextmanager
async def limited_org(url: str, folder: Path, tokens: int) -> AsyncIterator[Limit]:
    driver, clock = Limited(), Moved()
    async with inside(url, folder, Shelf(), session=with_shelf()) as there:
        app = replace(there.app, now=clock.now)
        engine = replace(there.engine, drivers=lambda row, secrets: driver, clock=clock)
        body = UpdateLimits(organization=ChangeLimits(tokens_per_minute=tokens))
        await change_limits(app, there.owner, there.owner.organization_id, body)
        yield Limit(app, engine, there.owner, there.session, there.driver, driver, clock)


async def test_the_next_call_waits_until_the_minute_has_room(database_url: str, tmp_path: Path) -> None:
    async with limited_org(database_url, tmp_path, 1) as there:
        await there.ask()
        assert (there.limited.calls, (await there.kinds())[-1]) == (1, "session.idled")
        await there.ask()
        assert (there.limited.calls, (await there.kinds())[-1]) == (1, "turn.parked")
        parked = (await there.events())[-1].read(TurnParkedData)
        assert (parked.parked_kind, parked.scope) == ("tokens_per_minute", "organization")
        assert "limit of 1 tokens per minute" in parked.error
        (waits,) = (await there.read()).parked_on
        assert (waits.kind, waits.until) == ("tokens_per_minute", parked.until)
        wait = (from_rfc3339(parked.until) - there.clock.now()) / 1_000_000
        assert 0 < wait <= 2 * MINUTE + 1
        # A message does not make it try: nobody can know better than the count.
        await there.say("Still there?")
        await advance(there.engine, there.session.id)
        assert (there.limited.calls, await there.sweep()) == (1, 0)
        assert (await row_of(there)).resting == 1
        there.clock.ahead += wait + 1
        assert await there.sweep() == 1
        assert (there.limited.calls, (await there.kinds())[-1]) == (2, "session.idled")
        assert (await there.kinds()).count("turn.started") == 2


async def test_what_another_process_used_counts_and_survives_it(database_url: str, tmp_path: Path) -> None:
    async with limited_org(database_url, tmp_path, 1) as there:
        await there.ask()
        database, org = there.app.database, there.owner.organization_id
        await there.app.meter.refresh(database, there.clock.now())
        other = Meter()
        await other.refresh(database, there.clock.now())  # learns the limits
        other.count("tokens", org, there.owner.user_id, 1, there.clock.now())
        await other.refresh(database, there.clock.now())
        used = there.app.meter.used("tokens", org, None, there.clock.now())
        assert used > 0
        assert other.used("tokens", org, None, there.clock.now()) == used + 1
        shown = await read_limits(there.app, there.owner, org)
        assert shown.organization.tokens_per_minute.limit == 1
        assert shown.organization.tokens_per_minute.used == used
