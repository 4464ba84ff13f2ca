"""The simulation can fail: it notices every one of these ways to break the server."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.simulation.mutations import MUTATIONS
from tests.simulation.schedule import Violation, drawn
from tests.simulation.store import Store

SEEDS = 400
"""Schedules within which a broken server must be found out: fewer than `make test` plays in `test_drawn`."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_server_that_is_broken_like_this_is_found_out(
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
