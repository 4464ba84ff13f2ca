"""Budgets as people see and change them. `budgets` has what model calls do to them."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.errors import NotFound
from perdure.domain.ids import AgentId, BudgetId, OrgId, SessionId, UserId
from perdure.domain.times import Micros
from perdure.store.budgets import (
    RESERVED_IN_SHARDS,
    SPENT_IN_SHARDS,
    BudgetRow,
    rolled,
    standings_of,
)
from perdure.store.database import Row, Tx, Value
from perdure.store.rows import among, columns, insert, values
from perdure.store.sessions import SessionRow


class BudgetSeen(Struct, frozen=True):
    """A budget as it is at an instant: with what its shards have spent, and in the period of that instant."""

    row: BudgetRow
    reserved: int

    @property
    def balance(self) -> int:
        """What is left, without regard to calls that are under way."""
        return self.row.limit_amount + self.row.credit - self.row.spent


_SEEN = f"SELECT {columns(BudgetRow, alias='budgets')}, {SPENT_IN_SHARDS}, {RESERVED_IN_SHARDS} FROM budgets"


def _seen(found: Row, now: Micros) -> BudgetSeen:
    row = BudgetRow(*found[:-2])
    return BudgetSeen(rolled(replace(row, spent=row.spent + found[-2]), now), found[-1])


async def see_budget(tx: Tx, org_id: OrgId, budget_id: BudgetId, now: Micros) -> BudgetSeen:
    """Return a budget as it is now. Raises NotFound."""
    found = await tx.one(f"{_SEEN} WHERE id = ? AND org_id = ?", budget_id, org_id)
    if found is None:
        raise NotFound("budget")
    return _seen(found, now)


async def list_budgets(
    tx: Tx,
    org_id: OrgId,
    now: Micros,
    offset: int,
    limit: int,
    *,
    subject_type: str | None = None,
    subject_id: str | None = None,
    seen_by: UserId | None = None,
) -> tuple[list[BudgetSeen], int]:
    """Return a page of an organization's budgets, newest first, and how many there are.

    Args:
        seen_by: without the budgets of other users than this one; None for all.
    """
    where, args = "org_id = ?", list[Value]((org_id,))
    for column, value in (("subject_type", subject_type), ("subject_id", subject_id)):
        if value is not None:
            where, args = f"{where} AND {column} = ?", [*args, value]
    if seen_by is not None:
        where, args = f"{where} AND (subject_type <> 'user' OR subject_id = ?)", [*args, seen_by]
    count = await tx.one(f"SELECT COUNT(*) FROM budgets WHERE {where}", *args)
    rows = await tx.all(
        f"{_SEEN} WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?", *args, limit, offset
    )
    return [_seen(row, now) for row in rows], 0 if count is None else count[0]


async def budgets_of_session(
    tx: Tx, row: SessionRow, agent_id: AgentId | None, now: Micros
) -> list[BudgetSeen]:
    """Return the budgets that a session's next model call is charged to, oldest first."""
    ids = [each.id for each in await standings_of(tx, row, agent_id)]
    chosen, choices = among(tx.dialect, "id", "TEXT", ids)
    rows = await tx.all(f"{_SEEN} WHERE {chosen} AND org_id = ? ORDER BY created_at, id", choices, row.org_id)
    return [_seen(each, now) for each in rows]


async def count_budgets(tx: Tx, org_id: OrgId, subject_id: str) -> tuple[int, int]:
    """Return how many budgets an organization has, and how many of them this subject has."""
    found = await tx.one(
        "SELECT COUNT(*), COALESCE(SUM(CASE WHEN subject_id = ? THEN 1 ELSE 0 END), 0) FROM budgets"
        " WHERE org_id = ?",
        subject_id,
        org_id,
    )
    return (0, 0) if found is None else (int(found[0]), int(found[1]))


async def add_budget(tx: Tx, row: BudgetRow) -> None:
    """Insert a new budget."""
    await tx.run(insert("budgets", BudgetRow), *values(row))


async def remove_budget(tx: Tx, org_id: OrgId, budget_id: BudgetId) -> None:
    """Remove a locked budget. What model calls still hold of it is settled later, which changes nothing."""
    await tx.run("DELETE FROM budgets WHERE id = ? AND org_id = ?", budget_id, org_id)
    await tx.run("DELETE FROM budget_shards WHERE budget_id = ?", budget_id)


async def remove_budgets_of(tx: Tx, org_id: OrgId, subject_id: SessionId | UserId) -> None:
    """Remove the budgets of a session that is deleted, or of a user, with their entries."""
    rows = await tx.all(
        "SELECT id FROM budgets WHERE org_id = ? AND subject_id = ? ORDER BY id", org_id, subject_id
    )
    ids = [(row[0], org_id) for row in rows]
    # All budgets before the first shard: nothing that has locked a shard locks a budget.
    await tx.run_many("DELETE FROM budgets WHERE id = ? AND org_id = ?", ids)
    await tx.run_many("DELETE FROM budget_shards WHERE budget_id = ?", [(each,) for each, _ in ids])
    # Without a shard, no call that ends adds an entry any more.
    await tx.run_many("DELETE FROM budget_entries WHERE budget_id = ? AND org_id = ?", ids)


async def wait_of(tx: Tx, session_id: SessionId) -> tuple[BudgetId, int] | None:
    """Return the budget that a session's turn waits for, and how much it needs; None if it waits for none."""
    found = await tx.one("SELECT budget_id, needed FROM budget_waits WHERE session_id = ?", session_id)
    return None if found is None else (found[0], found[1])
