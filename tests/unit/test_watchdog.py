"""The watchdog logs what blocks the event loop."""

from __future__ import annotations

import asyncio
import logging
import re
import time

import pytest

from perdure.worker.watchdog import watching
from tests.talk import when


def _block_in_python(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def _block_in_c() -> None:
    re.search(r"\s*x", " " * 15_000)  # holds the interpreter's lock


async def test_it_logs_the_stack_and_the_time_of_a_block(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "perdure.watchdog"), watching():
        _block_in_python(1.2)
        await when(lambda: _logged(caplog, 2))
    stack, total = (record.getMessage() for record in caplog.records)
    assert "_block_in_python" in stack
    assert re.search(r"blocked for about [1-9][0-9]*\.[0-9] seconds", total)


async def _logged(caplog: pytest.LogCaptureFixture, count: int) -> bool:
    return len(caplog.records) >= count


async def test_it_finds_a_block_inside_c_code(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "perdure.watchdog"), watching():
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            _block_in_c()
        await when(lambda: _logged(caplog, 2))
    # The thread gets the lock when the C code has returned, so the stack may be that of its caller.
    assert "in test_it_finds_a_block_inside_c_code" in caplog.records[0].getMessage()


async def test_a_loop_that_works_in_small_steps_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "perdure.watchdog"), watching():
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            _block_in_python(0.02)
            await asyncio.sleep(0)
    assert not caplog.records
