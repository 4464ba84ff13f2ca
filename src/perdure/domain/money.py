"""Amounts of money as integers: billionths of a US dollar. A token of the cheapest models costs a few."""

from __future__ import annotations

import math

from msgspec.structs import replace

from perdure.domain.messages import Usage
from perdure.domain.model_profiles import (
    TOKENS_PER_PRICE,
    CallPrice,
    CostTier,
    ModelCost,
    ModelProfile,
    cost_of,
    price_of,
)

NANOS = 1_000_000_000
"""Billionths per US dollar."""
COST_DIGITS = 10
"""Decimal places of a cost in US dollars: finer than a token's price, coarser than rounding errors.

Budgets are charged what the log and the ledger say, so their sums are the same."""


def to_nanos(usd: float) -> int:
    """Convert US dollars to billionths, rounded up: money is never lost by rounding."""
    # Round first: 0.1 + 0.2 is a little more than 0.3, which is not another billionth.
    return math.ceil(round(usd * NANOS, 3))


def to_usd(nanos: int) -> float:
    """Convert billionths to US dollars."""
    return nanos / NANOS


def charge_of(cost: ModelCost, usage: Usage) -> int:
    """Return what a call costs, in billionths of a US dollar."""
    return to_nanos(round(cost_of(cost, usage), COST_DIGITS))


def highest_prices(cost: ModelCost, input_tokens: int) -> tuple[float, float]:
    """Return the most that a token of input and one of output can cost, in billionths of a US dollar.

    Args:
        input_tokens: the estimated size of the prompt. A tier that begins just above it may apply, too.
    """
    if not cost.cost_tiers:
        per_input, per_output = max(cost.input, cost.cache_write or 0.0), cost.output
        return per_input * NANOS / TOKENS_PER_PRICE, per_output * NANOS / TOKENS_PER_PRICE
    tiers = [tier for tier in cost.cost_tiers if input_tokens * 1.25 > tier.above_tokens]
    prices: list[ModelCost | CostTier] = [cost, *tiers]  # a long prompt may be cheaper than a short one
    per_input = max(max(each.input, each.cache_write or 0.0) for each in prices)
    per_output = max(each.output for each in prices)
    return per_input * NANOS / TOKENS_PER_PRICE, per_output * NANOS / TOKENS_PER_PRICE


def price_at(usage: Usage | None, profile: ModelProfile | None) -> CallPrice | None:
    """What a call is charged at, if the model's price is known."""
    if usage is None or profile is None or profile.cost is None:
        return None
    return price_of(profile.cost, usage.input_tokens)


def with_cost(usage: Usage | None, profile: ModelProfile | None) -> Usage | None:
    """Add the cost to the usage, if the model's price is known."""
    if usage is None or profile is None or profile.cost is None:
        return usage
    return replace(usage, estimated_cost_usd=round(cost_of(profile.cost, usage), COST_DIGITS))
