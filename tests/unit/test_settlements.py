"""What the end of a model call says of the soft limits of its budgets."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.domain.ids import BudgetId, OrgId, SessionId, UserId
from perdure.domain.messages import Usage
from perdure.domain.spending import Held, Reservation, SpentOn, Standing
from perdure.engine.settlements import Money

BUDGET = BudgetId("budget_1")


def test_a_budget_counts_as_warned_only_if_the_log_says_so() -> None:
    """Else a summary or a judge that reaches a soft limit would swallow the only warning."""
    on = SpentOn(OrgId("org_1"), SessionId("session_1"), UserId("user_1"), "model")
    standing = Standing(BUDGET, "tokens", "active", 1_000, 100, 50, 0, 0, 0)
    held = Reservation((Held(BUDGET, 0, "tokens", 500),), (None,), 500)
    money = Money(on, held, [standing], 100, epoch=1, now=0, hold_id="hold_1")
    settlement = money.settlement(Usage(60, 10))
    assert settlement.warned() == []
    assert replace(settlement, announced=True).warned() == [BUDGET]
