"""Holds a turn back before a model call while a limit of its organization or user is reached."""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from perdure.domain.events import NewEvent, TurnParkedData
from perdure.domain.limits import Reached
from perdure.domain.spans import turn_context
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.turn import Waiting
from perdure.domain.turn_totals import Turn
from perdure.engine.outages import outlast
from perdure.engine.run import Run
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow
from perdure.store.turn_slots import ACTIVE, full, lock_turns, take_slot

LOOK_AGAIN: Micros = 3_600_000_000
"""Microseconds after which a turn that waits for others to end tries by itself. Normally, the sweep of limits
lets it go on as soon as there is room."""


async def held_back(run: Run, turn: Turn) -> list[NewEvent]:
    """The events that park the turn before its next model call; none if it has room under all limits."""
    engine, row, now = run.engine, run.row, run.engine.clock.now()
    kind: Literal["tokens_per_minute", "active_turns"] = "tokens_per_minute"
    reached = engine.meter.reached("tokens", row.org_id, row.owner_id, now)
    if reached is None and row.turn_slot != ACTIVE:
        kind, reached = "active_turns", await _take_place(run)
    if reached is None:
        return []
    if kind == "active_turns":
        engine.meter.waits(row.org_id)
    until = to_rfc3339(now + (reached.wait or LOOK_AGAIN))
    data = TurnParkedData(turn.id, kind, until, f"{kind}_limit", reached.message(), reached.scope)
    return [NewEvent(data, turn_context(turn), now)]


async def _take_place(run: Run) -> Reached | None:
    """Count the turn as active; returns the limit that it would pass if there is no room."""
    engine, row = run.engine, run.row
    meter, most = engine.meter, engine.meter.limits(row.org_id)
    if meter.may_begin(row.org_id, row.id, row.owner_id):
        return None

    async def body(tx: Tx) -> tuple[Reached | None, bool]:
        turns = await lock_turns(tx, row.org_id)
        reached = full(turns, row.owner_id, most, meter.pending(row.org_id, row.id))
        if reached is not None:
            return reached, False
        return None, await take_slot(tx, row.id, row.epoch, row.head)

    if run.claimed:
        reached, taken = await outlast(engine, row.id, lambda: engine.database.write(body))
    else:
        reached, taken = await engine.database.write(body)
    if taken:
        meter.took(row.org_id, row.id, row.owner_id)
        run.row = replace(run.row, turn_slot=ACTIVE)
    return reached


def may_go_on(row: SessionRow, state: Waiting) -> bool:
    """Whether the turn waited for others to end, and has a place now."""
    return state.kind == "active_turns" and row.turn_slot == ACTIVE
