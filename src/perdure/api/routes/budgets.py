"""Routes of budgets: what model calls may cost, and the sessions that have to wait for money."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.api.routes.sessions import Offset
from perdure.app import budget_checks as checks
from perdure.app import budgets as use
from perdure.domain.budgets import (
    Budget,
    BudgetCheckResult,
    CreateBudget,
    LedgerEntry,
    ResumedSession,
    SubjectIdText,
    SubjectType,
    TopUpBudget,
    UpdateBudget,
)
from perdure.domain.ids import BudgetId, SessionId
from perdure.domain.paging import Listing, Page

_PageSize = Annotated[int, Meta(description="The maximum number of items to return.", ge=1, le=1000)]
_EXAMPLE = {
    "subject_type": "organization",
    "subject_id": "org_00000000000000000000000000000001",
    "currency": "usd",
    "limit": 500.0,
    "soft_limit": 400.0,
    "period": {"type": "calendar", "unit": "month", "time_zone": "Europe/Berlin"},
}


class ListBudgets(Struct, frozen=True):
    """Query parameters of the list of budgets."""

    subject_type: Annotated[SubjectType | None, Meta(description="Return only budgets of such subjects.")] = (
        None
    )
    subject_id: Annotated[
        SubjectIdText | None,
        Meta(description="Return only budgets of this session, agent, user or organization."),
    ] = None
    offset: Offset = 0
    limit: _PageSize = 100


class ListLedger(Struct, frozen=True):
    """Query parameters of a budget's ledger."""

    offset: Offset = 0
    limit: _PageSize = 100


@route("POST", "/v1/budgets", "budgets", status=201, errors=(403, 404, 409), body_example=_EXAMPLE)
async def create_budget(call: Call, body: CreateBudget) -> Budget:
    """Create a budget.

    It applies to the next model call of each session that its subject covers: a call is sent only after what
    it may cost is held of every budget above it. Several budgets may apply; the strictest decides. A subject
    has at most 10 budgets, an organization 10,000. Requires the role `admin`.
    """
    return await use.create_budget(call.app, call.caller, body, call.once)


@route("GET", "/v1/budgets", "budgets")
async def list_budgets(call: Call, query: ListBudgets) -> Page[Budget]:
    """List budgets.

    Newest first. Members do not see the budgets of other users.
    """
    return await use.all_budgets(
        call.app, call.caller, query.subject_type, query.subject_id, query.offset, query.limit
    )


@route("GET", "/v1/budgets/{budget_id}", "budgets", errors=(404,))
async def get_budget(call: Call, budget_id: BudgetId) -> Budget:
    """Get a budget.

    With what was spent in this period, and what model calls hold that are under way.
    """
    return await use.read_budget(call.app, call.caller, budget_id)


@route("PATCH", "/v1/budgets/{budget_id}", "budgets", errors=(403, 404), body_example={"limit": 800.0})
async def update_budget(call: Call, budget_id: BudgetId, body: UpdateBudget) -> Budget:
    """Update a budget.

    It applies to the next model call; calls that are under way keep what they hold. Turns that wait for the
    budget go on at once if it has money for them now. Requires the role `admin`.
    """
    return await use.change_budget(call.app, call.caller, budget_id, body)


@route("DELETE", "/v1/budgets/{budget_id}", "budgets", errors=(403, 404))
async def delete_budget(call: Call, budget_id: BudgetId) -> None:
    """Delete a budget.

    With its ledger. Turns that wait for it go on. Requires the role `admin`.
    """
    await use.delete_budget(call.app, call.caller, budget_id)


@route(
    "POST", "/v1/budgets/{budget_id}/top-up", "budgets", status=200, errors=(403, 404, 409), replayable=True,
    body_example={"amount": 10.0, "description": "The launch is tomorrow."},
)  # fmt: skip
async def top_up_budget(call: Call, budget_id: BudgetId, body: TopUpBudget) -> Budget:
    """Top up a budget.

    Lets more be spent in this period, and makes turns go on that wait for the budget. What is left of it
    lapses with the period: of a rolling one, a window's length later. Requires the role `admin`.
    """
    return await use.top_up(call.app, call.caller, budget_id, body, call.once)


@route("GET", "/v1/budgets/{budget_id}/ledger", "budgets", errors=(404,))
async def list_budget_ledger(call: Call, budget_id: BudgetId, query: ListLedger) -> Page[LedgerEntry]:
    """List what was charged to a budget.

    One entry for each model call that has ended, and for each top-up, newest first.
    """
    return await use.ledger_of(call.app, call.caller, budget_id, query.offset, query.limit)


@route("GET", "/v1/budgets/{budget_id}/check", "budgets", errors=(404,))
async def check_budget(call: Call, budget_id: BudgetId) -> BudgetCheckResult:
    """Check a budget.

    Whether it has money now. What a call needs at least is known only to sessions that wait for it.
    """
    return await checks.check_budget(call.app, call.caller, budget_id)


@route("GET", "/v1/sessions/{session_id}/budgets", "budgets", errors=(404,))
async def list_session_budgets(call: Call, session_id: SessionId) -> Listing[Budget]:
    """List the budgets of a session.

    Those that its next model call is charged to: of the session and of those above it, of its agent, its
    owner and the organization. Disabled ones are left out.
    """
    return Listing(tuple(await checks.session_budgets(call.app, call.caller, session_id)))


@route("GET", "/v1/sessions/{session_id}/budget-check", "budgets", errors=(404,))
async def check_session_budgets(call: Call, session_id: SessionId) -> BudgetCheckResult:
    """Check the budgets of a session.

    Of several, the strictest decides. If the session waits for a budget, `error_fields` says what it needs.
    """
    return await checks.check_session(call.app, call.caller, session_id)


@route("POST", "/v1/sessions/{session_id}/resume", "budgets", status=200, errors=(404,))
async def resume_session_budgets(call: Call, session_id: SessionId) -> ResumedSession:
    """Resume a session that a budget has stopped.

    It goes on where it stopped if its budgets have money now. Otherwise nothing changes, and `message` says
    what is missing. Sessions also go on by themselves, within seconds, once there is money.
    """
    return await checks.resume_session(call.app, call.caller, session_id)


ROUTES = (
    create_budget,
    list_budgets,
    get_budget,
    update_budget,
    delete_budget,
    top_up_budget,
    list_budget_ledger,
    check_budget,
    list_session_budgets,
    check_session_budgets,
    resume_session_budgets,
)
