"""Plays schedules that are drawn at random: any scenario, with many injections at any points.

`PERDURE_SIMULATIONS=n` plays the first n seeds; `PERDURE_SIMULATION_SEED=name` plays the one schedule that a
failure names.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.schedule import drawn, named
from tests.simulation.store import Store

COUNT = int(os.environ.get("PERDURE_SIMULATIONS", "4000"))
NAMED = os.environ.get("PERDURE_SIMULATION_SEED")
PARTS = 8
BATCHES = [[NAMED]] if NAMED else [[str(seed) for seed in range(part, COUNT, PARTS)] for part in range(PARTS)]


@pytest.mark.parametrize(
    "names", BATCHES, ids=[NAMED] if NAMED else [f"part-{part}" for part in range(PARTS)]
)
def test_the_promises_hold_in_every_drawn_schedule(names: list[str], store: Store) -> None:
    for name in names:
        named(name).play(store)


@pytest.mark.parametrize("seed", range(0, 200, 20))
def test_a_seed_always_plays_the_same_history(seed: int, store: Store) -> None:
    assert drawn(seed).play(store).trace == drawn(seed).play(store).trace
