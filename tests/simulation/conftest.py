"""Fixtures of the simulation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from perdure.store.database import LOCK_ROW
from tests.simulation.store import LOCKED, Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A database for the schedules of one file of tests."""
    with Store(tmp_path_factory.mktemp("simulation")) as opened:
        yield opened


@pytest.fixture
def watched(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The database, whose locks are watched."""
    monkeypatch.setitem(LOCK_ROW, "sqlite", f" {LOCKED}")
    store.watch_locks(watched=True)
    yield store
    store.watch_locks(watched=False)
