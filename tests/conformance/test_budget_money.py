"""The money of budgets on both databases: leased, held, settled once, and never more than there is."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.domain.budget_periods import CalendarPeriod, RollingPeriod
from perdure.domain.errors import OverBudget
from perdure.domain.ids import BudgetId, OrgId, SessionId, UserId, new_id
from perdure.domain.spending import Held, SpentOn
from perdure.store.budget_entries import EntryRow, book_charges, list_entries, remove_entries
from perdure.store.budget_holds import (
    Charge,
    HoldRow,
    Move,
    Settled,
    holds_of,
    left_holds,
    mark_warned,
    move_money,
    settle_lost,
)
from perdure.store.budget_lists import remove_budget
from perdure.store.budgets import (
    BudgetRow,
    lease,
    lock_budget,
    reclaim,
    roll,
    save_budget,
    shard_of,
    standing_of,
)
from perdure.store.database import Database, Tx
from perdure.store.rows import insert, to_json, values

ORG, OTHER = OrgId("org_1"), OrgId("org_2")
NOW = 1_800_000_000_000_000
MINUTE = 60_000_000


class Till:
    """The budgets of an organization, and what its sessions do with their money."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.log = BudgetId("")

    async def budget(self, limit: int, **changes: Any) -> BudgetId:
        """Create a budget in tokens."""
        row = BudgetRow(
            BudgetId(new_id("budget")),
            *(ORG, "organization", ORG, "tokens", limit, None, 0),
            *(None, None, None, "active", None, "{}", 0, 0, None, 0, NOW, NOW),
        )
        row = replace(row, **changes)
        await self.database.write(lambda tx: tx.run(insert("budgets", BudgetRow), *values(row)))
        return row.id

    def held(self, budgets: list[BudgetId], amount: int, session: SessionId) -> tuple[Held, ...]:
        shard = shard_of(session, self.database.dialect)
        return tuple(Held(each, shard, "tokens", amount) for each in sorted(budgets))

    async def lease(self, held: tuple[Held, ...], now: int = NOW) -> bool:
        return all([await self.database.write(lambda tx, e=each: lease(tx, ORG, e, now)) for each in held])

    def row(self, held: tuple[Held, ...], session: SessionId, epoch: int = 1) -> HoldRow:
        on = to_json(SpentOn(ORG, session, UserId("user_1"), "model"))
        return HoldRow(new_id("hold"), ORG, session, epoch, to_json(held), on, NOW)

    async def move(self, settled: list[Settled], row: HoldRow | None = None) -> list[bool]:
        held = () if row is None else row.held_structs()
        return await self.database.write(lambda tx: move_money(tx, Move(settled, NOW, row, held)))

    def end(self, row: HoldRow, amount: int) -> Settled:
        charges = [Charge(each, amount) for each in row.held_structs()]
        return Settled(ORG, row.session_id, row.id, charges)

    async def append(self, move: Move, since: int = 0) -> bool:
        """Move money in the statement of an append, which expects that its row is newer than `since`."""

        async def body(tx: Tx) -> bool:
            sql = "UPDATE budgets SET updated_at = updated_at + 1 WHERE id = ? AND updated_at > ?"
            return await tx.append(sql, (self.log, since), further=move)

        return await self.database.write(body, single=True)

    async def begin_log(self) -> None:
        """Make a row that appends change: nobody holds money of this budget."""
        self.log = await self.budget(0)

    async def stored(self, budget: BudgetId) -> BudgetRow:
        return await self.database.write(lambda tx: lock_budget(tx, ORG, budget))

    async def shards(self, budget: BudgetId) -> tuple[int, int, int]:
        """What the shards of a budget have leased, spent and reserved."""
        sql = "SELECT leased, spent, reserved FROM budget_shards WHERE budget_id = ?"
        rows = await self.database.read(lambda tx: tx.all(sql, budget))
        return tuple(sum(row[at] for row in rows) for at in range(3))  # type: ignore[return-value]

    async def entries(self, budget: BudgetId) -> list[int]:
        return sorted(each.amount for each in await self.rows(budget))

    async def rows(self, budget: BudgetId) -> list[EntryRow]:
        """The entries of a budget, whether they are booked or not."""
        rows, count = await self.database.read(lambda tx: list_entries(tx, ORG, budget, 0, 1_000))
        assert len(rows) == count
        return rows

    async def book(self, limit: int = 100) -> int:
        return await self.database.write(lambda tx: book_charges(tx, limit))

    async def check(self, budget: BudgetId, limit: int) -> int:
        """Check that the sums add up; return what was spent."""
        row, (leased, spent, reserved) = await self.stored(budget), await self.shards(budget)
        assert row.spent + spent == sum(await self.entries(budget)) <= limit
        assert reserved == 0
        assert row.leased == leased
        assert row.spent + row.leased <= limit
        return row.spent + spent


@pytest.fixture
def till(database: Database) -> Till:
    return Till(database)


SESSION = SessionId("session_1")


async def test_a_call_holds_its_money_until_it_is_settled_once(till: Till) -> None:
    budgets = [await till.budget(1_000), await till.budget(500)]
    held = till.held(budgets, 100, SESSION)
    assert await till.lease(held)
    row = till.row(held, SESSION)
    await till.move([], row)
    assert [(await till.shards(each))[1:] for each in budgets] == [(0, 100)] * 2
    end = till.end(row, 70)
    assert await till.move([end]) == [True]
    assert await till.move([end]) == [False]
    for each in budgets:
        assert (await till.shards(each))[1:] == (70, 0)
        assert await till.entries(each) == [70]
        standing = await till.database.read(lambda tx, e=each: standing_of(tx, ORG, e))
        assert standing is not None
        assert (standing.spent, standing.reserved) == (70, 0)


async def test_a_call_that_ends_after_its_budget_was_deleted_leaves_no_entry_of_it(till: Till) -> None:
    gone, kept = await till.budget(1_000), await till.budget(1_000)
    held = till.held([gone, kept], 100, SESSION)
    assert await till.lease(held)
    row = till.row(held, SESSION)
    await till.move([], row)
    await till.database.write(lambda tx: remove_budget(tx, ORG, gone))
    assert await till.move([till.end(row, 70)]) == [True]
    await till.book()
    assert (await till.entries(gone), await till.entries(kept)) == ([], [70])


async def test_entries_are_the_same_before_and_after_calls_are_booked(till: Till) -> None:
    first, second = await till.budget(1_000), await till.budget(1_000)
    held = till.held([first, second], 100, SESSION)
    assert await till.book() == 0
    for amount in (70, 0, 30):
        assert await till.lease(held)
        row = till.row(held, SESSION)
        await till.move([], row)
        await till.move([till.end(row, amount)])
    assert await till.lease(held)
    await till.move([], open_row := till.row(held, SESSION))
    before = [await till.rows(each) for each in (first, second)]
    assert [[each.amount for each in rows] for rows in before] == [[30, 70]] * 2
    ids = {each.id for rows in before for each in rows}
    assert len(ids) == 4
    assert all(each.startswith("entry_") and len(each) == len(new_id("entry")) for each in ids)
    assert await till.book(limit=1) == 1
    assert [await till.rows(each) for each in (first, second)] == before
    assert sum(await asyncio.gather(till.book(), till.book())) == 2
    assert [await till.rows(each) for each in (first, second)] == before
    assert await till.database.read(lambda tx: holds_of(tx, SESSION, 9)) == [open_row]
    assert (await till.stored(first)).spent + (await till.shards(first))[1] == 100


async def test_booking_while_budgets_are_deleted_leaves_no_entries_of_them(till: Till) -> None:
    kept = await till.budget(10_000)
    for _ in range(10):
        gone = await till.budget(1_000)
        held = till.held([gone, kept], 100, SESSION)
        assert await till.lease(held)
        row = till.row(held, SESSION)
        await till.move([], row)
        await till.move([till.end(row, 7)])

        async def delete(gone: BudgetId = gone) -> None:
            await till.database.write(lambda tx: remove_budget(tx, ORG, gone))
            await till.database.write(lambda tx: remove_entries(tx, ORG, gone))

        await asyncio.gather(till.book(), delete(), till.book())
        await till.book()
        assert await till.entries(gone) == []
    assert await till.entries(kept) == [7] * 10


async def test_entries_of_a_deleted_budget_are_removed_and_no_others(till: Till) -> None:
    gone, kept = await till.budget(1_000), await till.budget(1_000)
    held = till.held([gone, kept], 100, SESSION)
    assert await till.lease(held)
    row = till.row(held, SESSION)
    await till.move([], row)
    await till.move([till.end(row, 70)])
    await till.book()
    assert not await till.database.write(lambda tx: remove_entries(tx, ORG, gone))
    assert (await till.entries(gone), await till.entries(kept)) == ([], [70])


async def test_one_transaction_settles_a_call_and_holds_the_money_of_the_next(till: Till) -> None:
    budget = await till.budget(100)
    held = till.held([budget], 60, SESSION)
    assert await till.lease(held)
    first, second = till.row(held, SESSION), till.row(held, SESSION)
    await till.move([], first)
    with pytest.raises(OverBudget):
        await till.move([], second)
    await till.database.write(lambda tx: _reclaimed(tx, budget))
    assert await till.lease(till.held([budget], 40, SESSION))  # the rest is free once the first has ended
    assert await till.move([till.end(first, 40)], second) == [True]
    assert (await till.shards(budget))[1:] == (40, 60)
    assert await till.move([till.end(second, 60)]) == [True]
    assert await till.check(budget, 100) == 100


async def test_a_call_that_comes_too_late_changes_nothing(till: Till) -> None:
    plenty, little = await till.budget(1_000), await till.budget(100)
    held = till.held([plenty, little], 60, SESSION)
    assert await till.lease(held)
    first = till.row(held, SESSION)
    await till.move([], first)
    other = till.row(held, SESSION)
    before = [await till.shards(each) for each in (plenty, little)]
    with pytest.raises(OverBudget):
        await till.move([till.end(first, 90)], other)
    assert [await till.shards(each) for each in (plenty, little)] == before
    assert await till.entries(plenty) == []
    assert not await till.lease(till.held([little], 60, SESSION))


async def test_an_append_moves_money_or_changes_nothing(till: Till) -> None:
    plenty, little = await till.budget(1_000), await till.budget(100)
    await till.begin_log()
    held = till.held([plenty, little], 60, SESSION)
    assert await till.lease(till.held([plenty, little], 100, SESSION))
    first, second = till.row(held, SESSION), till.row(held, SESSION)
    assert not await till.append(Move([], NOW, first, held), since=NOW)  # the log has moved
    assert [(await till.shards(each))[1:] for each in (plenty, little)] == [(0, 0)] * 2
    assert await till.append(Move([], NOW, first, held))
    with pytest.raises(OverBudget):
        await till.append(Move([till.end(first, 90)], NOW, second, held))
    unknown = till.held([BudgetId("budget_none")], 1, SESSION)
    with pytest.raises(OverBudget):
        await till.append(Move([], NOW, till.row(unknown, SESSION), unknown))
    assert (await till.stored(till.log)).updated_at == NOW + 1
    assert await till.database.read(lambda tx: holds_of(tx, SESSION, 9)) == [first]
    assert await till.append(Move([till.end(first, 30)], NOW, second, held))
    assert await till.append(Move([till.end(first, 30)], NOW))
    assert await till.append(Move([till.end(second, 0)], NOW))
    for each in (plenty, little):
        assert (await till.shards(each))[1:] == (30, 0)
        assert await till.entries(each) == [30]


async def test_a_call_that_cost_more_than_it_held_leaves_less_for_all_others(till: Till) -> None:
    budget = await till.budget(100)
    sessions = [SessionId(f"session_{number}") for number in range(40)]
    for session in sessions:  # as many shards as there are
        held = till.held([budget], 1, session)
        if not await till.lease(held):
            break
        row = till.row(held, session)
        await till.move([], row)
        await till.move([till.end(row, 4)])
    spent = sum(await till.entries(budget))
    assert 100 <= spent <= 103  # the last one began with a token left


async def test_free_calls_need_nothing_of_a_budget_that_is_used_up(till: Till) -> None:
    budget = await till.budget(0)
    row = till.row(till.held([budget], 0, SESSION), SESSION)
    await till.move([], row)
    assert await till.move([till.end(row, 0)]) == [True]
    assert await till.entries(budget) == []


async def test_what_shards_have_leased_can_be_taken_back_but_not_what_calls_hold(till: Till) -> None:
    budget = await till.budget(1_000)
    held = till.held([budget], 100, SESSION)
    await till.lease(held)
    row = till.row(held, SESSION)
    await till.move([], row)

    async def lower(tx: Any) -> BudgetRow:
        locked = await reclaim(tx, await lock_budget(tx, ORG, budget))
        await save_budget(tx, replace(locked, limit_amount=50))
        return locked

    assert (await till.database.write(lower)).leased == 100
    assert not await till.lease(till.held([budget], 1, SessionId("session_2")))
    with pytest.raises(OverBudget):
        await till.move([], till.row(till.held([budget], 1, SESSION), SESSION))
    assert await till.move([till.end(row, 100)]) == [True]
    assert (await till.shards(budget))[1:] == (100, 0)


async def test_what_a_call_frees_beyond_a_lowered_limit_is_no_other_calls(till: Till) -> None:
    budget = await till.budget(1_000)
    held = till.held([budget], 900, SESSION)
    assert await till.lease(held)
    row = till.row(held, SESSION)
    await till.move([], row)

    async def lower(tx: Tx) -> BudgetRow:
        before = await lock_budget(tx, ORG, budget)
        return await reclaim(tx, replace(before, limit_amount=500))

    assert (await till.database.write(lower)).leased == 500
    await till.move([till.end(row, 300)])
    for amount, enough in ((250, False), (200, True)):
        more = till.held([budget], amount, SESSION)
        if not enough:  # a call that was planned before the limit was lowered finds nothing free
            with pytest.raises(OverBudget):
                await till.move([], till.row(more, SESSION))
        assert await till.lease(more) is enough
    another = till.row(more, SESSION)
    await till.move([], another)
    await till.move([till.end(another, 200)])
    assert await till.check(budget, 500) == 500


@pytest.mark.parametrize("status", ["paused", "disabled"])
async def test_a_budget_that_is_not_active_leases_nothing(till: Till, status: str) -> None:
    budget = await till.budget(1_000, status=status)
    assert await till.lease(till.held([budget], 1, SESSION)) == (status == "disabled")
    assert await till.shards(budget) == (0, 0, 0)
    assert not await till.lease((Held(BudgetId("bdg_0"), 0, "tokens", 1),))


async def test_a_new_period_forgets_what_was_spent_and_keeps_what_is_held(till: Till) -> None:
    period = to_json(CalendarPeriod("hour"))
    budget = await till.budget(
        100, period=period, period_started_at=NOW, rolls_at=NOW + 60 * MINUTE, credit=10, warned=1
    )
    held = till.held([budget], 50, SESSION)
    await till.lease(held)
    first, second = till.row(held, SESSION), till.row(held, SESSION)
    await till.move([], first)
    await till.lease(held)
    await till.move([till.end(first, 50)], second)
    later = NOW + 61 * MINUTE

    async def begin(tx: Any) -> BudgetRow:
        return await roll(tx, await lock_budget(tx, ORG, budget), later)

    rolled = await till.database.write(begin)
    assert (rolled.spent, rolled.leased, rolled.credit, rolled.warned) == (0, 50, 0, 0)
    assert rolled.rolls_at is not None
    assert rolled.rolls_at > later
    assert await till.database.write(begin) == rolled
    await till.move([till.end(second, 30)])
    assert (await till.shards(budget))[1:] == (30, 0)
    assert await till.lease(till.held([budget], 70, SESSION), later)
    assert not await till.lease(till.held([budget], 71, SESSION), later)


async def test_a_rolling_window_counts_a_call_from_its_end(till: Till) -> None:
    period = to_json(RollingPeriod("1h"))
    budget = await till.budget(100, period=period, period_started_at=NOW, rolls_at=NOW + MINUTE, warned=1)
    held = till.held([budget], 80, SESSION)
    await till.lease(held)
    row = till.row(held, SESSION)
    await till.move([], row)
    ended = NOW + 40 * MINUTE
    await till.database.write(lambda tx: move_money(tx, Move([till.end(row, 80)], ended)))

    async def left(now: int) -> int:
        rolled = await till.database.write(lambda tx: _rolled(tx, budget, now))
        return rolled.limit_amount - rolled.spent

    assert await left(ended + MINUTE) == 20
    assert await left(NOW + 99 * MINUTE) == 20
    assert await left(ended + 61 * MINUTE) == 100


async def _rolled(tx: Any, budget: BudgetId, now: int) -> BudgetRow:
    return await roll(tx, await lock_budget(tx, ORG, budget), now)


async def test_holds_of_dead_attempts_are_settled_as_spent_once(till: Till) -> None:
    budget = await till.budget(1_000)
    held = till.held([budget], 100, SESSION)
    await till.lease(held)
    dead, alive = till.row(held, SESSION, 3), till.row(held, SESSION, 4)
    await till.move([], dead)
    await till.lease(held)
    await till.move([], alive)
    found = await till.database.read(lambda tx: holds_of(tx, SESSION, 4))
    assert found == [dead]

    async def settle(tx: Any) -> bool:
        return await settle_lost(tx, dead, NOW)

    assert await till.database.write(settle)
    assert not await till.database.write(settle)
    assert await till.entries(budget) == [100]
    assert (await till.shards(budget))[1:] == (100, 100)


async def test_a_hold_whose_session_is_gone_is_found_only_after_a_while(till: Till) -> None:
    budget = await till.budget(1_000)
    held = till.held([budget], 100, SESSION)
    await till.lease(held)
    row = till.row(held, SESSION)
    await till.move([], row)
    assert await till.database.read(lambda tx: left_holds(tx, NOW, NOW)) == []
    assert await till.database.read(lambda tx: left_holds(tx, NOW + 1, NOW + 2)) == [row]
    assert await till.database.read(lambda tx: left_holds(tx, NOW - 2, NOW - 1)) == [row], "a clock was ahead"


async def test_the_soft_limit_is_noted_in_the_own_organization_only(till: Till) -> None:
    budgets = [await till.budget(1, soft_limit=1), await till.budget(1, soft_limit=1)]
    await till.database.write(lambda tx: mark_warned(tx, OTHER, budgets))
    assert [(await till.stored(each)).warned for each in budgets] == [0, 0]
    await till.database.write(lambda tx: mark_warned(tx, ORG, budgets))
    assert [(await till.stored(each)).warned for each in budgets] == [1, 1]


async def test_sessions_at_once_never_spend_more_than_there_is_and_never_wait_in_a_circle(till: Till) -> None:
    """64 sessions hold and settle money of several budgets in all orders, while budgets are changed."""
    limits = [40_000, 25_000, 90_000, 30_000]
    budgets = [await till.budget(limit) for limit in limits]
    rng, done = random.Random(15), asyncio.Event()
    await till.begin_log()

    async def spend(number: int) -> int:
        session, paid, settled = SessionId(f"session_{number}"), 0, list[Settled]()
        for _ in range(3):
            chosen = rng.sample(budgets, k=rng.randint(1, len(budgets)))
            held = till.held(chosen, rng.randint(1, 200), session)
            row = till.row(held, session)
            while await till.lease(held):
                move = Move(settled, NOW, row, held)
                try:
                    if number % 2:
                        assert await till.append(move)
                    else:
                        await till.database.write(partial(_mark_and_move, move=move))
                except OverBudget:
                    continue
                amount = rng.randint(0, held[0].amount)
                settled, paid = [till.end(row, amount)], paid + 1
                break
        await till.move(settled)
        return paid

    async def disturb() -> None:
        for chosen in budgets * 10:
            if not done.is_set():
                await till.database.write(partial(_reclaimed, budget=chosen))

    disturbing = asyncio.create_task(disturb())
    try:
        paid = await asyncio.wait_for(asyncio.gather(*map(spend, range(64))), 60)
    finally:
        done.set()
        await disturbing
    assert sum(paid) > 64
    for budget, limit in zip(budgets, limits, strict=True):
        assert await till.check(budget, limit) > 0
    if till.database.dialect == "postgres":
        circles = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert (await till.database.read(lambda tx: tx.all(circles)))[0][0] == 0


async def _mark_and_move(tx: Any, move: Move) -> None:
    if move.settled:
        await mark_warned(tx, ORG, [each.held.budget_id for each in move.settled[0].charges])
    await move_money(tx, move)


async def _reclaimed(tx: Any, budget: BudgetId) -> None:
    await reclaim(tx, await lock_budget(tx, ORG, budget))
