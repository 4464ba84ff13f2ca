"""What budgets were charged and credited.

The end of a call writes what it has cost into the row of what it held, once for all of its budgets.
Later, many calls at once are booked: budgets get their entries, and the rows are removed. Reads have both.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.ids import BudgetId, OrgId, SessionId
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import among, columns, insert, values


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


_COLUMNS = columns(EntryRow)
_INSERT = insert("budget_entries", EntryRow)
_CHARGED = {
    "sqlite": (
        "SELECT 'entry' || substr(held.id, 5, length(held.id) - 7) || printf('%03x', charge.key + 1),"
        " held.org_id, json_extract(charge.value, '$[0]'), json_extract(charge.value, '$[1]'),"
        " held.source, held.session_id, 'model_call', held.id,"
        " NULL, held.settled_at FROM budget_holds AS held, json_each(held.charges) AS charge"
    ),
    "postgres": (
        "SELECT 'entry' || substr(held.id, 5, length(held.id) - 7) || lpad(to_hex(charge.number), 3, '0'),"
        " held.org_id, charge.value ->> 0, CAST(charge.value ->> 1 AS BIGINT),"
        " held.source, held.session_id, 'model_call', held.id,"
        " CAST(NULL AS TEXT), held.settled_at FROM budget_holds AS held"
        " CROSS JOIN LATERAL json_array_elements(CAST(held.charges AS json))"
        " WITH ORDINALITY AS charge (value, number)"
    ),
}
"""The entries of calls that are not booked yet. Their ids are the call's with other last digits: `hold_...ab`
has `entry_...001` and so on."""
ENTRIES = "budget_entries"
ALL_ENTRIES = {
    dialect: f"SELECT {_COLUMNS} FROM {ENTRIES} UNION ALL {charged}" for dialect, charged in _CHARGED.items()
}
"""All entries, those of calls that are not booked yet included."""
_BUDGET = {"sqlite": "json_extract(charge.value, '$[0]')", "postgres": "charge.value ->> 0"}
_ENDED = "SELECT session_id, id FROM budget_holds WHERE settled_at IS NOT NULL"
BOOKED_AT_ONCE = 100
"""Calls that one transaction books. On SQLite, it keeps turns waiting for a millisecond or two."""
_AT_ONCE = 5_000
"""Entries of a deleted budget that one transaction removes."""
_LOCK_FREE = {"sqlite": "", "postgres": " FOR UPDATE SKIP LOCKED"}


async def add_entry(tx: Tx, row: EntryRow) -> None:
    """Add an entry of a budget."""
    await tx.run(_INSERT, *values(row))


async def list_entries(
    tx: Tx, org_id: OrgId, budget_id: BudgetId, offset: int, limit: int
) -> tuple[list[EntryRow], int]:
    """Return a page of what was charged to a budget, newest first, and how many entries there are."""
    sql = (
        f"SELECT {_COLUMNS} FROM budget_entries WHERE org_id = ? AND budget_id = ?"
        f" UNION ALL {_CHARGED[tx.dialect]} WHERE held.org_id = ? AND {_BUDGET[tx.dialect]} = ?"
    )
    args = (org_id, budget_id, org_id, budget_id)
    count = await tx.one(f"SELECT COUNT(*) FROM ({sql}) AS entries", *args)
    rows = await tx.all(f"{sql} ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?", *args, limit, offset)
    return [EntryRow(*row) for row in rows], 0 if count is None else count[0]


async def last_charged(tx: Tx, budget_id: BudgetId) -> Micros | None:
    """When a budget was charged last; None if it never was."""
    found = await tx.one(
        "SELECT MAX(last) FROM (SELECT MAX(created_at) AS last FROM budget_entries WHERE budget_id = ?"
        " UNION ALL SELECT MAX(settled_at) FROM budget_holds WHERE charges LIKE ?) AS times",
        budget_id,
        f'%"{budget_id}"%',
    )
    return None if found is None else found[0]


async def has_ended_calls(tx: Tx) -> bool:
    """Whether there are calls to book."""
    return await tx.one(f"{_ENDED} LIMIT 1") is not None


async def book_charges(tx: Tx, limit: int = BOOKED_AT_ONCE) -> int:
    """Book calls that have ended: give their budgets the entries.

    A budget that was deleted meanwhile gets no entries, which nobody would remove. So this locks budgets
    against that; nobody who has locked a budget waits for a call that has ended.

    Args:
        limit: the most calls.

    Returns:
        The number of calls.
    """
    ended = await tx.all(f"{_ENDED} ORDER BY session_id, id LIMIT ?{_LOCK_FREE[tx.dialect]}", limit)
    if not ended:
        return 0
    within, sessions = among(tx.dialect, "session_id", "TEXT", sorted({row[0] for row in ended}))
    one_of, ids = among(tx.dialect, "id", "TEXT", [row[1] for row in ended])
    chosen = f"{within} AND held.{one_of}"
    budget, charged = _BUDGET[tx.dialect], f"{_CHARGED[tx.dialect]} WHERE {chosen}"
    if tx.dialect == "postgres":
        theirs = f"SELECT budget_id FROM ({charged}) AS charged ({_COLUMNS})"
        await tx.all(
            f"SELECT id FROM budgets WHERE id IN ({theirs}) ORDER BY id FOR KEY SHARE", sessions, ids
        )
    kept = f"{budget} IN (SELECT id FROM budgets)"
    await tx.run(f"INSERT INTO budget_entries ({_COLUMNS}) {charged} AND {kept}", sessions, ids)
    return await tx.run(f"DELETE FROM budget_holds WHERE {within} AND {one_of}", sessions, ids)


async def remove_entries(tx: Tx, org_id: OrgId, budget_id: BudgetId) -> bool:
    """Remove a part of a deleted budget's entries; return whether there may be more."""
    gone = await tx.run(
        "DELETE FROM budget_entries WHERE budget_id = ? AND (budget_id, created_at, id) IN"
        " (SELECT budget_id, created_at, id FROM budget_entries WHERE org_id = ? AND budget_id = ? LIMIT ?)",
        budget_id,
        org_id,
        budget_id,
        _AT_ONCE,
    )
    return gone == _AT_ONCE
