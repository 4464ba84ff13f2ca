"""The data of events about budgets."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from perdure.domain.event_data import EventData
from perdure.domain.ids import BudgetId


class BudgetEventData(EventData, frozen=True, omit_defaults=True):
    """What every event about a budget says of it."""

    budget_id: Annotated[BudgetId, Meta(description="The budget.")]
    balance: Annotated[float, Meta(description="What is left of it in this period, in US dollars or tokens.")]
    limit: Annotated[
        float, Meta(description="What may be spent in a period, with what was topped up in this one.")
    ]
    currency: Annotated[str, Meta(description="`usd` or `tokens`.")]
    soft_limit: Annotated[
        float | None, Meta(description="The amount of spending of which the budget warns.")
    ] = None
    message: Annotated[str | None, Meta(description="What happened, for people.")] = None


class BudgetWarningData(BudgetEventData, frozen=True, omit_defaults=True):
    """A budget has reached its soft limit, for the first time in this period. The turn goes on."""

    kind = "budget.warning"


class BudgetExceededData(BudgetEventData, frozen=True, omit_defaults=True):
    """A model call has used up a budget. What it had held covers it, but for errors of estimates."""

    kind = "budget.exceeded"


class BudgetExhaustedData(BudgetEventData, frozen=True, omit_defaults=True):
    """A budget has no money for the next model call, which was not sent. `budget.paused` follows."""

    kind = "budget.exhausted"
    needed: Annotated[
        float | None, Meta(description="The least that the call needs: its prompt and a short answer.")
    ] = None


class BudgetPausedData(BudgetEventData, frozen=True, omit_defaults=True):
    """A budget stops the session, whose turn is parked.

    More money, the next period, or a message of a user makes it go on where it stopped.
    """

    kind = "budget.paused"


class BudgetResumedData(BudgetEventData, frozen=True, omit_defaults=True):
    """A budget that had stopped the session has money again, or is not enforced any more.

    The turn tries again at once.
    """

    kind = "budget.resumed"
