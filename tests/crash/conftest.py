"""Fixtures of the tests that kill servers."""

from __future__ import annotations

import pytest

from tests.server import MEASURED


@pytest.fixture(autouse=True)
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not measure coverage: a killed server cannot write it down."""
    monkeypatch.delenv(MEASURED, raising=False)
