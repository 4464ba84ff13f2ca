"""Fixtures of the simulation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A database for the schedules of one file of tests."""
    with Store(tmp_path_factory.mktemp("simulation")) as opened:
        yield opened
