"""Work on the same thing that comes at the same time."""

from __future__ import annotations

import asyncio

import pytest

from perdure.app.together import AT_ONCE, Together


class Bad(Exception):
    """What work on an odd number raises."""


class Work:
    """Doubles numbers, and remembers which came together."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, items: list[int]) -> list[int]:
        self.calls.append(items)
        await self.gate.wait()
        if any(each % 2 for each in items):
            raise Bad
        return [2 * each for each in items]


async def test_what_comes_at_the_same_time_is_done_together_by_key() -> None:
    together, work = Together(), Work()
    keys = ["a"] * 3 + ["b"]
    found = await asyncio.gather(
        *(together.work_on(key, 2 * number, work) for number, key in enumerate(keys))
    )
    assert found == [0, 4, 8, 12]
    assert sorted(work.calls) == [[0, 2, 4], [6]]
    assert await together.work_on("a", 10, work) == 20
    assert work.calls[-1] == [10]


async def test_no_more_than_a_number_of_items_are_done_together() -> None:
    together, work = Together(), Work()
    numbers = range(0, 2 * (AT_ONCE + 3), 2)
    found = await asyncio.gather(*(together.work_on("a", each, work) for each in numbers))
    assert found == [2 * each for each in numbers]
    assert [len(call) for call in work.calls] == [AT_ONCE, 3]


async def test_an_item_that_fails_fails_no_other() -> None:
    together, work = Together(), Work()
    found = await asyncio.gather(
        *(together.work_on("a", each, work) for each in (2, 3, 4)), return_exceptions=True
    )
    assert (found[0], found[2]) == (4, 8)
    assert isinstance(found[1], Bad)
    assert sorted(work.calls[1:]) == [[2], [3], [4]]


async def test_what_comes_later_does_not_wait_for_work_that_has_begun() -> None:
    together, work = Together(), Work()
    work.gate.clear()
    first = asyncio.create_task(together.work_on("a", 2, work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = asyncio.create_task(together.work_on("a", 4, work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert work.calls == [[2], [4]]
    work.gate.set()
    assert (await first, await second) == (4, 8)


@pytest.mark.parametrize("begun", [False, True], ids=["before it begins", "at work"])
async def test_the_others_are_done_when_whoever_works_on_them_is_cancelled(begun: bool) -> None:
    together, work = Together(), Work()
    work.gate.clear()
    first, *others = [asyncio.create_task(together.work_on("a", each, work)) for each in (2, 4, 6)]
    await asyncio.sleep(0)
    if begun:
        await asyncio.sleep(0)
        assert work.calls == [[2, 4, 6]]
    first.cancel()
    await asyncio.wait([first])
    work.gate.set()
    assert await asyncio.gather(*others) == [8, 12]
    assert first.cancelled()
