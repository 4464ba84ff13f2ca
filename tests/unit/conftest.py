"""What the suites here share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.rooms import Room


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    """A session that is not open yet."""
    made = Room(tmp_path)
    yield made
    await made.opened.aclose()
