"""What a model call may cost: planned from its budgets before it is sent, charged when it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from perdure.domain.ids import AgentId, BudgetId, OrgId, SessionId, UserId
from perdure.domain.messages import Usage
from perdure.domain.model_profiles import ModelCost
from perdure.domain.money import charge_of, highest_prices, to_usd
from perdure.domain.times import Micros

Currency = Literal["usd", "tokens"]
BudgetStatus = Literal["active", "paused", "disabled"]
"""What people set. A budget without money left is shown as exhausted."""

LEAST_OUTPUT = 512
"""Tokens of answer that a budget must have money for. With less, a call would be paid for in vain."""
FAIR_OUTPUT = 8_192
"""Tokens of answer that a call may always reserve, if there is money for them."""
UNKNOWN_OUTPUT = 32_768
"""Tokens of answer that a call asks for at most, of a model whose longest answer is not known."""
FAIR_SHARE = 4
"""Beyond that, one call reserves at most a quarter of what is left, so that others can go on."""


class Standing(Struct, frozen=True):
    """A budget as a model call finds it. Amounts are billionths of a US dollar, or tokens.

    Attributes:
        limit: with what was topped up in this period.
        spent: settled in this period.
        reserved: held for calls that are under way.
        free: what this session's part of it has leased and nobody holds.
        shard: the part.
        rolls_at: when the period ends; None if it has none.
        unpriced: the price at which models without one may be called.
        warned: whether the soft limit was reached in this period.
    """

    id: BudgetId
    currency: Currency
    status: BudgetStatus
    limit: int
    soft_limit: int | None
    spent: int
    reserved: int
    free: int
    shard: int
    rolls_at: Micros | None = None
    unpriced: ModelCost | None = None
    warned: bool = False

    @property
    def balance(self) -> int:
        """What is left, without regard to calls that are under way."""
        return self.limit - self.spent


class Held(Struct, frozen=True):
    """What a call holds of one budget."""

    budget_id: BudgetId
    shard: int
    currency: Currency
    amount: int


class SpentOn(Struct, frozen=True, omit_defaults=True):
    """Whose call it is, and of which model, for the ledger."""

    org_id: OrgId
    session_id: SessionId
    user_id: UserId
    model: str
    root_session_id: SessionId | None = None
    agent_id: AgentId | None = None
    provider: str | None = None


class Reservation(Struct, frozen=True):
    """What a call is to hold of its budgets.

    Attributes:
        prices: those that each budget is charged at; None for one in tokens.
        output: tokens of answer to ask for at most; None if no budget limits them.
    """

    held: tuple[Held, ...]
    prices: tuple[ModelCost | None, ...]
    output: int | None


class Refusal(Struct, frozen=True):
    """The budget that a call has no money of.

    Attributes:
        why: `exhausted`: it is used up; `reserved`: calls that are under way hold the rest; `paused`: a
            person has paused it; `unpriced`: the model's price is not known.
        needed: the least that the call needs.
    """

    standing: Standing
    why: Literal["exhausted", "reserved", "paused", "unpriced"]
    needed: int = 0


def plan_call(
    standings: Sequence[Standing], cost: ModelCost | None, input_tokens: int, most_output: int | None
) -> Reservation | Refusal:
    """Plan what a call holds of each budget: the strictest one decides how long its answer may be.

    Args:
        cost: the model's prices; None if they are not known.
        input_tokens: the estimated size of the prompt.
        most_output: the longest answer that the model gives, in tokens; None if that is not known.
    """
    rates: list[tuple[Standing, ModelCost | None, int, float]] = []
    output = UNKNOWN_OUTPUT if most_output is None else most_output
    limited = False
    for standing in standings:
        if standing.status == "disabled":
            continue
        if standing.status == "paused":
            return Refusal(standing, "paused")
        price = (cost or standing.unpriced) if standing.currency == "usd" else None
        if standing.currency == "usd" and price is None:
            return Refusal(standing, "unpriced")
        fixed, per_output = _rates(standing.currency, price, input_tokens)
        least = LEAST_OUTPUT if most_output is None else min(LEAST_OUTPUT, most_output)
        needed = fixed + math.ceil(least * per_output)
        room = standing.balance - standing.reserved
        if needed > max(0, standing.balance):  # a call that costs nothing needs nothing
            return Refusal(standing, "exhausted", needed)
        if needed > max(0, room):
            return Refusal(standing, "reserved", needed)
        rates.append((standing, price, fixed, per_output))
        if per_output > 0:
            left = room - fixed
            fair = max(min(left, FAIR_OUTPUT * per_output), left / FAIR_SHARE)
            affordable = max(least, math.floor(fair / per_output))
            limited = limited or most_output is None or affordable < output
            output = min(output, affordable)
    held = tuple(
        Held(each.id, each.shard, each.currency, fixed + math.ceil(output * per))
        for each, _, fixed, per in rates
    )
    return Reservation(held, tuple(price for _, price, _, _ in rates), output if limited else None)


def _rates(currency: Currency, price: ModelCost | None, input_tokens: int) -> tuple[int, float]:
    """What the prompt costs at most, and what each token of the answer does."""
    if currency == "tokens" or price is None:
        return input_tokens, 1.0
    per_input, per_output = highest_prices(price, input_tokens)
    return math.ceil(input_tokens * per_input), per_output


def charge(price: ModelCost | None, usage: Usage) -> int:
    """Return what a call costs a budget; `price`: None of one in tokens."""
    return usage.input_tokens + usage.output_tokens if price is None else charge_of(price, usage)


def said_of(standing: Standing) -> tuple[BudgetId, float, float, Currency, float | None]:
    """What every event says of a budget."""
    currency, soft = standing.currency, standing.soft_limit
    return (
        standing.id,
        amount_of(currency, standing.balance),
        amount_of(currency, standing.limit),
        currency,
        None if soft is None else amount_of(currency, soft),
    )


def amount_of(currency: Currency, amount: int) -> float:
    """Return an amount as clients see it: in US dollars, or tokens."""
    return to_usd(amount) if currency == "usd" else amount


def shown(currency: Currency, amount: int) -> str:
    """Return an amount for people."""
    if currency == "tokens":
        return f"{amount:,} tokens"
    usd = to_usd(amount)
    return f"${usd:,.2f}" if usd == round(usd, 2) else f"${usd:,.6f}".rstrip("0")
