"""What a model call holds of its budgets, and amounts of money."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.domain.budgets import MAX_USD
from perdure.domain.ids import BudgetId
from perdure.domain.messages import Usage
from perdure.domain.model_profiles import CostTier, ModelCost, cost_of
from perdure.domain.money import COST_DIGITS, NANOS, charge_of, highest_prices, to_nanos, to_usd
from perdure.domain.spending import (
    FAIR_OUTPUT,
    LEAST_OUTPUT,
    UNKNOWN_OUTPUT,
    Refusal,
    Reservation,
    Standing,
    charge,
    plan_call,
    shown,
)

CHEAP = ModelCost(0.1, 0.4)
DEAR = ModelCost(15.0, 75.0, cache_write=18.75)
prices = st.floats(0, 1000, allow_nan=False).map(lambda price: round(price, 4))
amounts = st.integers(0, 10**15)


def standing(**changes: object) -> Standing:
    """A budget of 10 US dollars of which nothing is spent."""
    plain = Standing(BudgetId("bdg_1"), "usd", "active", 10 * NANOS, None, 0, 0, 0, 0)
    return replace(plain, **changes)


@st.composite
def costs(draw: st.DrawFn) -> ModelCost:
    write = draw(st.none() | prices)
    tiers = sorted(draw(st.lists(st.integers(1_000, 400_000), max_size=2, unique=True)))
    first, factor = draw(prices), 1.0
    output = draw(prices)
    made = []
    for above in tiers:
        factor *= draw(st.floats(0.3, 3))
        made.append(CostTier(above, first * factor, output * factor, cache_write=write and write * factor))
    return ModelCost(first, output, cache_write=write, cost_tiers=tuple(made))


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    limit = draw(st.sampled_from([10**9, 10**12, 10**15])) + draw(amounts)
    currency = draw(st.sampled_from(["usd", "tokens"]))
    return Standing(
        BudgetId(f"bdg_{draw(st.integers(0, 10**9))}"),
        currency,
        "active",
        limit if currency == "usd" else limit // NANOS,
        None,
        draw(st.integers(0, limit)) if draw(st.booleans()) else 0,
        draw(amounts) // 10 if draw(st.booleans()) else 0,
        0,
        0,
        unpriced=draw(st.none() | costs()),
    )


@given(
    st.lists(standings(), max_size=4),
    st.none() | costs(),
    st.integers(0, 500_000),
    st.none() | st.integers(1, 200_000),
)
def test_a_call_never_holds_more_than_any_of_its_budgets_has_left(
    found: list[Standing], cost: ModelCost | None, prompt: int, most: int | None
) -> None:
    plan = plan_call(found, cost, prompt, most)
    if isinstance(plan, Refusal):
        return
    assert len(plan.held) == len(found)
    for budget, held in zip(found, plan.held, strict=True):
        assert 0 <= held.amount <= budget.balance - budget.reserved


@given(
    st.lists(standings(), min_size=1, max_size=4),
    costs(),
    st.integers(0, 500_000),
    st.integers(1, 200_000),
    st.data(),
)
def test_a_call_as_long_as_planned_costs_no_more_than_it_holds(
    found: list[Standing], cost: ModelCost, prompt: int, most: int, data: st.DataObject
) -> None:
    plan = plan_call(found, cost, prompt, most)
    if isinstance(plan, Refusal):
        return
    longest = most if plan.output is None else min(most, plan.output)
    written = data.draw(st.integers(0, prompt))
    usage = Usage(data.draw(st.integers(written, prompt)), data.draw(st.integers(0, longest)), None, written)
    for held, price in zip(plan.held, plan.prices, strict=True):
        assert charge(price, usage) <= held.amount + 1  # the sum is rounded up once


@given(
    st.lists(standings(), max_size=4), costs(), st.integers(0, 500_000), st.none() | st.integers(1, 200_000)
)
def test_another_budget_never_makes_an_answer_longer(
    found: list[Standing], cost: ModelCost, prompt: int, most: int | None
) -> None:
    together = plan_call(found, cost, prompt, most)
    for each in found:
        alone = plan_call([each], cost, prompt, most)
        if isinstance(alone, Refusal):
            assert isinstance(together, Refusal)
        elif isinstance(together, Reservation) and alone.output is not None:
            assert together.output is not None
            assert together.output <= alone.output


def test_a_call_is_refused_whose_prompt_and_a_short_answer_cost_more_than_is_left() -> None:
    needed = to_nanos(0.015 * 100 + LEAST_OUTPUT * 75 / 1e6)
    enough = standing(limit=needed)
    plan = plan_call([enough], DEAR, 80_000, None)
    assert isinstance(plan, Reservation)
    assert plan.output == LEAST_OUTPUT
    assert plan.held[0].amount == needed
    refused = plan_call([standing(limit=needed - 1)], DEAR, 80_000, None)
    assert refused == Refusal(standing(limit=needed - 1), "exhausted", needed)


def test_a_call_for_which_others_hold_the_rest_is_refused_for_now_only() -> None:
    busy = standing(reserved=10 * NANOS)
    refused = plan_call([busy], CHEAP, 100, None)
    assert isinstance(refused, Refusal)
    assert refused.why == "reserved"


def test_a_model_whose_longest_answer_is_short_needs_money_only_for_that() -> None:
    plan = plan_call([standing(limit=to_nanos(100 * 75 / 1e6))], DEAR, 0, 100)
    assert isinstance(plan, Reservation)
    assert plan.output is None


@pytest.mark.parametrize(("status", "why"), [("paused", "paused"), ("disabled", None)])
def test_a_paused_budget_refuses_and_a_disabled_one_is_not_asked(status: str, why: str | None) -> None:
    plan = plan_call([standing(status=status, limit=0)], CHEAP, 1, None)
    assert (plan.why if isinstance(plan, Refusal) else None) == why
    assert isinstance(plan, Refusal) or plan.held == ()


def test_a_model_without_a_price_is_refused_under_a_budget_in_dollars_that_names_no_price() -> None:
    refused = plan_call([standing()], None, 1, None)
    assert isinstance(refused, Refusal)
    assert refused.why == "unpriced"
    named = plan_call([standing(unpriced=CHEAP)], None, 1, None)
    assert isinstance(named, Reservation)
    assert named.prices == (CHEAP,)
    in_tokens = plan_call([standing(currency="tokens", limit=10_000)], None, 1, None)
    assert isinstance(in_tokens, Reservation)


def test_one_call_leaves_others_a_part_of_a_large_budget() -> None:
    plan = plan_call([standing()], DEAR, 0, None)
    assert isinstance(plan, Reservation)
    assert plan.output is not None
    assert plan.output >= FAIR_OUTPUT
    assert plan.held[0].amount <= 10 * NANOS // 4 + 1


def test_a_long_answer_of_an_unknown_model_is_limited_however_much_is_left() -> None:
    plan = plan_call([standing(limit=10**6 * NANOS)], CHEAP, 0, None)
    assert isinstance(plan, Reservation)
    assert plan.output == UNKNOWN_OUTPUT
    assert plan.held[0].amount == to_nanos(UNKNOWN_OUTPUT * 0.4 / 1e6)


def test_a_free_model_is_called_whatever_is_left() -> None:
    plan = plan_call([standing(spent=11 * NANOS)], ModelCost(0.0, 0.0), 100, None)
    assert isinstance(plan, Reservation)
    assert (plan.held[0].amount, plan.output) == (0, None)


# --- money ------------------------------------------------------------------------


@given(st.integers(0, MAX_USD * 1000).map(lambda mills: mills / 1000))
def test_an_amount_in_dollars_survives_as_billionths(usd: float) -> None:
    assert to_usd(to_nanos(usd)) == pytest.approx(usd, abs=1e-6, rel=1e-12)


@given(st.decimals(0, 10_000, places=9))
def test_billionths_are_exact(usd: Decimal) -> None:
    assert to_nanos(float(usd)) == int(usd * NANOS)


@given(costs(), st.integers(0, 300_000), st.integers(0, 50_000))
def test_a_charge_is_never_less_than_the_cost_and_at_most_a_billionth_more(
    cost: ModelCost, tokens: int, answer: int
) -> None:
    exact = cost_of(cost, Usage(tokens, answer)) * NANOS
    paid = charge_of(cost, Usage(tokens, answer))
    assert -0.051 - exact * 1e-12 <= paid - exact <= 1.051 + exact * 1e-12
    # The ledger has what the log says, and the sums must be the same.
    assert paid == to_nanos(round(exact / NANOS, COST_DIGITS))


@given(costs(), st.integers(0, 300_000), st.integers(0, 50_000), st.data())
def test_no_call_of_that_size_costs_more_than_the_highest_prices(
    cost: ModelCost, tokens: int, answer: int, data: st.DataObject
) -> None:
    written = data.draw(st.integers(0, tokens))
    per_input, per_output = highest_prices(cost, tokens)
    most = math.ceil(tokens * per_input) + math.ceil(answer * per_output)
    assert charge_of(cost, Usage(tokens, answer, None, written)) <= most + 1 + most // 10**12
    counted = data.draw(st.integers(0, tokens * 5 // 4))  # what the vendor counts, of the estimate
    most = math.ceil(counted * per_input) + math.ceil(answer * per_output)
    assert charge_of(cost, Usage(counted, answer)) <= most + 1 + most // 10**12


def test_amounts_are_shown_for_people() -> None:
    assert shown("usd", to_nanos(12.5)) == "$12.50"
    assert shown("usd", 1_200_000) == "$0.0012"
    assert shown("tokens", 12_000) == "12,000 tokens"
