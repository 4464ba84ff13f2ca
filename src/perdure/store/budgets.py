"""Budgets, and what model calls hold and have spent of them.

A budget's row would be locked by every model call of its organization until the commit. So it leases its
money to shards, in parts: a call holds money of its session's shard, in the append that opens it. Lock order:
a session, then shards by budget; or a budget, then its own shards. Nothing that has locked a shard locks a
budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal
from zlib import crc32

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.budget_periods import BudgetPeriod, RollingPeriod, span_at, still_counted
from perdure.domain.budgets import SubjectType
from perdure.domain.errors import NotFound, OverBudget
from perdure.domain.ids import AgentId, BudgetId, OrgId, SessionId
from perdure.domain.messages import Usage
from perdure.domain.model_profiles import ModelCost
from perdure.domain.spending import BudgetStatus, Currency, Held, SpentOn, Standing
from perdure.domain.times import Micros
from perdure.store.database import LOCK_ROW, Row, Tx
from perdure.store.model_calls import add_lost_call
from perdure.store.rows import among, assignments, columns, from_json, insert, to_json, values
from perdure.store.sessions import SessionRow

SHARDS = 16
"""The shards of a budget on PostgreSQL. SQLite has one writer, and needs one."""
LEASES = 64
"""A shard leases a 64th of what a budget has left: shards hold little that others may need."""


class BudgetRow(Struct, frozen=True):
    """A budget. Amounts are billionths of a US dollar, or tokens."""

    id: BudgetId
    org_id: OrgId
    subject_type: SubjectType
    subject_id: str
    currency: Currency
    limit_amount: int
    soft_limit: int | None
    credit: int
    period: str | None
    period_started_at: Micros | None
    rolls_at: Micros | None
    status: BudgetStatus
    unpriced: str | None
    metadata: str
    spent: int
    leased: int
    buckets: str | None
    warned: int
    created_at: Micros
    updated_at: Micros

    def period_struct(self) -> BudgetPeriod | None:
        """When the budget has money again."""
        return None if self.period is None else from_json(_PERIOD, self.period, f"the budget {self.id}")

    def unpriced_struct(self) -> ModelCost | None:
        """The price at which models without one may be called."""
        return None if self.unpriced is None else from_json(_COST, self.unpriced, f"the budget {self.id}")


class EntryRow(Struct, frozen=True):
    """What was charged to a budget, or credited (a negative amount)."""

    id: str
    org_id: OrgId
    budget_id: BudgetId
    amount: int
    source: str
    session_id: SessionId | None
    ref_type: str | None
    ref_id: str | None
    description: str | None
    created_at: Micros


class HoldRow(Struct, frozen=True):
    """What a model call holds of its budgets until it is settled, which removes the row."""

    id: str
    org_id: OrgId
    session_id: SessionId
    epoch: int
    held: str
    call: str
    created_at: Micros

    def held_structs(self) -> tuple[Held, ...]:
        """What it holds of each budget."""
        return from_json(_HELD, self.held, f"the hold {self.id}")


_PERIOD: msgspec.json.Decoder[BudgetPeriod] = msgspec.json.Decoder(BudgetPeriod)
_COST = msgspec.json.Decoder(ModelCost)
_HELD = msgspec.json.Decoder(tuple[Held, ...])
_SPENT_ON = msgspec.json.Decoder(SpentOn)
_BUCKETS = msgspec.json.Decoder(tuple[tuple[int, int], ...])
_COLUMNS = columns(BudgetRow)
_BUDGET_COLUMNS = columns(BudgetRow, alias="budgets")
_HOLD_COLUMNS = columns(HoldRow)
_INSERT_HOLD = insert("budget_holds", HoldRow)
INSERT_ENTRY = insert("budget_entries", EntryRow)
_SUM = "(SELECT CAST(COALESCE(SUM({name}), 0) AS BIGINT) FROM budget_shards WHERE budget_id = budgets.id)"
SPENT_IN_SHARDS = _SUM.format(name="spent")
RESERVED_IN_SHARDS = _SUM.format(name="reserved")
_FREE = (
    "COALESCE((SELECT leased - spent - reserved FROM budget_shards"
    " WHERE budget_id = budgets.id AND shard = ?), 0)"
)
_STANDINGS = (
    f"SELECT {_BUDGET_COLUMNS}, {SPENT_IN_SHARDS}, {RESERVED_IN_SHARDS}, {_FREE} FROM budgets"
    " WHERE org_id = ? AND status <> 'disabled' AND subject_id IN (?, ?, ?, ?, ?, ?, ?,"
    " (SELECT parent_session_id FROM sessions WHERE id = ?)) ORDER BY id"
)


def shard_of(session_id: SessionId, dialect: str) -> int:
    """Return the shard whose money a session uses."""
    return 0 if dialect == "sqlite" else crc32(session_id.encode()) % SHARDS


async def standings_of(tx: Tx, row: SessionRow, agent_id: AgentId | None) -> tuple[Standing, ...]:
    """Return the budgets that a session's next model call is charged to.

    Those of the session and of all above it, of the agent that works and of the one that the session was
    created with, of the user and of the organization.
    """
    first, parent = row.first_agent().agent_id, row.parent_session_id
    shard = shard_of(row.id, tx.dialect)
    # A session is at most three levels below its root: its own id, its parent, the parent's, and the root.
    found = await tx.all(
        _STANDINGS,
        *(shard, row.org_id, row.org_id, row.owner_id, agent_id or "", first or ""),
        *(row.id, row.root_session_id or "", parent or "", parent or ""),
    )
    return tuple(_standing(each, shard) for each in found)


def _standing(found: Row, shard: int) -> Standing:
    row, (spent, reserved, free) = BudgetRow(*found[:-3]), found[-3:]
    return Standing(
        row.id,
        row.currency,
        row.status,
        row.limit_amount + row.credit,
        row.soft_limit,
        row.spent + spent,
        reserved,
        free,
        shard,
        row.rolls_at,
        row.unpriced_struct(),
        bool(row.warned),
    )


async def lock_budget(tx: Tx, org_id: OrgId, budget_id: BudgetId) -> BudgetRow:
    """Lock a budget until the commit. Raises NotFound."""
    found = await tx.one(
        f"SELECT {_COLUMNS} FROM budgets WHERE id = ? AND org_id = ?{LOCK_ROW[tx.dialect]}", budget_id, org_id
    )
    if found is None:
        raise NotFound("budget")
    return BudgetRow(*found)


async def reclaim(tx: Tx, row: BudgetRow) -> BudgetRow:
    """Take back from its shards what a locked budget has leased and nobody holds, and count what they spent.

    Returns:
        The budget as it is then: `leased` is what calls hold.
    """
    shards = await tx.all(
        "SELECT shard, spent, reserved FROM budget_shards WHERE budget_id = ? ORDER BY shard"
        + LOCK_ROW[tx.dialect],
        row.id,
    )
    spent = sum(each[1] for each in shards)
    held = sum(each[2] for each in shards)
    await tx.run("UPDATE budget_shards SET leased = reserved, spent = 0 WHERE budget_id = ?", row.id)
    row = replace(row, spent=row.spent + spent, leased=held)
    await save_budget(tx, row)
    return row


async def save_budget(tx: Tx, row: BudgetRow) -> None:
    """Store a locked budget."""
    names = [name for name in BudgetRow.__struct_fields__ if name not in ("id", "org_id")]
    await tx.run(
        f"UPDATE budgets SET {assignments(names)} WHERE id = ? AND org_id = ?",
        *(getattr(row, name) for name in names),
        row.id,
        row.org_id,
    )


async def roll(tx: Tx, row: BudgetRow, now: Micros) -> BudgetRow:
    """Begin the period that `now` is in, of a locked budget, if the one before has ended."""
    if row.rolls_at is None or now < row.rolls_at:
        return row
    row = rolled(await reclaim(tx, row), now)
    await save_budget(tx, row)
    return row


def rolled(row: BudgetRow, now: Micros) -> BudgetRow:
    """Return a budget in the period that `now` is in. Its `spent` has what its shards have spent."""
    period = row.period_struct()
    if period is None or row.rolls_at is None or now < row.rolls_at:
        return row
    span = span_at(period, row.period_started_at or row.created_at, now)
    if isinstance(period, RollingPeriod):
        before = () if row.buckets is None else from_json(_BUCKETS, row.buckets, f"the budget {row.id}")
        newest = row.spent - sum(amount for _, amount in before)
        began = row.period_started_at or row.created_at
        parts = still_counted((*before, (began, newest)) if newest else before, period, now)
        row = replace(row, spent=sum(amount for _, amount in parts), buckets=to_json(parts))
        fresh = row.soft_limit is None or row.spent < row.soft_limit
    else:
        row, fresh = replace(row, spent=0, credit=0), True
    warned = 0 if fresh else row.warned
    return replace(row, period_started_at=span.start, rolls_at=span.rolls_at, warned=warned)


async def roll_budget(tx: Tx, org_id: OrgId, budget_id: BudgetId, now: Micros) -> None:
    """Begin a budget's next period if the last one has ended. A budget that is gone has none."""
    try:
        row = await lock_budget(tx, org_id, budget_id)
    except NotFound:
        return
    await roll(tx, row, now)


async def lease(tx: Tx, org_id: OrgId, held: Held, now: Micros) -> bool:
    """Lease money to a shard, so that a call can hold `held`; return whether there is enough.

    This is a transaction of its own: it locks the budget, then its shards.
    """
    try:
        row = await roll(tx, await lock_budget(tx, org_id, held.budget_id), now)
    except NotFound:
        return False  # it was deleted: the call is planned without it
    if row.status != "active":
        return row.status == "disabled"
    free = row.limit_amount + row.credit - row.spent - row.leased
    if free < held.amount:
        row = await reclaim(tx, row)
        free = row.limit_amount + row.credit - row.spent - row.leased
        if free < held.amount:
            return False
    parts = 1 if tx.dialect == "sqlite" else LEASES
    more = max(held.amount, free // parts)
    await save_budget(tx, replace(row, leased=row.leased + more))
    await tx.run(
        "INSERT INTO budget_shards (budget_id, shard, leased, spent, reserved) VALUES (?, ?, ?, 0, 0)"
        " ON CONFLICT (budget_id, shard) DO UPDATE SET leased = budget_shards.leased + excluded.leased",
        held.budget_id,
        held.shard,
        more,
    )
    return True


_HOLD_EACH = (
    "UPDATE budget_shards SET reserved = reserved + ?"
    " WHERE budget_id = ? AND shard = ? AND leased - spent - reserved >= ?"
)
_HOLD_ALL = (
    "WITH wanted AS (SELECT * FROM unnest(CAST(? AS TEXT[]), CAST(? AS BIGINT[]))"
    " AS given (budget_id, amount)),"
    " locked AS (SELECT each.budget_id, wanted.amount FROM budget_shards AS each"
    " JOIN wanted ON wanted.budget_id = each.budget_id WHERE each.shard = ?"
    " AND each.leased - each.spent - each.reserved >= wanted.amount"
    " ORDER BY each.budget_id FOR UPDATE OF each)"
    " UPDATE budget_shards SET reserved = reserved + locked.amount FROM locked"
    " WHERE budget_shards.budget_id = locked.budget_id AND budget_shards.shard = ?"
)


async def hold(tx: Tx, row: HoldRow, held: Sequence[Held]) -> None:
    """Hold the money of a model call, in the transaction that opens it.

    Raises:
        OverBudget: another call was faster. The money has to be planned and leased again.
    """
    if tx.dialect == "sqlite":
        for each in held:
            if not await tx.run(_HOLD_EACH, each.amount, each.budget_id, each.shard, each.amount):
                raise OverBudget(each.budget_id)
    elif held:
        ids, amounts = [each.budget_id for each in held], [each.amount for each in held]
        if await tx.run(_HOLD_ALL, ids, amounts, held[0].shard, held[0].shard) != len(held):
            raise OverBudget(held[0].budget_id)
    await tx.run(_INSERT_HOLD, *values(row))


class Charge(Struct, frozen=True):
    """What a call has cost one budget of which it held `held`; `entry_id` is that of its entry."""

    held: Held
    amount: int
    entry_id: str


_SETTLE_EACH = (
    "UPDATE budget_shards SET reserved = reserved - ?, spent = spent + ? WHERE budget_id = ? AND shard = ?"
)
_SETTLE_ALL = (
    "WITH given AS (SELECT * FROM unnest(CAST(? AS TEXT[]), CAST(? AS BIGINT[]), CAST(? AS BIGINT[]))"
    " AS given (budget_id, held, amount)),"
    " locked AS (SELECT each.budget_id, given.held, given.amount FROM budget_shards AS each"
    " JOIN given ON given.budget_id = each.budget_id WHERE each.shard = ?"
    " ORDER BY each.budget_id FOR UPDATE OF each)"
    " UPDATE budget_shards SET reserved = reserved - locked.held, spent = spent + locked.amount FROM locked"
    " WHERE budget_shards.budget_id = locked.budget_id AND budget_shards.shard = ?"
)


async def settle_hold(
    tx: Tx,
    org_id: OrgId,
    hold_id: str,
    charges: Sequence[Charge],
    *,
    session_id: SessionId,
    source: str,
    ref_id: str,
    now: Micros,
) -> bool:
    """Settle what a call holds: its costs are spent, the rest is free again. Only the first time counts.

    Args:
        source: what was metered, for the budget's entries.
        ref_id: the call.

    Returns:
        Whether it was still held.
    """
    if not await tx.run("DELETE FROM budget_holds WHERE id = ? AND org_id = ?", hold_id, org_id):
        return False
    if not charges:
        return True
    if tx.dialect == "sqlite":
        for each in charges:
            held = each.held
            await tx.run(_SETTLE_EACH, held.amount, each.amount, held.budget_id, held.shard)
    else:
        ids, shard = [each.held.budget_id for each in charges], charges[0].held.shard
        held_amounts, amounts = [each.held.amount for each in charges], [each.amount for each in charges]
        await tx.run(_SETTLE_ALL, ids, held_amounts, amounts, shard, shard)
    entries = [
        EntryRow(
            each.entry_id,
            org_id,
            each.held.budget_id,
            each.amount,
            source,
            session_id,
            "model_call",
            ref_id,
            None,
            now,
        )
        for each in charges
    ]
    await tx.run_many(INSERT_ENTRY, [values(entry) for entry in entries])
    return True


async def settle_lost(tx: Tx, left: HoldRow, new_id: Callable[[Literal["entry"]], str], now: Micros) -> bool:
    """Settle what a dead attempt holds: all of it counts as spent, because nobody knows how far it came."""
    charges = [Charge(each, each.amount, new_id("entry")) for each in left.held_structs()]
    settled = await settle_hold(
        *(tx, left.org_id, left.id, charges),
        session_id=left.session_id,
        source="lost_call",
        ref_id=left.id,
        now=now,
    )
    if settled:
        on = from_json(_SPENT_ON, left.call, f"the hold {left.id}")
        await add_lost_call(tx, on, left.id, Usage(0, 0), cost_in(charges), now)
    return settled


def cost_in(charges: Sequence[Charge]) -> int | None:
    """Return what a call has cost, in billionths of a US dollar; None if no budget says it."""
    return max((each.amount for each in charges if each.held.currency == "usd"), default=None)


async def holds_of(tx: Tx, session_id: SessionId, before_epoch: int) -> list[HoldRow]:
    """Return what dead attempts of a session still hold."""
    rows = await tx.all(
        f"SELECT {_HOLD_COLUMNS} FROM budget_holds WHERE session_id = ? AND epoch < ? ORDER BY id",
        session_id,
        before_epoch,
    )
    return [HoldRow(*row) for row in rows]


async def left_holds(tx: Tx, before: Micros, limit: int = 100) -> list[HoldRow]:
    """Return holds from before a time whose model calls nobody makes any more."""
    rows = await tx.all(
        f"SELECT {columns(HoldRow, alias='budget_holds')} FROM budget_holds"
        " LEFT JOIN sessions ON sessions.id = budget_holds.session_id"
        " WHERE budget_holds.created_at < ? AND (sessions.id IS NULL OR sessions.deleted_at IS NOT NULL"
        " OR sessions.status <> 'active' OR sessions.epoch <> budget_holds.epoch)"
        " ORDER BY budget_holds.created_at LIMIT ?",
        before,
        limit,
    )
    return [HoldRow(*row) for row in rows]


async def mark_warned(tx: Tx, org_id: OrgId, ids: Sequence[BudgetId]) -> None:
    """Note that these budgets have reached their soft limits in this period."""
    chosen, choices = among(tx.dialect, "id", "TEXT", ids)
    await tx.run(
        f"UPDATE budgets SET warned = 1 WHERE {chosen} AND org_id = ? AND warned = 0", choices, org_id
    )


async def wait_for_budget(tx: Tx, row: SessionRow, budget_id: BudgetId, needed: int, now: Micros) -> None:
    """Note that a session's turn waits for a budget."""
    await tx.run(
        "INSERT INTO budget_waits (session_id, org_id, budget_id, needed, created_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (session_id) DO UPDATE SET budget_id = excluded.budget_id, needed = excluded.needed,"
        " created_at = excluded.created_at",
        row.id,
        row.org_id,
        budget_id,
        needed,
        now,
    )


async def wait_no_more(tx: Tx, session_id: SessionId, before: Micros | None = None) -> BudgetId | None:
    """Forget that a session's turn waits for a budget; return the budget, None if it did not wait.

    Args:
        before: only if that was noted before this time.
    """
    only, args = ("", ()) if before is None else (" AND created_at < ?", (before,))
    found = await tx.one(
        f"DELETE FROM budget_waits WHERE session_id = ?{only} RETURNING budget_id", session_id, *args
    )
    return None if found is None else found[0]


async def standing_of(tx: Tx, org_id: OrgId, budget_id: BudgetId) -> Standing | None:
    """Return how a budget stands; None if it is gone."""
    found = await tx.one(
        f"SELECT {_BUDGET_COLUMNS}, {SPENT_IN_SHARDS}, {RESERVED_IN_SHARDS}, 0 FROM budgets"
        " WHERE id = ? AND org_id = ?",
        budget_id,
        org_id,
    )
    return None if found is None else _standing(found, 0)


async def waits_with_money(
    tx: Tx, now: Micros, budget_id: BudgetId | None = None, limit: int = 100
) -> list[tuple[OrgId, SessionId]]:
    """Return sessions that wait for a budget that has money for them now, or that is not enforced any more.

    Args:
        budget_id: only those that wait for this one.
    """
    only, args = ("", ()) if budget_id is None else (" AND budget_waits.budget_id = ?", (budget_id,))
    rows = await tx.all(
        "SELECT budget_waits.org_id, budget_waits.session_id FROM budget_waits"
        " LEFT JOIN budgets ON budgets.id = budget_waits.budget_id"
        " WHERE (budgets.id IS NULL OR budgets.status = 'disabled' OR (budgets.status = 'active'"
        " AND (budgets.rolls_at <= ? OR budgets.limit_amount + budgets.credit - budgets.spent"
        f" - {SPENT_IN_SHARDS} >= budget_waits.needed))){only} ORDER BY budget_waits.created_at LIMIT ?",
        now,
        *args,
        limit,
    )
    return [(row[0], row[1]) for row in rows]
