"""What is done for budgets later: turns that wait for money go on, and calls that have ended are booked."""

from __future__ import annotations

from functools import partial

from perdure.app.at_head import tell_followers, write_at_head
from perdure.app.context import Services
from perdure.app.running_turns import see_to_runner
from perdure.domain.errors import NotFound
from perdure.domain.events import BudgetResumedData, NewEvent
from perdure.domain.ids import BudgetId, OrgId, SessionId
from perdure.domain.spans import turn_context
from perdure.domain.spending import said_of
from perdure.domain.turn import Waiting
from perdure.store.budget_entries import BOOKED_AT_ONCE, book_charges, has_ended_calls
from perdure.store.budget_holds import left_holds, settle_lost
from perdure.store.budgets import standing_of, wait_no_more, waits_with_money
from perdure.store.database import Tx
from perdure.store.parked_turns import read_turn
from perdure.store.sessions import append, get_session

AT_ONCE = 100
"""Turns that one change of a budget makes go on. A sweep sees to the others."""
LOST_AFTER = 60.0
"""Seconds after which what nobody's call holds is settled, and a wait is forgotten whose turn has gone on."""

_SECOND = 1_000_000


async def resume_waiting(app: Services, budget_id: BudgetId | None = None) -> int:
    """Make turns go on whose budget has money again; return how many there were.

    Each goes on in a transaction of its own. What is left is found by the sweep.

    Args:
        budget_id: only those that wait for this one.
    """
    now = app.now()
    found = await app.database.read(lambda tx: waits_with_money(tx, now, budget_id, AT_ONCE))
    for org_id, session_id in found:
        await resume_turn(app, org_id, session_id)
    return len(found)


async def resume_turn(app: Services, org_id: OrgId, session_id: SessionId) -> bool:
    """Make a turn that waits for a budget try again; return whether it did wait."""

    async def work(tx: Tx) -> bool:
        try:
            row = await get_session(tx, org_id, session_id, lock=True)
        except NotFound:
            await wait_no_more(tx, session_id)
            return False
        if row.status != "paused":
            # A runner notes the wait before it parks the turn. Later, the note is of a turn that went on.
            before = app.now() - round(LOST_AFTER * _SECOND)
            await wait_no_more(tx, session_id, before if row.status == "active" else None)
            return False
        waited = await wait_no_more(tx, session_id)
        if waited is None:
            return False
        state = await read_turn(tx, row, app.turns)
        if not isinstance(state, Waiting):
            return False
        now, standing = app.now(), await standing_of(tx, org_id, waited)
        said = (waited, 0.0, 0.0, "usd") if standing is None else said_of(standing)
        resumed = NewEvent(BudgetResumedData(*said), turn_context(state.turn), now)
        after, stored = await append(tx, row, [resumed], now=now)
        await see_to_runner(app, tx, row, is_new=True)
        tell_followers(app, tx, after, stored)
        return True

    return await write_at_head(app, work)


async def settle_left_holds(app: Services) -> int:
    """Settle what nobody's model calls hold any more; return how many there were."""
    now, grace = app.now(), round(LOST_AFTER * _SECOND)
    found = await app.database.read(lambda tx: left_holds(tx, now - grace, now + grace))
    for left in found:
        await app.database.write(partial(settle_lost, left=left, now=now))
    return len(found)


async def book_ended_calls(app: Services) -> int:
    """Give budgets the entries of the calls that have ended; return how many calls there were."""
    booked, more = 0, await app.database.read(has_ended_calls)
    while more:
        count = await app.database.write(book_charges)
        booked, more = booked + count, count == BOOKED_AT_ONCE
    return booked
