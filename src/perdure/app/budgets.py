"""Budgets: created, read, changed, topped up and deleted by people. `engine.spending` enforces them."""

from __future__ import annotations

from functools import partial

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from perdure.app.budget_waits import resume_waiting
from perdure.app.context import Services
from perdure.app.idempotency import Once, write_once
from perdure.domain.accounts import RANK, Caller, require
from perdure.domain.budget_periods import RollingPeriod, span_at
from perdure.domain.budgets import (
    MAX_BUDGETS,
    MAX_METADATA,
    MAX_OF_SUBJECT,
    SUBJECTS,
    Budget,
    CreateBudget,
    LedgerEntry,
    TopUpBudget,
    UpdateBudget,
    check_period,
    check_prices,
    check_soft_limit,
    most_of,
    to_amount,
)
from perdure.domain.errors import Conflict, InvalidInput, NotFound
from perdure.domain.ids import BudgetId, UserId, check_id
from perdure.domain.messages import JsonObject
from perdure.domain.paging import Page, page_of
from perdure.domain.spending import amount_of
from perdure.domain.times import maybe_rfc3339, to_rfc3339
from perdure.store.accounts import lock_organization, memberships_of
from perdure.store.agents import get_agent
from perdure.store.budget_entries import EntryRow, add_entry, list_entries, remove_entries
from perdure.store.budget_lists import (
    BudgetSeen,
    add_budget,
    count_budgets,
    list_budgets,
    remove_budget,
    see_budget,
)
from perdure.store.budgets import BudgetRow, lock_budget, reclaim, reserved_of, roll, save_budget
from perdure.store.database import Tx
from perdure.store.rows import from_json, to_json
from perdure.store.sessions import get_session

_METADATA: msgspec.json.Decoder[JsonObject | None] = msgspec.json.Decoder(JsonObject | None)


def to_budget(seen: BudgetSeen) -> Budget:
    """Convert a budget to the resource that clients see."""
    row, currency = seen.row, seen.row.currency
    # A top-up of a rolling budget is spending that was undone, and is forgotten with its part of the window.
    spent, credit = max(row.spent, 0), row.credit + max(-row.spent, 0)
    exhausted = row.status == "active" and seen.balance <= 0
    return Budget(
        id=row.id,
        organization_id=row.org_id,
        subject_type=row.subject_type,
        subject_id=row.subject_id,
        currency=currency,
        limit=amount_of(currency, row.limit_amount),
        balance=amount_of(currency, seen.balance),
        status="exhausted" if exhausted else row.status,
        created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at),
        spent=amount_of(currency, spent),
        reserved=amount_of(currency, seen.reserved),
        topped_up=amount_of(currency, credit),
        soft_limit=None if row.soft_limit is None else amount_of(currency, row.soft_limit),
        period=row.period_struct(),
        period_started_at=maybe_rfc3339(row.period_started_at),
        next_period_at=maybe_rfc3339(row.rolls_at),
        unpriced=row.unpriced_struct(),
        metadata=from_json(_METADATA, row.metadata, f"the budget {row.id}"),
    )


async def create_budget(app: Services, caller: Caller, body: CreateBudget, once: Once | None) -> Budget:
    """Create a budget. It applies to the next model call of each session that its subject covers.

    Raises:
        Forbidden: the caller is no admin.
        InvalidInput: an amount, the period or a price is out of bounds.
        NotFound: the organization has no such subject.
        Conflict: the organization, or the subject, has as many budgets as are allowed.
    """
    require(caller, "admin")
    row = _new_row(app, caller, body)

    async def work(tx: Tx) -> Budget:
        await _check_subject(tx, caller, row.subject_type, row.subject_id)
        await lock_organization(tx, row.org_id)
        all_of_them, of_subject = await count_budgets(tx, row.org_id, row.subject_id)
        for count, most, what in (
            (of_subject, MAX_OF_SUBJECT, "the subject"),
            (all_of_them, MAX_BUDGETS, "the organization"),
        ):
            if count >= most:
                raise Conflict(
                    f"{what} has {most:,} budgets, and more are not allowed: delete one first",
                    code="too_many_budgets",
                )
        await add_budget(tx, row)
        return to_budget(BudgetSeen(row, 0))

    return await write_once(app, once, work)


def _new_row(app: Services, caller: Caller, body: CreateBudget) -> BudgetRow:
    if body.subject_type not in SUBJECTS:
        raise InvalidInput(
            f"budgets are of a session, an agent, a user or an organization, not of an {body.subject_type}",
            code="unsupported_budget_subject",
            field="subject_type",
        )
    now, currency = app.now(), body.currency
    limit = to_amount(currency, body.limit, "limit")
    soft = None if body.soft_limit is None else to_amount(currency, body.soft_limit, "soft_limit")
    check_soft_limit(limit, soft)
    if body.period is not None:
        check_period(body.period)
    if body.unpriced is not None:
        check_prices(currency, body.unpriced)
    span = None if body.period is None else span_at(body.period, now, now)
    return BudgetRow(
        id=BudgetId(app.new_id("budget")),
        org_id=caller.organization_id,
        subject_type=body.subject_type,
        subject_id=body.subject_id,
        currency=currency,
        limit_amount=limit,
        soft_limit=soft,
        credit=0,
        period=None if body.period is None else to_json(body.period),
        period_started_at=None if span is None else span.start,
        rolls_at=None if span is None else span.rolls_at,
        status="active",
        unpriced=None if body.unpriced is None else to_json(body.unpriced),
        metadata=_metadata(body.metadata),
        spent=0,
        leased=0,
        buckets=None,
        warned=0,
        created_at=now,
        updated_at=now,
    )


def _metadata(given: JsonObject | None) -> str:
    text = to_json(given)
    if len(text) > MAX_METADATA:
        raise InvalidInput(f"`metadata` is longer than {MAX_METADATA:,} characters of JSON", field="metadata")
    return text


async def _check_subject(tx: Tx, caller: Caller, subject_type: str, subject_id: str) -> None:
    """Check that the subject is one of the caller's organization. Raises InvalidId, NotFound."""
    org_id, field = caller.organization_id, "subject_id"
    match subject_type:
        case "session":
            await get_session(tx, org_id, check_id(subject_id, "session", field))
        case "agent":
            await get_agent(tx, org_id, check_id(subject_id, "agent", field))
        case "user":
            user_id: UserId = check_id(subject_id, "user", field)
            if org_id not in dict(await memberships_of(tx, user_id)):
                raise NotFound("user")
        case _:
            if check_id(subject_id, "org", field) != org_id:
                raise NotFound("organization")


def _may_see(caller: Caller, row: BudgetRow) -> bool:
    """Whether a caller sees a budget: members do not see those of other users."""
    return _sees_all(caller) or row.subject_type != "user" or row.subject_id == caller.user_id


def _sees_all(caller: Caller) -> bool:
    return RANK[caller.role] >= RANK["admin"]


async def visible_budget(tx: Tx, caller: Caller, budget_id: BudgetId, now: int) -> BudgetSeen:
    """Return a budget that the caller may see. Raises NotFound."""
    seen = await see_budget(tx, caller.organization_id, budget_id, now)
    if not _may_see(caller, seen.row):
        raise NotFound("budget")
    return seen


async def read_budget(app: Services, caller: Caller, budget_id: BudgetId) -> Budget:
    """Return a budget as it is now. Raises NotFound."""
    now = app.now()
    return to_budget(await app.database.read(lambda tx: visible_budget(tx, caller, budget_id, now)))


async def all_budgets(
    app: Services,
    caller: Caller,
    subject_type: str | None,
    subject_id: str | None,
    offset: int,
    limit: int,
) -> Page[Budget]:
    """List the budgets that the caller may see, newest first; of one subject, if it is given."""
    now = app.now()
    found, total = await app.database.read(
        lambda tx: list_budgets(
            *(tx, caller.organization_id, now, offset, limit),
            subject_type=subject_type,
            subject_id=subject_id,
            seen_by=None if _sees_all(caller) else caller.user_id,
        )
    )
    return page_of([to_budget(each) for each in found], total, offset, limit)


async def change_budget(app: Services, caller: Caller, budget_id: BudgetId, body: UpdateBudget) -> Budget:
    """Change a budget: for the next model call at once, and turns that wait for it go on if it has money.

    Raises:
        Forbidden: the caller is no admin.
        NotFound: there is no such budget.
        InvalidInput: an amount or a price is out of bounds.
    """
    require(caller, "admin")
    now = app.now()

    async def work(tx: Tx) -> Budget:
        row = await roll(tx, await lock_budget(tx, caller.organization_id, budget_id), now)
        changed = _changed(row, body)
        # What the shards have leased was leased under the old terms.
        row = await reclaim(tx, changed)
        fresh = row.soft_limit is None or row.spent < row.soft_limit
        row = replace(row, warned=0 if fresh else row.warned, updated_at=now)
        await save_budget(tx, row)
        return to_budget(BudgetSeen(row, await reserved_of(tx, row)))

    budget = await app.database.write(work)
    await resume_waiting(app, budget_id)
    return budget


def _changed(row: BudgetRow, body: UpdateBudget) -> BudgetRow:
    currency = row.currency
    if body.limit is not None:
        row = replace(row, limit_amount=to_amount(currency, body.limit, "limit"))
        _check_sum(row)
    if body.soft_limit is not UNSET:
        soft = None if body.soft_limit is None else to_amount(currency, body.soft_limit, "soft_limit")
        row = replace(row, soft_limit=soft)
    check_soft_limit(row.limit_amount, row.soft_limit)
    if body.status is not None:
        row = replace(row, status=body.status)
    if body.unpriced is not UNSET:
        if body.unpriced is not None:
            check_prices(currency, body.unpriced)
        row = replace(row, unpriced=None if body.unpriced is None else to_json(body.unpriced))
    if body.metadata is not UNSET:
        row = replace(row, metadata=_metadata(body.metadata))
    return row


def _check_sum(row: BudgetRow) -> None:
    """Check that the limit and the top-ups together are an amount. Raises InvalidInput."""
    most = most_of(row.currency)
    if row.limit_amount + row.credit > most or row.spent < -most:
        raise InvalidInput(
            f"the limit and the top-ups of this period are together more than "
            f"{amount_of(row.currency, most):,.0f}",
            code="invalid_amount",
        )


async def top_up(
    app: Services, caller: Caller, budget_id: BudgetId, body: TopUpBudget, once: Once | None
) -> Budget:
    """Let more be spent in this period; turns that wait for the budget go on.

    Raises:
        Forbidden: the caller is no admin.
        NotFound: there is no such budget.
        InvalidInput: the amount is out of bounds.
    """
    require(caller, "admin")
    now = app.now()

    async def work(tx: Tx) -> Budget:
        row = await roll(tx, await lock_budget(tx, caller.organization_id, budget_id), now)
        least = 1e-9 if row.currency == "usd" else 1
        amount = to_amount(row.currency, body.amount, "amount", least=least)
        if isinstance(row.period_struct(), RollingPeriod):
            row = replace(row, spent=row.spent - amount)
        else:
            row = replace(row, credit=row.credit + amount)
        _check_sum(row)
        row = replace(row, updated_at=now)
        await save_budget(tx, row)
        entry = EntryRow(
            app.new_id("entry"),
            *(row.org_id, row.id, -amount, "top_up", None, "user", caller.user_id, body.description, now),
        )
        await add_entry(tx, entry)
        return to_budget(await see_budget(tx, row.org_id, row.id, now))

    budget = await write_once(app, once, work, lambda made: (made, 200))
    await resume_waiting(app, budget_id)
    return budget


async def delete_budget(app: Services, caller: Caller, budget_id: BudgetId) -> None:
    """Delete a budget with its ledger; turns that wait for it go on.

    Raises:
        Forbidden: the caller is no admin.
        NotFound: there is no such budget.
    """
    require(caller, "admin")
    org_id = caller.organization_id

    async def work(tx: Tx) -> None:
        await lock_budget(tx, org_id, budget_id)
        await remove_budget(tx, org_id, budget_id)

    await app.database.write(work)
    await resume_waiting(app, budget_id)
    while await app.database.write(partial(remove_entries, org_id=org_id, budget_id=budget_id)):
        pass


async def ledger_of(
    app: Services, caller: Caller, budget_id: BudgetId, offset: int, limit: int
) -> Page[LedgerEntry]:
    """List what was charged to a budget and credited, newest first. Raises NotFound."""
    now = app.now()

    async def work(tx: Tx) -> Page[LedgerEntry]:
        seen = await visible_budget(tx, caller, budget_id, now)
        rows, total = await list_entries(tx, seen.row.org_id, budget_id, offset, limit)
        entries = [
            LedgerEntry(
                each.id,
                each.budget_id,
                amount_of(seen.row.currency, each.amount),
                each.source,
                to_rfc3339(each.created_at),
                each.session_id,
                each.ref_type,
                each.ref_id,
                each.description,
            )
            for each in rows
        ]
        return page_of(entries, total, offset, limit)

    return await app.database.read(work, long=True)
