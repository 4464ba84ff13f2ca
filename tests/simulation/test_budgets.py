"""Trees of sessions under budgets: whatever happens at any point, no limit is passed, and nothing is lost.

`PERDURE_SIMULATION_SEED='budget 17'` plays the one schedule that a failure names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

from tests.simulation.budget_mutations import BUDGET_FOCUS, BUDGET_MUTATIONS
from tests.simulation.budgets import (
    BUDGET_KINDS,
    BUDGETED,
    FORTY,
    drawn_budgets,
    focused_budgets,
    listed_budgets,
    named_budgets,
)
from tests.simulation.scenarios import Scenario
from tests.simulation.schedule import Violation
from tests.simulation.store import Store
from tests.soak import SCALE, amounts, sampled

SEEDS = 60
"""Schedules within which each mutation must be detected."""
COUNT, SOAK = 24, 300 * SCALE
NAMED = os.environ.get("PERDURE_SIMULATION_SEED")
SAMPLE = 211
"""`make test` plays one point in 211; each kind of injection starts at another one."""


def _batches() -> list[object]:
    if NAMED:
        return [pytest.param(None, id=NAMED)]
    soak = pytest.param(range(COUNT, SOAK), marks=(pytest.mark.soak, pytest.mark.unmeasured), id="soak")
    return [pytest.param(range(COUNT), id="sample"), soak]


@pytest.mark.parametrize("seeds", _batches())
def test_no_limit_is_passed_in_any_drawn_schedule(seeds: range | None, watched: Store) -> None:
    if seeds is None:
        named_budgets(NAMED or "").play(watched)
        return
    for seed in seeds:
        drawn_budgets(seed).play(watched)


@pytest.mark.parametrize("every", amounts(SAMPLE, 17))
@pytest.mark.parametrize("scenario", BUDGETED, ids=lambda scenario: scenario.name)
def test_no_limit_is_passed_with_any_injection_at_any_point(
    scenario: Scenario, every: int, watched: Store
) -> None:
    undisturbed = listed_budgets(scenario, {})
    undisturbed.play(watched)
    for number, kind in enumerate(BUDGET_KINDS):
        for point in range((number * 7) % every, undisturbed.points, every):
            listed_budgets(scenario, {point: kind}).play(watched)


@pytest.mark.parametrize("every", amounts(401, 41))
def test_forty_children_race_for_one_budget_with_a_crash_at_any_point(every: int, watched: Store) -> None:
    undisturbed = listed_budgets(FORTY, {})
    undisturbed.play(watched)
    for point in range(0, undisturbed.points, every):
        listed_budgets(FORTY, {point: "crash", point + 300: "crash"}).play(watched)


@pytest.mark.unmeasured
@pytest.mark.parametrize("mutation", sampled(BUDGET_MUTATIONS), ids=lambda mutation: mutation.__name__)
def test_the_simulation_detects_the_mutation_of_money(
    mutation: Callable[[pytest.MonkeyPatch], None], watched: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    with pytest.raises(Violation) as found:
        _play_all(watched, *BUDGET_FOCUS.get(mutation.__name__, ()))
    assert not re.search("TypeError|AttributeError|NameError", str(found.value)), "the mutation is broken"


def _play_all(store: Store, name: str = "", kinds: tuple[str, ...] = ()) -> None:
    for seed in range(SEEDS if kinds else 0):
        focused_budgets(name, kinds, seed).play(store)
    for scenario in BUDGETED:
        listed_budgets(scenario, {}).play(store)
    for seed in range(SEEDS):
        drawn_budgets(seed).play(store)
