"""Whether budgets would let a model be called now; and the wish that a session goes on that one stopped."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import asdict

from perdure.app.budget_waits import resume_turn
from perdure.app.budgets import to_budget, visible_budget
from perdure.app.context import Services
from perdure.domain.accounts import Caller
from perdure.domain.budgets import Budget, BudgetCheckResult, CheckAction, ResumedSession
from perdure.domain.ids import BudgetId, SessionId
from perdure.domain.messages import JsonObject
from perdure.domain.spending import amount_of, shown
from perdure.domain.times import Micros, to_rfc3339
from perdure.store.budget_lists import BudgetSeen, budgets_of_session, wait_of
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow, get_session

_STRICTNESS: tuple[CheckAction, ...] = ("allow", "warn", "pause")


async def check_budget(app: Services, caller: Caller, budget_id: BudgetId) -> BudgetCheckResult:
    """Say whether a budget has money. Raises NotFound."""
    now = app.now()
    return _checked(await app.database.read(lambda tx: visible_budget(tx, caller, budget_id, now)))


async def session_budgets(app: Services, caller: Caller, session_id: SessionId) -> list[Budget]:
    """List the budgets that a session's next model call is charged to, oldest first. Raises NotFound."""
    now = app.now()

    async def work(tx: Tx) -> list[BudgetSeen]:
        row = await get_session(tx, caller.organization_id, session_id)
        return await budgets_of_session(tx, row, row.agent_id, now)

    return [to_budget(each) for each in await app.database.read(work)]


async def check_session(app: Services, caller: Caller, session_id: SessionId) -> BudgetCheckResult:
    """Say whether a session's budgets have money for its next model call. Raises NotFound."""
    now = app.now()

    async def work(tx: Tx) -> BudgetCheckResult:
        row = await get_session(tx, caller.organization_id, session_id)
        return await _strictest(tx, row, now)

    return await app.database.read(work)


async def _strictest(tx: Tx, row: SessionRow, now: Micros) -> BudgetCheckResult:
    found = await budgets_of_session(tx, row, row.agent_id, now)
    waited = await wait_of(tx, row.id)
    needs = {} if waited is None or row.status != "paused" else {waited[0]: waited[1]}
    return _decisive([(each, _checked(each, needs.get(each.row.id, 0))) for each in found])


def _decisive(checked: Sequence[tuple[BudgetSeen, BudgetCheckResult]]) -> BudgetCheckResult:
    """The result of the strictest budget: of equally strict ones, of that with the smallest share left."""
    if not checked:
        return BudgetCheckResult("allow")

    def strictness(each: tuple[BudgetSeen, BudgetCheckResult]) -> tuple[int, float]:
        seen, result = each
        whole = seen.row.limit_amount + seen.row.credit
        return _STRICTNESS.index(result.action), -(seen.balance / whole if whole > 0 else 0.0)

    return max(checked, key=strictness)[1]


def _checked(seen: BudgetSeen, needed: int = 0) -> BudgetCheckResult:
    """Say whether a budget has money. `needed`: the least that the next call needs, if that is known."""
    row, currency = seen.row, seen.row.currency
    left = shown(currency, seen.balance)
    limit = shown(currency, row.limit_amount + row.credit)
    action: CheckAction = "allow"
    code, message, fields = None, None, None
    if row.status == "paused":
        action, code = "pause", "budget_paused"
        message = f"The budget {row.id} is paused. Set its status to `active` to go on."
    elif row.status == "active" and (seen.balance <= 0 or needed > seen.balance):
        action, code = "pause", "budget_exhausted"
        least = f", and the next model call needs at least {shown(currency, needed)}" if needed else ""
        then = "" if row.rolls_at is None else f", or wait until {to_rfc3339(row.rolls_at)}"
        message = (
            f"The budget {row.id} has {left} of {limit} left{least}. Raise its limit or top it up{then}."
        )
    elif row.status == "active" and row.soft_limit is not None and row.spent >= row.soft_limit:
        action = "warn"
        message = f"The budget {row.id} has reached its soft limit: {left} of {limit} are left."
    balance = amount_of(currency, seen.balance)
    if code is not None:
        fields = _fields(seen, needed)
    return BudgetCheckResult(action, balance, row.id, currency, code, fields, message)


def _fields(seen: BudgetSeen, needed: int) -> JsonObject:
    row, currency = seen.row, seen.row.currency
    fields: JsonObject = {
        "budget_id": row.id,
        "balance": amount_of(currency, seen.balance),
        "limit": amount_of(currency, row.limit_amount + row.credit),
        "currency": currency,
    }
    return {**fields, "needed": amount_of(currency, needed)} if needed else fields


async def resume_session(app: Services, caller: Caller, session_id: SessionId) -> ResumedSession:
    """Make a session go on that a budget has stopped, if its budgets have money now; else say why not.

    Raises NotFound.
    """
    now = app.now()

    async def work(tx: Tx) -> tuple[SessionRow, BudgetCheckResult]:
        row = await get_session(tx, caller.organization_id, session_id)
        return row, await _strictest(tx, row, now)

    row, result = await app.database.read(work)
    resumed = (
        row.status == "paused"
        and result.action != "pause"
        and await resume_turn(app, caller.organization_id, session_id)
    )
    said = asdict(result)
    if resumed:
        said["message"] = "The session goes on."
    elif row.status != "paused":
        said["message"] = f"No budget stops the session: it is {row.status}."
    return ResumedSession(
        **said, session_id=row.id, resumed=resumed, status="active" if resumed else row.status
    )
