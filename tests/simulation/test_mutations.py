"""The simulation detects every mutation of the server."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.simulation import mutations_parked
from tests.simulation.mutations import MUTATIONS
from tests.simulation.schedule import Violation, drawn
from tests.simulation.store import Store

pytestmark = pytest.mark.no_cover  # `test_drawn` measures the same code

SEEDS = 400
"""Schedules within which each mutation must be detected: fewer than `make test` plays in `test_drawn`."""


@pytest.mark.parametrize(
    "mutation", [*MUTATIONS, *mutations_parked.MUTATIONS], ids=lambda mutation: mutation.__name__
)
def test_the_simulation_detects_the_mutation(
    mutation: Callable[[pytest.MonkeyPatch], None], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    with pytest.raises(Violation) as found:
        _play_all(store)
    assert not re.search("TypeError|AttributeError|NameError", str(found.value)), (
        "the mutation itself is broken"
    )


def _play_all(store: Store) -> None:
    for seed in range(SEEDS):
        drawn(seed).play(store)
