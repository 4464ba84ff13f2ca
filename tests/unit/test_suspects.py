"""Suspects start after everybody else, one at a time, the least suspected first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from perdure.engine.suspects import ALONE, SETTLE, Suspects
from tests.simulation.loop import VirtualLoop, run_virtually


class _Clock:
    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def elapsed(self) -> float:
        return self._loop.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


Scene = Callable[[Suspects, _Clock], Coroutine[Any, Any, None]]


def play(scene: Scene) -> None:
    async def main(loop: VirtualLoop) -> None:
        await scene(Suspects(), _Clock(loop))

    run_virtually(main)


def test_the_least_suspected_start_first_and_each_waits_for_the_one_before() -> None:
    async def scene(suspects: Suspects, clock: _Clock) -> None:
        began: list[tuple[int, float]] = []

        async def suspect(recoveries: int) -> None:
            admission = await suspects.admit(recoveries, clock)
            began.append((recoveries, clock.elapsed()))
            await clock.sleep(10)
            admission.end()

        await asyncio.gather(*(suspect(recoveries) for recoveries in (3, 1, 2)))
        assert began == [(1, SETTLE), (2, SETTLE + 10), (3, SETTLE + 20)]

    play(scene)


def test_a_suspect_that_makes_no_progress_holds_up_the_next_one_for_a_minute_only() -> None:
    async def scene(suspects: Suspects, clock: _Clock) -> None:
        await suspects.admit(1, clock)
        await suspects.admit(1, clock)
        assert clock.elapsed() == pytest.approx(SETTLE + ALONE)

    play(scene)


def test_a_suspect_that_is_cancelled_while_it_waits_does_not_hold_up_the_next_one() -> None:
    async def scene(suspects: Suspects, clock: _Clock) -> None:
        first = await suspects.admit(1, clock)
        waiting = [asyncio.ensure_future(suspects.admit(1, clock)) for _ in range(2)]
        await clock.sleep(5)
        waiting[0].cancel()
        first.end()
        await asyncio.wait(waiting)
        assert not waiting[1].cancelled()
        assert clock.elapsed() == pytest.approx(SETTLE + 5)

    play(scene)


def test_an_excuse_counts_once() -> None:
    suspects = Suspects()
    assert not suspects.take_excuse("session_1")
    suspects.excuse("session_1")
    assert [suspects.take_excuse("session_1") for _ in range(2)] == [True, False]
