"""Budgets, and what model calls hold and have spent of them.

A budget's row would be locked by every model call of its organization until the commit. So it leases its
money to shards, in parts: a call holds money of its session's shard, in the append that opens it. Lock order:
a session, then budgets by id, then shards by budget. Nothing that has locked a shard locks a budget, and
nothing that has locked a budget locks a session.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from zlib import crc32

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.budget_periods import BudgetPeriod, RollingPeriod, span_at, still_counted
from perdure.domain.budgets import SubjectType
from perdure.domain.errors import NotFound
from perdure.domain.ids import AgentId, BudgetId, OrgId, SessionId
from perdure.domain.model_profiles import ModelCost
from perdure.domain.spending import BudgetStatus, Currency, Held, Standing
from perdure.domain.times import Micros
from perdure.store.budget_entries import last_charged
from perdure.store.database import LOCK_ROW, Row, Tx, Value
from perdure.store.rows import assignments, columns, from_json, to_json
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


_PERIOD: msgspec.json.Decoder[BudgetPeriod] = msgspec.json.Decoder(BudgetPeriod)
_COST = msgspec.json.Decoder(ModelCost)
_BUCKETS = msgspec.json.Decoder(tuple[tuple[int, int], ...])
_COLUMNS = columns(BudgetRow)
_SUM = "(SELECT CAST(COALESCE(SUM({name}), 0) AS BIGINT) FROM budget_shards WHERE budget_id = budgets.id)"
SPENT_IN_SHARDS = _SUM.format(name="spent")
RESERVED_IN_SHARDS = _SUM.format(name="reserved")
_STANDING = (
    "budgets.id, budgets.currency, budgets.status, budgets.limit_amount + budgets.credit, budgets.soft_limit,"
    " budgets.spent, budgets.rolls_at, budgets.unpriced, budgets.warned"
)
_IN_SHARDS = {
    "sqlite": "each.spent, each.reserved, each.leased - each.spent - each.reserved",
    "postgres": (
        "CAST(SUM(each.spent) AS BIGINT), CAST(SUM(each.reserved) AS BIGINT),"
        " CAST(SUM(each.leased - each.spent - each.reserved) FILTER (WHERE each.shard = ?) AS BIGINT)"
    ),
}
"""What the shards have spent and reserved, and what one has free; NULL without any. SQLite has one."""
_GROUP = {"sqlite": "", "postgres": " GROUP BY budgets.id"}
STANDING_TYPES = ("TEXT", "TEXT", "TEXT", *["BIGINT"] * 4, "TEXT", *["BIGINT"] * 4)
"""The types of the columns that `standings_query` selects."""
_STANDINGS = (
    f"SELECT {{first}}{_STANDING}, {{shards}}"
    " FROM budgets LEFT JOIN budget_shards AS each ON each.budget_id = budgets.id"
    " WHERE budgets.org_id = ? AND {which}"
)
_OF_SUBJECTS = "budgets.status <> 'disabled' AND budgets.subject_id IN ({subjects})"
_ABOVE = ", (SELECT parent_session_id FROM sessions WHERE id = ?)"


def shard_of(session_id: SessionId, dialect: str) -> int:
    """Return the shard whose money a session uses."""
    return 0 if dialect == "sqlite" else crc32(session_id.encode()) % SHARDS


@cache
def _standings_among(count: int, dialect: str, *, above: bool, first: str) -> str:
    """The statement for so many ids; `above`: the last one is the parent's, whose own parent counts, too."""
    marks = ", ".join("?" * (count - above))
    which = _OF_SUBJECTS.format(subjects=marks + (_ABOVE if above else ""))
    return _STANDINGS.format(first=first, shards=_IN_SHARDS[dialect], which=which) + _GROUP[dialect]


async def standings_of(tx: Tx, row: SessionRow, agent_id: AgentId | None) -> tuple[Standing, ...]:
    """Return the budgets that a session's next model call is charged to.

    Those of the session and of all above it, of the agent that works and of the one that the session was
    created with, of the user and of the organization.
    """
    sql, args = standings_query(row, agent_id, tx.dialect)
    return read_standings(await tx.all(sql, *args), row, tx.dialect)


def standings_query(
    row: SessionRow, agent_id: AgentId | None, dialect: str, first: str = ""
) -> tuple[str, list[Value]]:
    """Return the statement of `standings_of`, and its arguments, to read more with it.

    Args:
        first: columns before those of `read_standings`.
    """
    parent = row.parent_session_id
    agents = {agent_id, row.first_agent().agent_id} - {None}
    # A session is at most three levels below its root: its own id, its parent, the parent's, and the root.
    ids = [row.org_id, row.owner_id, row.id, *sorted(filter(None, agents))]
    if parent is not None:
        ids += [row.root_session_id or parent, parent, parent]
    sql = _standings_among(len(ids), dialect, above=parent is not None, first=first)
    return sql, [*_shard_args(row.id, dialect), row.org_id, *ids]


def _shard_args(session_id: SessionId, dialect: str) -> list[Value]:
    return [] if dialect == "sqlite" else [shard_of(session_id, dialect)]


def read_standings(found: Sequence[Row], row: SessionRow, dialect: str) -> tuple[Standing, ...]:
    """Return the standings that a statement has found for a session, by the budgets' ids."""
    if not found:
        return ()
    shard = shard_of(row.id, dialect)
    return tuple(_standing(each, shard) for each in sorted(found, key=lambda each: str(each[0])))


def _standing(found: Row, shard: int) -> Standing:
    budget_id, currency, status, limit, soft_limit, spent, rolls_at, unpriced, warned, *shards = found
    more, reserved, free = shards
    return Standing(
        budget_id,
        currency,
        status,
        limit,
        soft_limit,
        spent + (more or 0),
        reserved or 0,
        free or 0,
        shard,
        rolls_at,
        None if unpriced is None else _prices(unpriced, budget_id),
        bool(warned),
    )


@lru_cache(maxsize=256)
def _prices(unpriced: str, budget_id: BudgetId) -> ModelCost:
    return from_json(_COST, unpriced, f"the budget {budget_id}")


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

    What calls hold beyond the limit, because it was lowered meanwhile, is no longer leased: shards then have
    less than nothing free, so that what such a call does not use is no other call's.

    Returns:
        The budget as it is then: `leased` is what calls hold, within the limit.
    """
    shards = await tx.all(
        "SELECT shard, spent, reserved FROM budget_shards WHERE budget_id = ? ORDER BY shard"
        + LOCK_ROW[tx.dialect],
        row.id,
    )
    spent = sum(each[1] for each in shards)
    held = sum(each[2] for each in shards)
    await tx.run("UPDATE budget_shards SET leased = reserved, spent = 0 WHERE budget_id = ?", row.id)
    beyond = min(held, max(0, row.spent + spent + held - row.limit_amount - row.credit))
    row = replace(row, spent=row.spent + spent, leased=held - beyond)
    for shard, _, reserved in shards:
        if cut := min(reserved, beyond):
            beyond -= cut
            sql = "UPDATE budget_shards SET leased = leased - ? WHERE budget_id = ? AND shard = ?"
            await tx.run(sql, cut, row.id, shard)
    await save_budget(tx, row)
    return row


async def reserved_of(tx: Tx, row: BudgetRow) -> int:
    """Return what calls hold of a budget."""
    sql = "SELECT CAST(COALESCE(SUM(reserved), 0) AS BIGINT) FROM budget_shards WHERE budget_id = ?"
    found = await tx.one(sql, row.id)
    return 0 if found is None else int(found[0])


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
    row = await reclaim(tx, row)
    row = rolled(row, now, await _last_spent(tx, row, now))
    await save_budget(tx, row)
    return row


def rolled(row: BudgetRow, now: Micros, last: Micros | None = None) -> BudgetRow:
    """Return a budget in the period that `now` is in. Its `spent` has what its shards have spent.

    Args:
        last: when it was charged last, for a rolling period; by default, when the last part of it began.
    """
    period = row.period_struct()
    if period is None or row.rolls_at is None or now < row.rolls_at:
        return row
    span = span_at(period, row.period_started_at or row.created_at, now)
    if isinstance(period, RollingPeriod):
        before = () if row.buckets is None else from_json(_BUCKETS, row.buckets, f"the budget {row.id}")
        newest = row.spent - sum(amount for _, amount in before)
        last = (row.period_started_at or row.created_at) if last is None else last
        parts = still_counted((*before, (last, newest)) if newest else before, period, now)
        row = replace(row, spent=sum(amount for _, amount in parts), buckets=to_json(parts))
        fresh = row.soft_limit is None or row.spent < row.soft_limit
    else:
        row, fresh = replace(row, spent=0, credit=0), True
    warned = 0 if fresh else row.warned
    return replace(row, period_started_at=span.start, rolls_at=span.rolls_at, warned=warned)


async def _last_spent(tx: Tx, row: BudgetRow, now: Micros) -> Micros:
    """When a budget was charged last. A call may end long after the part in which it began."""
    last = await last_charged(tx, row.id)
    return now if last is None else min(last, now)


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
    needed, overrun = await _lacking(tx, held)
    free = row.limit_amount + row.credit - row.spent - row.leased - overrun
    if free < needed:
        row, needed = await reclaim(tx, row), held.amount
        free = row.limit_amount + row.credit - row.spent - row.leased
        if free < needed:
            return False
    parts = 1 if tx.dialect == "sqlite" else LEASES
    more = max(needed, free // parts)
    await save_budget(tx, replace(row, leased=row.leased + more))
    await tx.run(
        "INSERT INTO budget_shards (budget_id, shard, leased, spent, reserved) VALUES (?, ?, ?, 0, 0)"
        " ON CONFLICT (budget_id, shard) DO UPDATE SET leased = budget_shards.leased + excluded.leased",
        held.budget_id,
        held.shard,
        more,
    )
    return True


async def _lacking(tx: Tx, held: Held) -> tuple[int, int]:
    """What a shard lacks to hold this, and what the others have spent beyond what they had leased.

    The latter happens when calls cost more than they held: the budget has that much less left.
    """
    found = await tx.all(
        "SELECT shard, leased - spent - reserved FROM budget_shards WHERE budget_id = ?", held.budget_id
    )
    free = next((left for shard, left in found if shard == held.shard), 0)
    return max(0, held.amount - free), sum(max(0, -left) for shard, left in found if shard != held.shard)


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
    sql = _STANDINGS.format(first="", shards=_IN_SHARDS[tx.dialect], which="budgets.id = ?")
    args = [0] if tx.dialect == "postgres" else []
    found = await tx.one(sql + _GROUP[tx.dialect], *args, org_id, budget_id)
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
        "WITH awaited AS MATERIALIZED (SELECT id, status, rolls_at,"
        f" limit_amount + credit - spent - {SPENT_IN_SHARDS} AS balance FROM budgets"
        " WHERE id IN (SELECT budget_id FROM budget_waits))"
        " SELECT budget_waits.org_id, budget_waits.session_id FROM budget_waits"
        " LEFT JOIN awaited ON awaited.id = budget_waits.budget_id"
        " WHERE (awaited.id IS NULL OR awaited.status = 'disabled' OR (awaited.status = 'active'"
        f" AND (awaited.rolls_at <= ? OR awaited.balance >= budget_waits.needed))){only}"
        " ORDER BY budget_waits.created_at, budget_waits.session_id LIMIT ?",
        now,
        *args,
        limit,
    )
    return [(row[0], row[1]) for row in rows]
