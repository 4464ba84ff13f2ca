"""What model calls hold of their budgets: from the append that opens a call to the one that ends it.

One transaction may do both. Locks are taken in one order, so that nobody waits in a circle: the session, then
budgets that have to be marked, then shards by budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from perdure.domain.errors import OverBudget
from perdure.domain.ids import BudgetId, OrgId, SessionId
from perdure.domain.messages import Usage
from perdure.domain.spending import Held, SpentOn
from perdure.domain.times import Micros
from perdure.store.budgets import INSERT_ENTRY, EntryRow
from perdure.store.database import Param, Part, Tx
from perdure.store.model_calls import add_lost_call
from perdure.store.rows import columns, from_json, insert, values


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


class Charge(Struct, frozen=True):
    """What a call has cost one budget of which it held `held`; `entry_id` is that of its entry."""

    held: Held
    amount: int
    entry_id: str


class Settled(Struct, frozen=True):
    """The end of a call: its costs are spent, and the rest of what it held is free again.

    Attributes:
        source: what was metered, for the budgets' entries.
    """

    org_id: OrgId
    session_id: SessionId
    hold_id: str
    charges: Sequence[Charge]
    source: str = "model"

    def entries(self, now: Micros) -> list[EntryRow]:
        """The entries of the budgets that it has cost something."""
        return [
            EntryRow(
                each.entry_id,
                self.org_id,
                each.held.budget_id,
                each.amount,
                self.source,
                self.session_id,
                "model_call",
                self.hold_id,
                None,
                now,
            )
            for each in self.charges
            if each.amount
        ]


_HELD = msgspec.json.Decoder(tuple[Held, ...])
_SPENT_ON = msgspec.json.Decoder(SpentOn)
_HOLD_COLUMNS = columns(HoldRow)
_INSERT_HOLD = insert("budget_holds", HoldRow)
_DELETE_HOLD = "DELETE FROM budget_holds WHERE session_id = ? AND id = ?"
_SETTLE = (
    "UPDATE budget_shards SET reserved = reserved - ?, spent = spent + ? WHERE budget_id = ? AND shard = ?"
)
_HOLD = (
    "UPDATE budget_shards SET reserved = reserved + ?"
    " WHERE budget_id = ? AND shard = ? AND leased - spent - reserved >= ?"
)


class Move(Struct, frozen=True):
    """Calls that end, and one that begins, in the append that ends and opens them (see `Tx.append`).

    Attributes:
        settled: the calls that end, all of one session.
        now: the current time.
        row: the call that is opened, if there is one.
        held: what it holds.
    """

    settled: Sequence[Settled]
    now: Micros
    row: HoldRow | None = None
    held: Sequence[Held] = ()

    def wanted(self) -> list[Held]:
        """What is held of budgets. Free calls need nothing of a budget that is used up."""
        return [each for each in self.held if each.amount > 0]

    def part(self) -> Part:
        """Return the part of an append's statement that does it."""
        wanted = self.wanted()
        sql, args = _MOVES[bool(self.settled), self.row is not None], list[Param]()
        if self.settled:
            args += _settled_args(self.settled)
        if self.row is not None:
            args += [[each.budget_id for each in wanted], [each.shard for each in wanted]]
            args += [[each.amount for each in wanted], *values(self.row)]
        if self.settled:
            args += [self.settled[0].org_id, self.settled[0].session_id, self.now]
        if not wanted:
            return Part(sql, args)
        return Part(sql, [*args, len(wanted)], _ENOUGH, OverBudget(wanted[0].budget_id))

    async def run(self, tx: Tx) -> None:
        """Do it in statements of its own. Raises OverBudget."""
        await move_money(tx, self)


async def move_money(tx: Tx, move: Move) -> list[bool]:
    """Settle calls, and hold the money of another one, in the transaction that ends or opens them.

    Returns:
        For each call, whether it was still held: only the first time counts.

    Raises:
        OverBudget: another call was faster. The money has to be planned and leased again.
    """
    settled, wanted = move.settled, move.wanted()
    if tx.dialect == "postgres":
        return await _move_at_once(tx, move)
    done = [bool(await tx.run(_DELETE_HOLD, each.session_id, each.hold_id)) for each in settled]
    entries = []
    for each in (each for each, was_held in zip(settled, done, strict=True) if was_held):
        there = set()
        for charge in each.charges:
            part = charge.held
            if await tx.run(_SETTLE, part.amount, charge.amount, part.budget_id, part.shard):
                there.add(part.budget_id)
        # A budget that was deleted meanwhile has no shards, and gets no entries, which nobody would remove.
        entries += [entry for entry in each.entries(move.now) if entry.budget_id in there]
    if entries:
        await tx.run_many(INSERT_ENTRY, [values(entry) for entry in entries])
    if move.row is not None:
        for part in wanted:
            if not await tx.run(_HOLD, part.amount, part.budget_id, part.shard, part.amount):
                raise OverBudget(part.budget_id)
        await tx.run(_INSERT_HOLD, *values(move.row))
    return done


# The parts of a statement with `moved`, which has a row if there is anything to do. `change` has one row for
# each shard; `locked` locks them in their order and has their newest values, also those that were committed
# while it waited.
_GONE = """gone AS (
  DELETE FROM budget_holds USING moved WHERE session_id = ? AND id = ANY(CAST(? AS TEXT[])) RETURNING id
), charged AS (
  SELECT given.* FROM gone JOIN unnest(CAST(? AS TEXT[]), CAST(? AS TEXT[]), CAST(? AS TEXT[]),
    CAST(? AS INT[]), CAST(? AS BIGINT[]), CAST(? AS BIGINT[]), CAST(? AS TEXT[]))
    AS given (hold_id, entry_id, budget_id, shard, held, amount, source) ON given.hold_id = gone.id
), """
_ASKED = f"""asked AS (
  SELECT given.* FROM moved, unnest(CAST(? AS TEXT[]), CAST(? AS INT[]), CAST(? AS BIGINT[]))
    AS given (budget_id, shard, wanted)
), opened AS (
  INSERT INTO budget_holds ({_HOLD_COLUMNS})
  SELECT CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS INT), CAST(? AS TEXT),
    CAST(? AS TEXT), CAST(? AS BIGINT) FROM moved
), """
_FREED = "SELECT budget_id, shard, held AS freed, amount AS paid, CAST(0 AS BIGINT) AS wanted FROM charged"
_WANTED = "SELECT budget_id, shard, CAST(0 AS BIGINT) AS freed, CAST(0 AS BIGINT) AS paid, wanted FROM asked"
_CHANGE = """change AS ({change}), locked AS (
  SELECT change.*, each.leased - each.spent - each.reserved + freed - paid AS free
  FROM change JOIN budget_shards AS each ON each.budget_id = change.budget_id AND each.shard = change.shard
  ORDER BY each.budget_id, each.shard FOR UPDATE OF each
), changed AS (
  UPDATE budget_shards AS each SET reserved = each.reserved - freed + wanted, spent = each.spent + paid
  FROM locked WHERE each.budget_id = locked.budget_id AND each.shard = locked.shard
)"""
# A budget that was deleted meanwhile has no shards, and gets no entries, which nobody would remove.
_ENTERED = f""", entered AS (
  INSERT INTO budget_entries ({columns(EntryRow)})
  SELECT entry_id, CAST(? AS TEXT), budget_id, amount, source, CAST(? AS TEXT), 'model_call', hold_id,
    CAST(NULL AS TEXT), CAST(? AS BIGINT) FROM charged
  WHERE amount <> 0 AND budget_id IN (SELECT budget_id FROM locked)
)"""
_TOTAL = (
    "SELECT budget_id, shard, CAST(SUM(freed) AS BIGINT) AS freed, CAST(SUM(paid) AS BIGINT) AS paid,"
    " CAST(SUM(wanted) AS BIGINT) AS wanted FROM ({all}) AS changes GROUP BY budget_id, shard"
)
_MOVES = {
    (True, False): _GONE + _CHANGE.format(change=_TOTAL.format(all=_FREED)) + _ENTERED,
    (False, True): _ASKED + _CHANGE.format(change=_WANTED),
    (True, True): (
        _GONE + _ASKED + _CHANGE.format(change=_TOTAL.format(all=f"{_FREED} UNION ALL {_WANTED}")) + _ENTERED
    ),
}
"""By whether calls are settled, and whether one is opened."""
_ENOUGH = "(SELECT COUNT(*) FROM locked WHERE wanted > 0 AND free >= wanted) = CAST(? AS BIGINT)"
_ALONE = (
    "WITH moved AS (SELECT 1), {parts}"
    " SELECT ARRAY({gone}), ARRAY(SELECT budget_id FROM locked WHERE wanted > 0 AND free >= wanted)"
)


def _settled_args(settled: Sequence[Settled]) -> list[Param]:
    rows = [(each, charge) for each in settled for charge in each.charges]
    first = settled[0]
    return [
        first.session_id,
        [each.hold_id for each in settled],
        [each.hold_id for each, _ in rows],
        [charge.entry_id for _, charge in rows],
        [charge.held.budget_id for _, charge in rows],
        [charge.held.shard for _, charge in rows],
        [charge.held.amount for _, charge in rows],
        [charge.amount for _, charge in rows],
        [each.source for each, _ in rows],
    ]


async def _move_at_once(tx: Tx, move: Move) -> list[bool]:
    """Do it without an append."""
    if not move.settled and move.row is None:
        return []
    part, wanted = move.part(), move.wanted()
    args = part.args[:-1] if part.check else part.args
    gone = "SELECT id FROM gone" if move.settled else "SELECT '' WHERE FALSE"
    found = await tx.one(_ALONE.format(parts=part.sql, gone=gone), *args)
    if found is None:
        raise AssertionError("a SELECT without FROM has a row")
    if len(found[1]) != len(wanted):
        raise OverBudget(next(each.budget_id for each in wanted if each.budget_id not in found[1]))
    return [each.hold_id in found[0] for each in move.settled]


async def settle_lost(tx: Tx, left: HoldRow, new_id: Callable[[Literal["entry"]], str], now: Micros) -> bool:
    """Settle what a dead attempt holds: all of it counts as spent, because nobody knows how far it came.

    Returns:
        Whether it was still held.
    """
    charges = [Charge(each, each.amount, new_id("entry")) for each in left.held_structs()]
    settled = Settled(left.org_id, left.session_id, left.id, charges, "lost_call")
    (done,) = await move_money(tx, Move([settled], now))
    if done:
        on = from_json(_SPENT_ON, left.call, f"the hold {left.id}")
        await add_lost_call(tx, on, left.id, Usage(0, 0), cost_in(charges), now)
    return done


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
    """Return holds from before a time whose model calls nobody makes any more.

    A call that is under way is never among them, however long it takes: its session is active, and has the
    epoch of its runner.
    """
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


async def mark_warned(tx: Tx, org_id: OrgId, ids: Iterable[BudgetId]) -> None:
    """Note that these budgets have reached their soft limits in this period.

    This locks them, so nothing in the same transaction may have locked a shard before.
    """
    for budget_id in sorted(ids):
        await tx.run(
            "UPDATE budgets SET warned = 1 WHERE id = ? AND org_id = ? AND warned = 0", budget_id, org_id
        )
