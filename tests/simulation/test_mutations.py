"""The simulation detects every mutation of the server."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.simulation import mutations_parked
from tests.simulation.effect_mutations import EFFECT_MUTATIONS
from tests.simulation.handoff_mutations import HANDOFF_MUTATIONS
from tests.simulation.mutations import MUTATIONS
from tests.simulation.mutations_busy import BUSY_MUTATIONS
from tests.simulation.mutations_patience import PATIENCE_MUTATIONS
from tests.simulation.output_mutations import OUTPUT_MUTATIONS
from tests.simulation.scenarios import HANDED, TYPED, by_name
from tests.simulation.schedule import Violation, drawn, listed
from tests.simulation.store import Store
from tests.soak import sampled

pytestmark = pytest.mark.unmeasured  # `test_drawn` measures the same code

RARE = {"an_outcome_is_kept_although_its_call_got_a_result_before": 2457}
"""By mutation: a seed that detects it, where few do. Schedules are drawn from there on."""
SEEDS = 1000
"""Schedules within which each mutation must be detected: as many as `make test` plays in `test_drawn`."""


@pytest.mark.parametrize(
    "mutation",
    sampled([*MUTATIONS, *mutations_parked.MUTATIONS, *BUSY_MUTATIONS, *PATIENCE_MUTATIONS]),
    ids=lambda mutation: mutation.__name__,
)
def test_the_simulation_detects_the_mutation(
    mutation: Callable[[pytest.MonkeyPatch], None], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    _check_detected(lambda: _play_all(store, RARE.get(mutation.__name__, 0)))


@pytest.mark.parametrize("mutation", sampled(EFFECT_MUTATIONS), ids=lambda mutation: mutation.__name__)
def test_the_simulation_detects_the_mutation_of_effects(
    mutation: Callable[[pytest.MonkeyPatch], None], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    _check_detected(lambda: _crash_everywhere(store))


@pytest.mark.parametrize("mutation", OUTPUT_MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_the_simulation_detects_the_mutation_of_typed_results(
    mutation: Callable[[pytest.MonkeyPatch], None], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    _check_detected(lambda: _play_typed(store))


@pytest.mark.parametrize("mutation", sampled(HANDOFF_MUTATIONS, 3), ids=lambda mutation: mutation.__name__)
def test_the_simulation_detects_the_mutation_of_handoffs(
    mutation: Callable[[pytest.MonkeyPatch], None], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    _check_detected(lambda: _crash_everywhere(store, *(scenario.name for scenario in HANDED)))


def _check_detected(play: Callable[[], None]) -> None:
    with pytest.raises(Violation) as found:
        play()
    assert not re.search("TypeError|AttributeError|NameError", str(found.value)), (
        "the mutation itself is broken"
    )


def _play_all(store: Store, first: int = 0) -> None:
    for seed in range(first, first + SEEDS):
        drawn(seed).play(store)


def _play_typed(store: Store) -> None:
    for scenario in TYPED:
        listed(scenario, {}).play(store)


def _crash_everywhere(store: Store, *names: str) -> None:
    """Play these scenarios, or those with effects, with a crash and a fault at each point."""
    for name in names or ("asked", "steps", "rounds", "posted"):
        undisturbed = listed(by_name(name), {})
        undisturbed.play(store)
        for point in range(undisturbed.points):
            for kind in ("crash", "fault"):
                listed(by_name(name), {point: kind}).play(store)
