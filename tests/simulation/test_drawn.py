"""Plays schedules that are drawn at random: any scenario, with many injections at any points.

`PERDURE_SIMULATION_SEED=name` plays the one schedule that a failure names.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.schedule import drawn, named
from tests.simulation.store import Store
from tests.soak import SCALE

COUNT, SOAK = 1000, 8_000 * SCALE
"""Seeds that `make test` plays, and those up to which the soak goes on."""
NAMED = os.environ.get("PERDURE_SIMULATION_SEED")
PARTS = 4


def _batches() -> list[object]:
    if NAMED:
        return [pytest.param([NAMED], id=NAMED)]
    return [
        pytest.param(
            [str(seed) for seed in range(first + part, end, PARTS)],
            # One part measures coverage; the others run the same code.
            marks=(*marks, pytest.mark.unmeasured) if part else marks,
            id=f"{name}-{part}",
        )
        for name, first, end, marks in (
            ("sample", 0, COUNT, ()),
            ("soak", COUNT, SOAK, (pytest.mark.soak,)),
        )
        for part in range(PARTS)
    ]


@pytest.mark.parametrize("names", _batches())
def test_the_promises_hold_in_every_drawn_schedule(names: list[str], store: Store) -> None:
    for name in names:
        named(name).play(store)


@pytest.mark.parametrize("seed", range(0, 200, 20))
def test_a_seed_always_plays_the_same_history(seed: int, store: Store) -> None:
    assert drawn(seed).play(store).trace == drawn(seed).play(store).trace
