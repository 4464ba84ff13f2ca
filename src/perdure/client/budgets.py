"""Budgets: what model calls may cost, and the sessions that have to wait for money."""

from __future__ import annotations

from perdure.client import routes
from perdure.client.routes import Caller, new_key, path_of
from perdure.domain.budgets import (
    Budget,
    BudgetCheckResult,
    CreateBudget,
    LedgerEntry,
    ResumedSession,
    SubjectType,
    TopUpBudget,
    UpdateBudget,
)
from perdure.domain.paging import Page

_BUDGETS = "/v1/budgets"
_BUDGET = f"{_BUDGETS}/{{}}"


class BudgetMethods(Caller):
    """The client's methods about budgets."""

    create_budget = routes.creates(
        _BUDGETS, CreateBudget, Budget, "Create a budget: a limit on what model calls may cost."
    )
    get_budget = routes.reads(_BUDGET, Budget, "Return a budget, with what was spent in this period.")
    update_budget = routes.updates(
        _BUDGET, UpdateBudget, Budget, "Change a budget. Turns that wait for it go on if it has money then."
    )
    delete_budget = routes.sends("DELETE", _BUDGET, "Delete a budget. Turns that wait for it go on.")
    check_budget = routes.reads(
        f"{_BUDGET}/check", BudgetCheckResult, "Return whether a budget has money now."
    )
    session_budgets = routes.lists_under(
        "/v1/sessions/{}/budgets", Budget, "List the budgets that a session's next model call is charged to."
    )
    check_session_budgets = routes.reads(
        "/v1/sessions/{}/budget-check",
        BudgetCheckResult,
        "Return whether a session's budgets have money now: what the strictest one says.",
    )
    resume_session = routes.acts(
        "POST",
        "/v1/sessions/{}/resume",
        ResumedSession,
        "Make a session go on that a budget has stopped, if there is money now; else return what is missing.",
    )

    async def list_budgets(
        self,
        *,
        subject_type: SubjectType | None = None,
        subject_id: str | None = None,
        offset: int = 0,
        limit: int = 100,
    ) -> Page[Budget]:
        """List budgets, newest first; of one subject, if it is given."""
        params = [
            ("subject_type", subject_type),
            ("subject_id", subject_id),
            ("offset", offset),
            ("limit", limit),
        ]
        return await self.call("GET", _BUDGETS, Page[Budget], params=params)

    async def top_up_budget(
        self,
        budget_id: str,
        amount: float,
        description: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Budget:
        """Let more be spent in this period; turns that wait for the budget go on.

        Args:
            budget_id: the budget's id.
            amount: in the budget's currency, above 0.
            description: why, for the ledger.
            idempotency_key: the server credits the amount once for the same key.
        """
        path, once = path_of(f"{_BUDGET}/top-up", budget_id), idempotency_key or new_key()
        return await self.call("POST", path, Budget, body=TopUpBudget(amount, description), once=once)

    async def list_budget_ledger(
        self, budget_id: str, *, offset: int = 0, limit: int = 100
    ) -> Page[LedgerEntry]:
        """List what was charged to a budget and credited, newest first."""
        path = path_of(f"{_BUDGET}/ledger", budget_id)
        params = [("offset", offset), ("limit", limit)]
        return await self.call("GET", path, Page[LedgerEntry], params=params)
