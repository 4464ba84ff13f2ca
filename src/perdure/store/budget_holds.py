"""What model calls hold of their budgets: from the append that opens a call to the one that ends it.

One transaction may do both. Locks are taken in one order, so that nobody waits in a circle: the session, then
budgets that have to be marked, then shards by budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import msgspec
from msgspec import Struct

from perdure.domain.errors import OverBudget
from perdure.domain.ids import BudgetId, OrgId, SessionId
from perdure.domain.messages import Usage
from perdure.domain.spending import Held, SpentOn
from perdure.domain.times import Micros
from perdure.store.database import Param, Part, Tx, Value
from perdure.store.model_calls import add_lost_call
from perdure.store.rows import columns, from_json, insert, to_json, values


class HoldRow(Struct, frozen=True):
    """What a model call holds of its budgets until it is settled. Then the row has what it has cost them."""

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
    """What a call has cost one budget of which it held `held`."""

    held: Held
    amount: int


class Settled(Struct, frozen=True):
    """The end of a call: its costs are spent, and the rest of what it held is free again.

    Attributes:
        charges: what it has cost each budget. All parts of a session's calls are of the same shard.
        source: what was metered, for the budgets' entries.
    """

    org_id: OrgId
    session_id: SessionId
    hold_id: str
    charges: Sequence[Charge]
    source: str = "model"

    def charged(self) -> str:
        """What it has cost which budgets, as JSON, of which `budget_entries` makes entries."""
        return to_json([(each.held.budget_id, each.amount) for each in self.charges if each.amount])


_HELD = msgspec.json.Decoder(tuple[Held, ...])
_SPENT_ON = msgspec.json.Decoder(SpentOn)
_HOLD_COLUMNS = columns(HoldRow)
_INSERT_HOLD = insert("budget_holds", HoldRow)
_END_HOLD = (
    "UPDATE budget_holds SET held = '[]', call = '{}', charges = ?, source = ?, settled_at = ?"
    " WHERE session_id = ? AND id = ? AND settled_at IS NULL"
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
        """Return the part of an append's statement that does it, if at most one call ends."""
        if len(self.settled) > 1:
            raise AssertionError("a statement ends one call")
        wanted, args = self.wanted(), list[Param]()
        change: dict[BudgetId, list[int]] = {}
        for end in self.settled:
            args += _end_args(end, self.now)
            for charge in end.charges:
                change[charge.held.budget_id] = [charge.held.amount, charge.amount, 0]
        if self.row is not None:
            args += values(self.row)
        for held in wanted:
            change.setdefault(held.budget_id, [0, 0, 0])[2] = held.amount
        freed, paid, holds = zip(*change.values(), strict=True) if change else ((), (), ())
        args += [self.shard(), list(change)]
        if self.settled:
            args += [freed, paid]
        if self.row is not None:
            args.append(holds)
        sql = _MOVES[bool(self.settled), self.row is not None]
        if not wanted:
            return Part(sql, args)
        return Part(sql, [*args, len(wanted)], _ENOUGH, OverBudget(wanted[0].budget_id))

    def shard(self) -> int:
        """The shard of the session's budgets."""
        held = self.held or [charge.held for end in self.settled for charge in end.charges]
        return held[0].shard if held else 0

    async def run(self, tx: Tx) -> None:
        """Do it in statements of its own. Raises OverBudget."""
        await move_money(tx, self)


def _end_args(end: Settled, now: Micros) -> tuple[Value, ...]:
    return end.charged(), end.source, now, end.session_id, end.hold_id


async def move_money(tx: Tx, move: Move) -> list[bool]:
    """Settle calls, and hold the money of another one, in the transaction that ends or opens them.

    Returns:
        For each call, whether it was still held: only the first time counts.

    Raises:
        OverBudget: another call was faster. The money has to be planned and leased again.
    """
    if tx.dialect == "postgres":
        return await _move_at_once(tx, move)
    done = []
    for end in move.settled:
        done.append(bool(await tx.run(_END_HOLD, *_end_args(end, move.now))))
        if done[-1] and end.charges:
            await tx.run(_settle(len(end.charges)), *_settling(end.charges))
    if move.row is not None:
        wanted = move.wanted()
        if wanted and await tx.run(_hold(len(wanted)), *_holding(wanted)) < len(wanted):
            raise OverBudget(wanted[0].budget_id)
        await tx.run(_INSERT_HOLD, *values(move.row))
    return done


# One statement for all budgets of a call: each one is a switch between threads, whatever it does.
_THESE = " WHERE shard = ? AND budget_id IN ({marks})"
_OF_EACH = "CASE budget_id {whens} END"


@cache
def _settle(count: int) -> str:
    each = _OF_EACH.format(whens="WHEN ? THEN ? " * count)
    return (
        f"UPDATE budget_shards SET reserved = reserved - {each}, spent = spent + {each}"
        f"{_THESE.format(marks=', '.join('?' * count))}"
    )


@cache
def _hold(count: int) -> str:
    each = _OF_EACH.format(whens="WHEN ? THEN ? " * count)
    return (
        f"UPDATE budget_shards SET reserved = reserved + {each}"
        f"{_THESE.format(marks=', '.join('?' * count))} AND leased - spent - reserved >= {each}"
    )


def _settling(charges: Sequence[Charge]) -> list[Value]:
    """The arguments of `_settle`."""
    ids = [each.held.budget_id for each in charges]
    freed = [value for each in charges for value in (each.held.budget_id, each.held.amount)]
    paid = [value for each in charges for value in (each.held.budget_id, each.amount)]
    return [*freed, *paid, charges[0].held.shard, *ids]


def _holding(wanted: Sequence[Held]) -> list[Value]:
    """The arguments of `_hold`."""
    amounts = [value for each in wanted for value in (each.budget_id, each.amount)]
    ids = [each.budget_id for each in wanted]
    return [*amounts, wanted[0].shard, *ids, *amounts]


# The parts of a statement with `moved`, which has a row if there is anything to do. `locked` locks the shards
# in their order and has their newest values, also those that were committed while it waited.
_ENDED = f"ended AS ({_END_HOLD.replace(' WHERE', ' FROM moved WHERE')} RETURNING 1), "
_OPENED = f"""opened AS (
  INSERT INTO budget_holds ({_HOLD_COLUMNS})
  SELECT CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS INT), CAST(? AS TEXT),
    CAST(? AS TEXT), CAST(? AS BIGINT) FROM moved
), """
_CHANGE = """given AS NOT MATERIALIZED (
  SELECT CAST(? AS INT) AS shard, CAST(? AS TEXT[]) AS ids, {arrays}
), locked AS (
  SELECT each.budget_id, {found} FROM {source}, given, budget_shards AS each
  WHERE each.shard = given.shard AND each.budget_id = ANY(given.ids)
  ORDER BY each.budget_id FOR UPDATE OF each
), changed AS (
  UPDATE budget_shards AS each SET {change} FROM given
  WHERE each.shard = given.shard AND each.budget_id = ANY(ARRAY(SELECT budget_id FROM locked))
)"""
_ARRAY, _OF_BUDGET = "CAST(? AS BIGINT[]) AS {}", "given.{}[array_position(given.ids, each.budget_id)]"
_FREED, _PAID, _WANTED = (_OF_BUDGET.format(name) for name in ("freed", "paid", "wanted"))
_FREE = f"each.leased - each.spent - each.reserved{{more}} AS free, {_WANTED} AS wanted"
_IF_ENDED = "(SELECT COUNT(*) FROM ended)"
_SETTLED = _CHANGE.format(
    arrays=", ".join(_ARRAY.format(name) for name in ("freed", "paid")),
    found="TRUE AS settled",
    source="ended",
    change=f"reserved = each.reserved - {_FREED}, spent = each.spent + {_PAID}",
)
_HELD_ONLY = _CHANGE.format(
    arrays=_ARRAY.format("wanted"),
    found=_FREE.format(more=""),
    source="moved",
    change=f"reserved = each.reserved + {_WANTED}",
)
_BOTH = _CHANGE.format(
    arrays=", ".join(_ARRAY.format(name) for name in ("freed", "paid", "wanted")),
    found=_FREE.format(more=f" + ({_FREED} - {_PAID}) * {_IF_ENDED}"),
    source="moved",
    change=(
        f"reserved = each.reserved - {_FREED} * {_IF_ENDED} + {_WANTED},"
        f" spent = each.spent + {_PAID} * {_IF_ENDED}"
    ),
)
_MOVES = {
    (True, False): _ENDED + _SETTLED,
    (False, True): _OPENED + _HELD_ONLY,
    (True, True): _ENDED + _OPENED + _BOTH,
}
"""By whether a call is settled, and whether one is opened."""
_HAVE_ENOUGH = "(SELECT COUNT(*) FROM locked WHERE wanted > 0 AND free >= wanted)"
_ENOUGH = f"{_HAVE_ENOUGH} = CAST(? AS BIGINT)"
_ALONE = "WITH moved AS (SELECT 1), {parts} SELECT {ended}, {held}"


async def _move_at_once(tx: Tx, move: Move) -> list[bool]:
    """Do it without an append: the calls that end one after the other, the last one with what begins."""
    done = []
    for end in move.settled[:-1]:
        done += await _move_one(tx, Move([end], move.now))
    if move.settled or move.row is not None:
        done += await _move_one(tx, msgspec.structs.replace(move, settled=move.settled[-1:]))
    return done


async def _move_one(tx: Tx, move: Move) -> list[bool]:
    part, wanted = move.part(), move.wanted()
    args = part.args[:-1] if part.check else part.args
    ended, held = _IF_ENDED if move.settled else "0", _HAVE_ENOUGH if wanted else "0"
    found = await tx.one(_ALONE.format(parts=part.sql, ended=ended, held=held), *args)
    if found is None:
        raise AssertionError("a SELECT without FROM has a row")
    if found[1] != len(wanted):
        raise OverBudget(wanted[0].budget_id)
    return [bool(found[0])] * len(move.settled)


async def settle_lost(tx: Tx, left: HoldRow, now: Micros) -> bool:
    """Settle what a dead attempt holds: all of it counts as spent, because nobody knows how far it came.

    Returns:
        Whether it was still held.
    """
    charges = [Charge(each, each.amount) for each in left.held_structs()]
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
        f"SELECT {_HOLD_COLUMNS} FROM budget_holds"
        " WHERE session_id = ? AND epoch < ? AND settled_at IS NULL ORDER BY id",
        session_id,
        before_epoch,
    )
    return [HoldRow(*row) for row in rows]


async def left_holds(tx: Tx, before: Micros, latest: Micros, limit: int = 100) -> list[HoldRow]:
    """Return holds from before a time, or from after `latest`, whose model calls nobody makes any more.

    The latter were made by a clock that was ahead. A call that is under way is never among them, however long
    it takes: its session is active, and has the epoch of its runner.
    """
    rows = await tx.all(
        f"SELECT {columns(HoldRow, alias='budget_holds')} FROM budget_holds"
        " LEFT JOIN sessions ON sessions.id = budget_holds.session_id"
        " WHERE (budget_holds.created_at < ? OR budget_holds.created_at > ?)"
        " AND budget_holds.settled_at IS NULL"
        " AND (sessions.id IS NULL OR sessions.deleted_at IS NOT NULL"
        " OR sessions.status <> 'active' OR sessions.epoch <> budget_holds.epoch)"
        " ORDER BY budget_holds.created_at LIMIT ?",
        before,
        latest,
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
