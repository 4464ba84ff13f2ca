"""Trees of sessions: anything that happens at any point, each end is told once (promise P12).

`PERDURE_SIMULATION_SEED='tree 17'` plays the one schedule that a failure names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

from tests.simulation.scenarios import Scenario
from tests.simulation.schedule import Violation
from tests.simulation.store import Store
from tests.simulation.tree_mutations import FOCUS, TREE_MUTATIONS
from tests.simulation.trees import TREE_KINDS, TREES, drawn_tree, focused_tree, listed_tree, named_tree
from tests.soak import SCALE, amounts, sampled

SEEDS = 1000
"""Schedules within which each mutation must be detected."""
COUNT, SOAK = 250, 2_000 * SCALE
NAMED = os.environ.get("PERDURE_SIMULATION_SEED")
LONG = 200
"""A scenario with more points is long: it is played five times more thinly."""
SAMPLE = 97
"""`make test` plays one point in 97; each kind of injection starts at another one."""


def _batches() -> list[object]:
    if NAMED:
        return [pytest.param(None, id=NAMED)]
    soak = pytest.param(range(COUNT, SOAK), marks=(pytest.mark.soak, pytest.mark.unmeasured), id="soak")
    return [pytest.param(range(COUNT), id="sample"), soak]


@pytest.mark.parametrize("seeds", _batches())
def test_each_end_is_told_once_in_every_drawn_schedule(seeds: range | None, watched: Store) -> None:
    if seeds is None:
        named_tree(NAMED or "").play(watched)
        return
    _play(seeds, watched)


@pytest.mark.parametrize("every", amounts(SAMPLE, 9 if SCALE == 1 else 3))
@pytest.mark.parametrize("scenario", TREES, ids=lambda scenario: scenario.name)
def test_each_end_is_told_once_with_any_injection_at_any_point(
    scenario: Scenario, every: int, watched: Store
) -> None:
    undisturbed = listed_tree(scenario, {})
    undisturbed.play(watched)
    step = every * 5 if undisturbed.points > LONG else every
    for number, kind in enumerate(TREE_KINDS):
        for point in range((number * 7) % step, undisturbed.points, step):
            listed_tree(scenario, {point: kind}).play(watched)


@pytest.mark.unmeasured
@pytest.mark.parametrize("mutation", sampled(TREE_MUTATIONS), ids=lambda mutation: mutation.__name__)
def test_the_simulation_detects_the_mutation_of_trees(
    mutation: Callable[[pytest.MonkeyPatch], None], watched: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    with pytest.raises(Violation) as found:
        _play_all(watched, *FOCUS.get(mutation.__name__, ()))
    assert not re.search("TypeError|AttributeError|NameError", str(found.value)), "the mutation is broken"


def _play_all(store: Store, name: str = "", kinds: tuple[str, ...] = ()) -> None:
    for seed in range(SEEDS if kinds else 0):
        focused_tree(name, kinds, seed).play(store)
    for scenario in TREES:
        listed_tree(scenario, {}).play(store)
    _play(range(SEEDS), store)


def _play(seeds: range, store: Store) -> None:
    for seed in seeds:
        drawn_tree(seed).play(store)
